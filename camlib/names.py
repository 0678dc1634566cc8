"""Look-ups that answer an unknown name with the nearest known ones."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import TypeVar

Value = TypeVar("Value")


def lookup(table: Mapping[str, Value], name: str, kind: str) -> Value:
    """Return `table[name]`.

    Args:
        table: what is known, by name.
        name: what was asked for.
        kind: what the table holds, for the message, as "net".

    Raises:
        UnknownName: the name is not in the table; the message holds the nearest names.
    """
    if name in table:
        return table[name]
    near = get_close_matches(name, table, n=3, cutoff=0.6)
    others = f"the nearest: {', '.join(near)}" if near else f"there are {', '.join(list(table)[:8])} …"
    raise UnknownName(f"no {kind} is called '{name}'; {others}")


class UnknownName(KeyError):
    """A name that is not in a table. Its message is plain text, without KeyError's quotes."""

    def __str__(self) -> str:
        return str(self.args[0])
