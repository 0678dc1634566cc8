"""The gate, the cells and otter's own test files in this process: what a kernel adds takes ten seconds a submission."""

import re

from otter.test_files import ExceptionTestFile

from course import autograder, gate
from course.notebooks import notebook


def points(master, answers):
    """The points of a submission with these answers, and what the gate says about it."""
    settings = autograder.config(master)["plugins"][0]["course.gate.Gate"]
    mine = gate.Gate("", {}, settings)
    cells = mine.before_execution(notebook(master, answers, {})).cells
    env, total = {"__name__": "__main__"}, 0
    for cell in cells:
        try:
            exec(compile(re.sub(r"^( *)%.*$", r"\1pass", cell.source, flags=re.MULTILINE), "cell", "exec"), env)
        except Exception as error:  # as a notebook goes on with the next cell
            mine.lines.append(f"{type(error).__name__}: {error}")
    failed = []
    for name, text in autograder.tests(master).items():
        file = ExceptionTestFile.from_string(text, f"{name}.py")
        file.run(env)
        total += file.score
        failed += [f"{r.test_case.name}: {r.message.splitlines()[-1]}" for r in file.test_case_results if not r.passed]
    return total, mine.lines, failed
