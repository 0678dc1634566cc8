"""Note what of camlib/ and data/ this process opens.

Python imports this at the start of every process whose PYTHONPATH holds its
folder: execute.py sets that for the kernel of a chapter and all it starts.
"""

import os
import sys

ROOT = os.path.abspath(os.path.join(__file__, *[os.pardir] * 4))
CAMLIB, DATA = (os.path.join(ROOT, name, "") for name in ("camlib", "data"))


def note_reads(target):
    """Append to `target` each file that is opened, and each folder of data/ that is listed, once."""
    # Through a descriptor: opening the list anew would be noted itself.
    out = os.open(target, os.O_APPEND | os.O_CREAT | os.O_WRONLY)
    seen = set()

    def hook(event, arguments):
        if event not in ("open", "os.listdir", "os.scandir"):
            return
        if not isinstance(arguments[0], str | bytes | os.PathLike):
            return  # a descriptor
        path = os.path.abspath(os.fsdecode(arguments[0]))
        # Every import lists camlib/: a new module there changes nothing.
        watched = (CAMLIB, DATA) if event == "open" else DATA
        if path not in seen and os.path.join(path, "").startswith(watched):
            seen.add(path)
            os.write(out, f"{os.path.relpath(path, ROOT)}\n".encode())

    sys.addaudithook(hook)


if "CHAPTER_READS" in os.environ:
    note_reads(os.environ["CHAPTER_READS"])
