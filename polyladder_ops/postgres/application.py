"""What sessions call themselves: ours all begin alike, and who has no name of his own bears a mark of ours in a marked database.

The mark (`marks.py`) is a setting `application_name` of our role in that database, so it is the name of every session of
that role there that gives itself none: an app's, a script's.
"""

from __future__ import annotations

__all__ = ["MARK", "OURS", "shown"]

MARK = "polyladder-ops mark: "
"""What the text of a mark begins with."""
OURS = f"^polyladder-ops(?!{MARK.removeprefix('polyladder-ops')})"
"""What the names of our own sessions match, for the server."""


def shown(name: str) -> str:
    """Return what a session calls itself; empty if it has no name of its own."""
    return "" if name.startswith(MARK) else name
