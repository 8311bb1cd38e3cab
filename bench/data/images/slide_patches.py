"""Patches of whole slides, cut stripe by stripe and never kept on disk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal, Self

import numpy as np
from PIL import Image

from bench.data.images.patches import PatchSource, Resampling
from bench.data.images.raster import Raster
from bench.data.images.slide import SlideReader, WholeSlide
from bench.data.images.whole_slide import LARGEST_SLIDE, open_slide, slide_hash
from bench.errors import DataError
from bench.files import canonical_hash

STRIPE_SPOTS = 1024
"""Spots of a stripe: 154 MB of patches of 224 px."""

_BLACK = (0, 0, 0)
_Cut = Callable[[int, int | None, Resampling], np.ndarray]


class LevelView(Raster):
    """One level of an open slide as an image of its own, black outside as images are."""

    def __init__(self, slide: WholeSlide, number: int) -> None:
        self.path = slide.path
        self._slide = slide
        self._number = number
        level = slide.levels[number]
        self.size = (level.width, level.height)
        self.rows_together = slide.rows_together

    def crop(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """See :meth:`Raster.crop`."""
        return self._slide.read(left, top, width, height, level=self._number, outside=_BLACK)

    def thumbnail(self, side: int) -> tuple[Image.Image, float]:
        """See :meth:`Raster.thumbnail`."""
        small = self._slide.overview(side)
        return small, small.size[0] / self.size[0]

    def close(self) -> None:
        """Leave the slide open, which others read."""


@dataclass(frozen=True)
class SlidePatches(PatchSource):
    """Patches of a whole slide.

    Cut as :class:`PatchSource` cuts them, from the level that is reduced by as much as the patch
    or less: that level is read as the reduced copy of the slide that it is. A patch that is cut
    from the full resolution has the very pixels that :class:`PatchSource` gives. :meth:`cut` keeps
    nothing on disk: it is meant for one stripe of a slide at a time, see :class:`Stripes`.

    Attributes
    ----------
    reader
        Library that decodes the slide.
    reductions
        Reductions of the levels that may be read.
    size
        Width and height of the slide in pixels.
    cutter
        Gives the patches in place of reading them now.
    opened
        Slide to read from, which stays open; where None the file is opened for each reading.
    """

    reader: SlideReader = "tifffile"
    reductions: tuple[float, ...] = (1.0,)
    size: tuple[int, int] = (0, 0)
    cutter: _Cut | None = field(default=None, repr=False, compare=False)
    opened: WholeSlide | None = field(default=None, repr=False, compare=False)

    def cut(
        self, size: int, pixels: int | None = None, resampling: Resampling = "area"
    ) -> np.ndarray:
        """Patches as :meth:`PatchSource.cut` describes them, in memory.

        Returns
        -------
        (spots, pixels, pixels, 3) uint8 array, RGB

        Raises
        ------
        DataError
            As :meth:`PatchSource.cut`.
        """
        if self.cutter is not None:
            return self.cutter(size, pixels, resampling)
        return self.cut_once(range(len(self.centres)), size, pixels, resampling)

    def extent(self) -> tuple[float, float]:
        """Width and height of the slide in full-resolution pixels."""
        return self.size[0] / self.image_scale, self.size[1] / self.image_scale

    def _of(self, spots: range) -> Self:
        return replace(super()._of(spots), cutter=None)

    def _patches(
        self, size: int, pixels: int, resampling: Resampling
    ) -> Iterator[tuple[int, np.ndarray]]:
        corners = self._corners(size)
        with self._open() as slide:
            if (slide.width, slide.height) != self.size:
                raise DataError(f"{self.image}: has been replaced by another image")
            reduction = self._reduction(size, pixels)
            number = slide.level_for(reduction)
            if slide.levels[number].reduction != reduction:
                raise DataError(f"{self.image}: has been replaced by another image")
            view = LevelView(slide, number)
            # The level is a reduced copy of the slide, which patches are cut from as from any.
            of_level = replace(self, image_scale=self.image_scale / reduction)
            left, top = (corners * of_level.image_scale).T
            # Band by band, from left to right, so that each tile is decoded few times.
            for spot in np.lexsort((top, left, top // slide.rows_together)):
                yield int(spot), of_level._patch(view, corners[spot], size, pixels, resampling)

    def _open(self) -> AbstractContextManager[WholeSlide]:
        if self.opened is not None:
            return nullcontext(self.opened)
        return open_slide(self.image, self.max_image_pixels, self.reader)

    def _reduction(self, size: int, pixels: int) -> float:
        """Reduction of the level to read: the largest from which no patch has to grow."""
        most = size * self.image_scale / pixels
        return max((r for r in self.reductions if r <= most), default=self.reductions[0])


def slide_patches(
    slide: WholeSlide,
    centres: np.ndarray,
    *,
    levels: Literal["best", "full"] = "best",
    max_pixels: int = LARGEST_SLIDE,
    image_scale: float = 1.0,
) -> SlidePatches:
    """Source of patches of a slide.

    Parameters
    ----------
    slide
        Open slide; the source opens its file anew whenever it reads.
    centres
        (spots, 2) float64 full-resolution pixel (x, y).
    levels
        ``best`` reads from the level that is reduced by as much as the patches or less; ``full``
        from the full resolution alone, which gives the pixels and the keys of
        :class:`PatchSource` and decodes more.
    max_pixels
        Largest image accepted.
    image_scale
        Pixels of the slide per full-resolution pixel of the centres.

    Raises
    ------
    DataError
        The file cannot be read for its hash.
    """
    reductions: tuple[float, ...] = (1.0,)
    if levels == "best":
        reductions = tuple(sorted({level.reduction for level in slide.levels}))
    identity = slide_hash(slide.path)
    if len(reductions) > 1 or slide.reader == "openslide":
        # Part of the identity: a worker's key is made of the hash and coordinates alone.
        facts = ["whole slide", identity, slide.reader, list(reductions)]
        identity = f"sha256:{canonical_hash(facts)}"
    return SlidePatches(
        image=Path(slide.path),
        image_hash=identity,
        max_image_pixels=max_pixels,
        centres=np.asarray(centres, dtype=np.float64),
        image_scale=image_scale,
        reader=slide.reader,
        reductions=reductions,
        size=(slide.width, slide.height),
    )


def stripe_ranges(rows: np.ndarray, most: int = STRIPE_SPOTS) -> list[range]:
    """Ranges of spots that are worked on together: whole rows where they fit.

    Parameters
    ----------
    rows
        (spots,) row of each spot, from the top: never smaller than that of the spot before.
    most
        Largest number of spots in a stripe. A longer row is divided.

    Returns
    -------
    list of range
        They cover the spots in order. The same rows give the same ranges, so that work on them
        can go on where it ended.

    Raises
    ------
    ValueError
        The spots are not in the order of rows, or a stripe would hold none.

    Examples
    --------
    >>> import numpy as np
    >>> stripe_ranges(np.array([0, 0, 1, 1, 1, 2, 4, 4, 4, 4, 4]), 4)
    [range(0, 2), range(2, 6), range(6, 10), range(10, 11)]
    """
    rows = np.asarray(rows)
    if most < 1 or np.any(rows[1:] < rows[:-1]):
        raise ValueError("spots must come row by row, at least one in a stripe")
    ends = [*(np.flatnonzero(rows[1:] > rows[:-1]) + 1).tolist(), len(rows)]
    ranges: list[range] = []
    start, fitting = 0, 0
    for end in ends:
        while end - start > most:
            cut = fitting if fitting > start else start + most
            ranges.append(range(start, cut))
            start = cut
        fitting = end
    if start < len(rows):
        ranges.append(range(start, len(rows)))
    return ranges


def reading_order(centres: np.ndarray, height: float) -> tuple[np.ndarray, np.ndarray]:
    """Order of spots at any places in bands from the top, each from the left, and their bands.

    Parameters
    ----------
    centres
        (spots, 2) pixel (x, y).
    height
        Of a band in pixels.

    Returns
    -------
    tuple of arrays
        (spots,) int64 indices of spots in the order of reading; (spots,) int64 band of each of
        these, as :func:`stripe_ranges` takes them.
    """
    bands = np.floor(centres[:, 1] / height).astype(np.int64)
    order = np.lexsort((centres[:, 1], centres[:, 0], bands))
    return order, bands[order]


class Stripes:
    """Sources of the stripes of a slide, one after the other; used in a ``with`` block.

    While the patches of a stripe are worked on, those of the next are cut by another thread: at
    the size at which the current ones were asked for. Two stripes of patches are in memory. The
    slide stays open meanwhile, so that tiles that two stripes share are decoded once.

    Parameters
    ----------
    source
        Patches of all spots.
    ranges
        Spots of each stripe, see :func:`stripe_ranges`; of work that goes on, those left.

    Examples
    --------
    ``with Stripes(source, ranges) as stripes: for spots, part in stripes: ...``
    """

    def __init__(self, source: SlidePatches, ranges: Sequence[range]) -> None:
        self._source = source
        self._ranges = list(ranges)
        self._ahead: dict[tuple[int, int, int | None, Resampling], Future[np.ndarray]] = {}
        # One thread alone reads: slides are not made for several.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="stripes")
        self._slide: WholeSlide | None = None

    def __len__(self) -> int:
        return len(self._ranges)

    def __iter__(self) -> Iterator[tuple[range, SlidePatches]]:
        """Spots of a stripe, and the source of their patches."""
        for number, spots in enumerate(self._ranges):
            some = self._source.centres[spots.start : spots.stop]
            yield spots, replace(self._source, centres=some, cutter=partial(self._cut, number))

    def _cut(
        self, number: int, size: int, pixels: int | None, resampling: Resampling = "area"
    ) -> np.ndarray:
        what = (size, pixels, resampling)
        for other in [key for key in self._ahead if key[0] < number or key[1:] != what]:
            self._ahead.pop(other).cancel()
        current, following = (number, *what), (number + 1, *what)
        future = self._ahead.pop(current, None) or self._thread.submit(self._read, *current)
        patches = future.result()
        if number + 1 < len(self._ranges) and following not in self._ahead:
            self._ahead[following] = self._thread.submit(self._read, *following)
        return patches

    def _read(
        self, number: int, size: int, pixels: int | None, resampling: Resampling
    ) -> np.ndarray:
        source = self._source
        if self._slide is None:
            self._slide = open_slide(source.image, source.max_image_pixels, source.reader)
        opened = replace(source, opened=self._slide)
        return opened.cut_once(self._ranges[number], size, pixels, resampling)

    def close(self) -> None:
        """Drop what has been cut ahead, end the thread and close the slide."""
        self._ahead.clear()
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._slide is not None:
            self._slide.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
