"""Bounds on what compressed pieces of data unpack to, found without the memory for all of it."""

from __future__ import annotations

import zlib

_STEP = 1 << 20


def inflates_beyond(packed: bytes, limit: int, window: int = zlib.MAX_WBITS) -> bool:
    """Whether a deflate stream unpacks to more than a number of bytes; a damaged one does not.

    Parameters
    ----------
    packed
        Stream; what follows its end is ignored.
    limit
        Bytes.
    window
        Form of the stream's head, see :func:`zlib.decompressobj`.
    """
    stream = zlib.decompressobj(window)
    held, rest = 0, packed
    while held <= limit and not stream.eof:
        try:
            unpacked = stream.decompress(rest, _STEP)
        except zlib.error:
            return False
        if not unpacked and not stream.unconsumed_tail:
            return False
        held += len(unpacked)
        rest = stream.unconsumed_tail
    return held > limit
