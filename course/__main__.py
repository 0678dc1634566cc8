"""The command line: python -m course build | grade | drill."""

import argparse
import secrets
import sys
from pathlib import Path

from course import autograder, notebooks
from course.drill import drill
from course.grade import grade
from course.master import NAMES, MasterError, read


def _build(arguments: argparse.Namespace) -> int:
    salt = arguments.salt or secrets.token_hex(8)
    for name in NAMES:
        master = read(name, salt)
        folder = arguments.out / name
        for part in ("student", "instructor"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        autograder.save(notebooks.student(master), folder / "student" / f"{name}.ipynb")
        autograder.save(notebooks.instructor(master), folder / "instructor" / f"{name}-solution.ipynb")
        autograder.write(master, folder / "instructor" / "autograder.zip")
        (folder / "instructor" / "rubric.md").write_text(notebooks.rubric(master), "utf8")
        people = sum(master.by_people.values())
        print(f"{name}: {master.points} points by the autograder, {people} by people; section {master.section}")
    print(
        f"in {arguments.out}; hand out what is in student/, keep instructor/. The salt, to build the same again: {salt}"
    )
    return 0


def _grade(arguments: argparse.Namespace) -> int:
    results = grade(arguments.submissions, arguments.autograder, arguments.out)
    for result in results:
        print(f"{result.name}: {'refused, ' + result.refusal if result.refusal else f'{result.points} points'}")
    print(f"in {arguments.out}: grades.csv, and a report of each of {len(results)} submissions")
    return 0


def _drill(arguments: argparse.Namespace) -> int:
    wrong = 0
    for name in arguments.names or NAMES:
        for outcome in drill(name, arguments.salt):
            fits = outcome.got == outcome.expected
            wrong += not fits
            sign = "as it must be" if fits else f"MUST BE {outcome.expected}"
            print(f"{name}: {outcome.title}: {outcome.got} points, {sign}. {outcome.notes}", flush=True)
    print(f"drills that went wrong: {wrong}")
    return 1 if wrong else 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; `arguments` are those of the command line by default. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m course", description="Assignments that grade themselves.")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name, action, about):
        added = commands.add_parser(name, help=about, description=about)
        added.set_defaults(action=action)
        return added

    build = command("build", _build, "make notebooks, solutions, autograders and rubrics for one section")
    build.add_argument(
        "--salt", metavar="SECTION", help="any text; the same one makes the same values (default: chance)"
    )
    build.add_argument("--out", metavar="DIR", type=Path, required=True)
    grader = command("grade", _grade, "grade a folder of submissions")
    grader.add_argument("submissions", metavar="FOLDER", type=Path)
    grader.add_argument("--autograder", metavar="ZIP", type=Path, required=True)
    grader.add_argument("--out", metavar="DIR", type=Path, required=True)
    drills = command("drill", _drill, "check the autograders: right, blank and wrong work must get its points")
    drills.add_argument("names", metavar="ASSIGNMENT", nargs="*")
    drills.add_argument("--salt", metavar="SECTION", default="drill")
    parsed = parser.parse_args(arguments)
    try:
        return parsed.action(parsed)
    except (MasterError, ValueError, OSError) as error:
        print(f"python -m course: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
