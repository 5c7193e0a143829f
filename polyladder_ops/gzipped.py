"""Gzip in memory: packing with isal, unpacking to the last byte, and what is wrong with bytes that are not whole."""

from __future__ import annotations

import contextlib
import zlib
from typing import TYPE_CHECKING, Any, cast

from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

__all__ = ["AsItIs", "Damaged", "Gunzip", "closed", "packer"]

_PLAIN = 1 << 19  # what is unpacked at a time
_GZIP = 31  # zlib's window bits for a gzip header and trailer
_MAGIC = b"\x1f\x8b"


class Damaged(OpsError):  # noqa: N818 - a finding, not an accident
    """The stored bytes are not what a backup is made of."""


def packer() -> Any:
    """Return a compressor: `compress` each block, then `flush`."""
    return _zlib().compressobj(1, zlib.DEFLATED, _GZIP)


def _zlib() -> Any:
    """Return isal's twin of zlib, ten times faster in the same format; zlib itself where there is no wheel of it."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


class Gunzip:
    """Decompresses blocks, member after member, to the last byte."""

    def __init__(self) -> None:
        self._member: Any = None
        self._start = b""  # the first bytes of the next member, until there are enough to know it
        self._zlib = _zlib()
        self._members = 0
        self.plain_bytes = 0

    def unpacked(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield what is inside. Raise Damaged if it is not whole, or not all that there is."""
        with closed(blocks):
            for block in blocks:
                yield from self._unpacked(block)
        self._expect_end()

    def _unpacked(self, data: bytes) -> Iterator[bytes]:
        while data:
            if self._member is None:
                data = self._start + data
                self._start = b""
                if len(data) < len(_MAGIC):
                    self._start = data
                    break
                if data[:2] != _MAGIC:
                    raise Damaged(
                        "the file is not gzip"
                        if not self._members
                        else "something stands behind the gzip data",
                        detail=f"Its bytes begin with {data[:8].hex()}.",
                    )
                self._member = self._zlib.decompressobj(_GZIP)
                self._members += 1
            data = yield from self._inflated(data)

    def _inflated(self, data: bytes) -> Generator[bytes, None, bytes]:
        """Decompress, half a MB at a time; return what belongs to the next member."""
        while True:
            try:
                plain = self._member.decompress(data, _PLAIN)
            except self._zlib.error as error:
                raise Damaged("the gzip data is damaged", detail=f"{error}.") from error
            self.plain_bytes += len(plain)
            if plain:
                yield plain
            if self._member.eof:
                rest: bytes = self._member.unused_data
                self._member = None
                return rest
            data = self._member.unconsumed_tail
            if not data and len(plain) < _PLAIN:
                return b""

    def _expect_end(self) -> None:
        if self._start:
            raise Damaged(
                "something stands behind the gzip data", detail=f"Its bytes begin with {self._start.hex()}."
            )
        if self._member is not None:
            raise Damaged("the gzip data is cut", detail="It ends before its checksum.")
        if not self._members:
            raise Damaged("the file is empty")


class AsItIs:
    """Takes a file that is not compressed (the old scripts made such, too): every byte is SQL."""

    def __init__(self) -> None:
        self.plain_bytes = 0

    def unpacked(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the blocks themselves. Raise Damaged if there are none."""
        with closed(blocks):
            for block in blocks:
                self.plain_bytes += len(block)
                yield block
        if not self.plain_bytes:
            raise Damaged("the file is empty")


def closed(blocks: Iterator[bytes]) -> contextlib.AbstractContextManager[Any]:
    """Within the block the generator is used; its `finally` runs at the end, whoever leaves."""
    return contextlib.closing(cast("Generator[bytes, None, None]", blocks))
