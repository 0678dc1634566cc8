"""The picture of README.md, drawn anew from the kept nets and the records.

python book/_tools/front.py
"""

import sys
from pathlib import Path

BOOK = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(BOOK / "_ext"))

import generated  # noqa: E402

if __name__ == "__main__":
    figure, text, _ = generated.front()
    figure.savefig(BOOK / "_static/front.png", dpi=120, facecolor="white")
    print(text)
