"""Grade one submission in a process of its own: python -m course.one AUTOGRADER.zip SUBMISSION.ipynb RESULT.json"""

import json
import resource
import sys
from pathlib import Path

from otter.api import grade_submission

MEMORY = 6 * 2**30  # bytes that a submission may allocate
FILE = 2**28  # bytes of any file that it may write


def main(autograder: str, submission: str, result: str) -> None:
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE, FILE))
    graded = grade_submission(submission, autograder, quiet=True)
    report = graded.get_plugin_data("course") or {}
    broken = (
        None
        if not graded.has_catastrophic_failure()
        else "the kernel gave no results: it ran out of memory or was killed"
    )
    Path(result).write_text(
        json.dumps(
            {
                "refusal": report.get("refusal") or (broken if graded.has_catastrophic_failure() else None),
                "lines": report.get("lines", []),
                "tests": [
                    {
                        "answer": file.name,
                        "title": case.test_case.name,
                        "points": case.test_case.points if case.passed else 0,
                        "of": case.test_case.points,
                        "why": "" if case.passed else (case.message or "").strip().splitlines()[-1],
                    }
                    for file in graded.results.values()
                    for case in file.test_case_results
                ],
            }
        ),
        "utf8",
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
