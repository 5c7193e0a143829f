"""How a stored expression casts, where the cast says otherwise today.

`a::bytea` is written alike whatever it does. Made before `CREATE CAST (text AS bytea) WITHOUT FUNCTION` it goes through
text, made after it the bytes stay as they are; and no dependency says which. A dump makes its casts before all
expressions but those of domains, so that a copy's does what the cast says: where the source's does not, they differ.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from dataclasses import field as kept
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["otherwise"]

# By the node that casts: the method as in pg_cast (`e`: no cast's own), the words for it.
_METHODS = {
    "RELABELTYPE": ("b", "without a function"),
    "COERCEVIAIO": ("i", "through text"),
    "FUNCEXPR": ("f", "with a function"),
    "ARRAYCOERCEEXPR": ("e", "each element"),
}
_CAST_FORMATS = ("1", "2")  # a call that is written as a cast, or not at all
# Where nodes say of what type they are. What is missing here is not known, and passed over.
_TYPES = ("vartype", "consttype", "paramtype", "typeId", "funcresulttype", "opresulttype", "resulttype", "casetype",
          "coalescetype", "minmaxtype", "aggtype", "wintype", "array_typeid", "refrestype", "refelemtype")  # fmt: skip
_WORD = re.compile(r"[{}()]|(?:\\.|[^\s{}()\\])++", re.DOTALL)


@dataclass
class _Node:
    """A node of a tree: its own words by their fields, and of what type the first node in each field is."""

    kind: str = ""
    field: str = ""
    words: dict[str, str] = kept(default_factory=dict)
    operands: dict[str, str] = kept(default_factory=dict)

    @property
    def type(self) -> str:
        """Its type's oid; empty if that is not known."""
        if self.kind.startswith("COLLATE"):
            return self.operands.get("arg", "")
        return next((self.words[name] for name in _TYPES if name in self.words), "")


def otherwise(tree: str, casts: Mapping[str, tuple[str, str]]) -> set[str]:
    """Return what an expression (a pg_node_tree) casts otherwise than these casts do.

    `casts` are by the oids of both types, `25 17`: the method, and what the cast is called.
    """
    found = set()
    for node in _nodes(tree):
        method, how = _METHODS.get(node.kind, ("", ""))
        if not method or node.words.get("funcformat", "1") not in _CAST_FORMATS:
            continue
        operand = node.operands.get("arg") or node.operands.get("args", "")
        today, name = casts.get(f"{operand} {node.type}", (method, ""))
        if today != method:
            found.add(f"{name} {how}")
    return found


def _nodes(tree: str) -> Iterator[_Node]:
    """Yield the nodes of a tree, inner ones first."""
    around: list[_Node] = []
    for word in _WORD.findall(tree):
        if word == "{":
            around.append(_Node())
        elif word == "}" and around:
            node = around.pop()
            if around:
                around[-1].operands.setdefault(around[-1].field, node.type)
            yield node
        elif not around or word in "()":
            continue
        elif not around[-1].kind:
            around[-1].kind = word
        elif word[0] == ":":
            around[-1].field = word[1:]
        else:
            around[-1].words.setdefault(around[-1].field, word)
