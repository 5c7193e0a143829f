"""What the catalog says of a database, as plain values that a manifest can hold; read by inventory and properties."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CatalogEntry"]


@dataclass(frozen=True)
class CatalogEntry:
    """One object: its kind and name, who owns it, who may do what, and a digest of its definition."""

    kind: str
    name: str
    owner: str
    grants: tuple[str, ...]
    definition: str
