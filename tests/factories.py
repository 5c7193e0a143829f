"""Values for tests: a manifest with whatever should be different in it, and backups in a folder made of such."""

from __future__ import annotations

import hashlib
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from polyladder_ops import records
from polyladder_ops.manifest import Manifest, Source
from polyladder_ops.postgres.contents import ALGORITHM, LargeObject, SequenceValue, TableData
from polyladder_ops.postgres.inventory import CatalogEntry
from polyladder_ops.postgres.properties import DatabaseProperties, Extension, Membership, Role
from polyladder_ops.records import Record

if TYPE_CHECKING:
    from pathlib import Path

NIGHT = datetime(2026, 1, 5, 2, 0, tzinfo=UTC)


def table(name: str = "public.decks", rows: int = 3, digest: str = "0" * 32) -> TableData:
    return TableData(name, "(id, title)", rows, rows * 10, digest, has_huge_rows=False)


def role(name: str = "app", **changes: Any) -> Role:
    usual: dict[str, Any] = {
        "name": name,
        "superuser": False,
        "inherit": True,
        "createrole": False,
        "createdb": False,
        "login": True,
        "replication": False,
        "bypassrls": False,
        "connection_limit": -1,
        "valid_until": "",
        "settings": (),
        "comment": "",
        "memberships": (Membership("readers", admin=False, inherit=True, set=True, grantor="postgres"),),
    }
    return Role(**{**usual, **changes})


def properties(**changes: Any) -> DatabaseProperties:
    usual: dict[str, Any] = {
        "owner": "app",
        "encoding": "UTF8",
        "collate": "C",
        "ctype": "C",
        "locale_provider": "libc",
        "locale": "",
        "icu_rules": "",
        "collation_version": "",
        "tablespace": "pg_default",
        "connection_limit": -1,
        "is_template": False,
        "grants": (),
        "comment": "",
        "settings": (("", "work_mem", "8MB"),),
        "security_labels": (),
    }
    return DatabaseProperties(**{**usual, **changes})


def source(**changes: Any) -> Source:
    usual: dict[str, Any] = {
        "system_identifier": "7400000000000000001",
        "database": "polyladder",
        "database_oid": 16384,
        "server_version": "18.6",
        "server_major": 18,
        "client_version": "18.6",
        "tool_version": "0.1.0",
    }
    return Source(**{**usual, **changes})


def manifest(**changes: Any) -> Manifest:
    """Return a manifest; its id and file follow from `taken_at` and `encrypted` unless they are given."""
    taken_at: datetime = changes.get("taken_at", NIGHT)
    named = changes.get("id", f"polyladder_{taken_at:%Y%m%d_%H%M%S}")
    encrypted = changes.get("encrypted", False)
    usual: dict[str, Any] = {
        "id": named,
        "file": f"{named}.sql.gz.age" if encrypted else f"{named}.sql.gz",
        "site": "production",
        "source": source(),
        "taken_at": taken_at,
        "finished_at": taken_at + timedelta(minutes=2),
        "snapshot": "100:100:",
        "wal_position": "0/1000000",
        "tables_locked": True,
        "size_bytes": 0,
        "plain_bytes": 0,
        "sha256": hashlib.sha256(b"").hexdigest(),
        "encrypted": encrypted,
        "digest_algorithm": ALGORITHM,
        "encoding": "UTF8",
        "session": {"TimeZone": "UTC"},
        "tables": (table(),),
        "sequences": (SequenceValue("public.decks_id_seq", 3, called=True),),
        "large_objects": (LargeObject(16400, 2, "1" * 32),),
        "objects": (CatalogEntry("table", "public.decks", "app", ("SELECT to readers",), "2" * 32),),
        "extensions": (Extension("pg_trgm", "1.6", "public"),),
        "roles": (role(),),
        "properties": properties(),
        "migration_head": "0042_decks",
        "prepared_transactions": (),
        "materialized_views": (),
        "not_included": ("passwords of roles",),
        "warnings": (),
    }
    return Manifest(**{**usual, **changes})


def unchecked(text: str) -> str:
    """Return a manifest's text without the digest of itself, as older versions wrote it: a test may change it."""
    return re.sub(r',\s*"whole": "[0-9a-f]{64}"', "", text)


def put(folder: Path, data: bytes = b"data", **changes: Any) -> Manifest:
    """Lay a backup with these bytes into a folder, data and manifest, and return its manifest."""
    told = {"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest(), **changes}
    made = manifest(**told)
    (folder / made.file).write_bytes(data)
    (folder / f"{made.file}.json").write_text(made.to_json(), encoding="utf-8")
    return made


def record(folder: Path, of: Manifest, **changes: Any) -> Path:
    """Lay a record beside a backup: a passed verification unless changed."""
    usual: dict[str, Any] = {
        "kind": "verify",
        "backup": of.id,
        "sha256": of.sha256,
        "at": NIGHT + timedelta(hours=1),
        "by": "tests",
        "level": "stored",
        "verdict": "passed",
    }
    return records.append(folder / of.file, Record(**{**usual, **changes}))
