"""Bounds on what compressed pieces of data unpack to, found without the memory for all of it.

Formats: RFC 1950 to 1952 (zlib, gzip), RFC 8878 (Zstandard), and the heads of Blosc
(https://github.com/Blosc/c-blosc) and of LZ4 as numcodecs writes it.
"""

from __future__ import annotations

import bz2
import lzma
import zlib
from collections.abc import Callable

PACKINGS = ("blosc", "bz2", "gzip", "lz4", "lzma", "zlib", "zstd")
"""Forms of compressed pieces, by the names of numcodecs."""

DEFLATE_RATIO = 1032
"""Unpacked to packed bytes of a deflate stream, at most."""

_STEP = 1 << 20
_MOST_DICTIONARY = 1 << 28
_GZIP_WINDOW = 31
_ZSTD_MAGIC = 0xFD2FB528
_ZSTD_SKIPPED = 0x184D2A50
_ZSTD_BLOCK = 1 << 17
_ZSTD_REPEATED, _ZSTD_PACKED = 1, 2


def unpacks_beyond(packed: bytes, packing: str, limit: int) -> bool:
    """Whether a compressed piece unpacks to more than a number of bytes.

    A damaged piece counts up to its damage, since its reader fails there.

    Parameters
    ----------
    packed
        Content of the piece.
    packing
        One of :data:`PACKINGS`.
    limit
        Bytes.
    """
    if packing == "blosc":
        return int.from_bytes(packed[4:8], "little") > limit
    if packing == "lz4":
        return int.from_bytes(packed[:4], "little") > limit
    if packing == "zstd":
        return _zstd_size(packed) > limit
    if packing == "bz2":
        return _streams_beyond(packed, bz2.BZ2Decompressor, limit)
    if packing == "lzma":
        # The dictionary, whose size the head of the stream states, is memory too.
        return _streams_beyond(
            packed, lambda: lzma.LZMADecompressor(memlimit=_MOST_DICTIONARY), limit
        )
    if len(packed) * DEFLATE_RATIO <= limit:
        return False
    return _inflates_beyond(packed, limit, gzip=packing == "gzip")


def _inflates_beyond(packed: bytes, limit: int, *, gzip: bool) -> bool:
    held, rest = 0, packed
    while rest and held <= limit:
        stream = zlib.decompressobj(_GZIP_WINDOW if gzip else zlib.MAX_WBITS)
        while not stream.eof and held <= limit:
            try:
                unpacked = stream.decompress(rest, _STEP)
            except zlib.error:
                return held > limit
            if not unpacked and not stream.unconsumed_tail and not stream.eof:
                return held > limit  # cut off
            held += len(unpacked)
            rest = stream.unconsumed_tail
        rest = stream.unused_data if gzip else b""
    return held > limit


def _streams_beyond(
    packed: bytes, new: Callable[[], bz2.BZ2Decompressor | lzma.LZMADecompressor], limit: int
) -> bool:
    held = 0
    while packed and held <= limit:
        stream, rest = new(), packed
        while not stream.eof and held <= limit:
            try:
                unpacked = stream.decompress(rest, _STEP)
            except lzma.LZMAError as error:
                return held > limit or "Memory" in str(error)
            except OSError:
                return held > limit
            if not unpacked and stream.needs_input and not stream.eof:
                return held > limit
            held += len(unpacked)
            rest = b""
        packed = stream.unused_data if stream.eof else b""
    return held > limit


def _zstd_size(packed: bytes) -> int:
    """Bytes that frames state to hold, or that the blocks of one that does not can hold at most."""
    place, size = 0, 0
    while place + 5 <= len(packed):
        magic = int.from_bytes(packed[place : place + 4], "little")
        if magic & 0xFFFFFFF0 == _ZSTD_SKIPPED:
            place += 8 + int.from_bytes(packed[place + 4 : place + 8], "little")
            continue
        if magic != _ZSTD_MAGIC:
            break
        descriptor = packed[place + 4]
        single = descriptor >> 5 & 1
        place += 5 + (1 - single) + (0, 1, 2, 4)[descriptor & 3]
        width = (single, 2, 4, 8)[descriptor >> 6]
        stated = int.from_bytes(packed[place : place + width], "little")
        place += width
        held, last = 0, False
        while not last and place + 3 <= len(packed):
            head = int.from_bytes(packed[place : place + 3], "little")
            last, kind, length = bool(head & 1), head >> 1 & 3, head >> 3
            held += _ZSTD_BLOCK if kind == _ZSTD_PACKED else length
            place += 3 + (1 if kind == _ZSTD_REPEATED else length)
        place += 4 * (descriptor >> 2 & 1)
        size += stated + 256 * (width == 2) if width else held
    return size
