"""Predictions of the finished stripes of a slide, kept until the result is written."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.cache import Cache, cache_folder
from bench.errors import BenchError
from bench.execute.encoders import encoder_identity
from bench.files import canonical_hash
from bench.prediction.stored_models import StoredModel
from bench.sources import code_hash, content_hash, method_code
from bench.version import __version__, installed_version

if TYPE_CHECKING:
    from bench.data.inputs import Slide
    from bench.method import Context

LARGEST = 20 << 30
"""Bytes of all stripes that are kept, those of other predictions included."""

_NAME = "prediction-stripes"
_CODE = ("bench.prediction.averaging",)


@dataclass(frozen=True)
class FinishedStripe:
    """Sums over the fits of a model on the spots of one stripe.

    Attributes
    ----------
    mean, squares
        (spots, genes) float64 mean, and sum of squared differences from it.
    notes
        Notes of the methods so far.
    """

    mean: np.ndarray
    squares: np.ndarray
    notes: tuple[str, ...]


def _read(path: Path) -> FinishedStripe:
    with np.load(path, allow_pickle=False) as arrays:
        mean = np.asarray(arrays["mean"])
        squares = np.asarray(arrays["squares"]) if "squares" in arrays else np.zeros_like(mean)
        return FinishedStripe(mean, squares, tuple(json.loads(str(arrays["notes"]))))


_STRIPES = Cache(_NAME, ".npz", _read)


class FinishedStripes:
    """The stripes of predictions that are not written yet.

    A call that was ended finds those of the same model, image, spots, genes, precision and code.
    A stripe is complete or absent. Without room on the disk nothing is kept.
    """

    def __init__(self) -> None:
        self._key = ""
        self._used: set[Path] = set()
        self._room = LARGEST

    def begin(
        self,
        model: StoredModel,
        slide: Slide,
        contexts: Mapping[str, Context],
        genes: Sequence[str],
    ) -> None:
        """Look for the stripes of one prediction.

        Parameters
        ----------
        model, slide, contexts, genes
            What the prediction depends on.
        """
        self._key = prediction_key(model, slide, contexts, genes)
        self._room = LARGEST - _make_room()

    def get(self, rows: np.ndarray, genes: int) -> FinishedStripe | None:
        """The stripe of some spots; None where it is not finished.

        Parameters
        ----------
        rows
            (spots,) numbers of the spots.
        genes
            Number of genes.
        """
        key = self._stripe(rows)
        self._used.add(_STRIPES.path(key))
        stripe = _STRIPES.get(key)
        wanted = (len(rows), genes)
        fits = stripe is not None and stripe.mean.shape == stripe.squares.shape == wanted
        return stripe if fits else None

    def put(self, rows: np.ndarray, stripe: FinishedStripe) -> None:
        """Keep the stripe of some spots, if there is room."""
        arrays: dict[str, Any] = {"mean": stripe.mean, "notes": np.array(json.dumps(stripe.notes))}
        if stripe.squares.any():
            arrays["squares"] = stripe.squares
        self._room -= sum(array.nbytes for array in arrays.values())
        if self._room < 0:
            return
        # A prediction does not fail for want of room to keep what it can compute again.
        with suppress(OSError), _STRIPES.new_entry(self._stripe(rows)) as temporary:
            np.savez(temporary, **arrays)

    def remove_later(self, path: Path) -> None:
        """Remove a file together with the stripes."""
        self._used.add(path)

    def forget(self) -> None:
        """Remove the stripes of all predictions begun, whose results are written."""
        for path in self._used:
            with suppress(OSError):
                path.unlink(missing_ok=True)
        self._used.clear()

    def _stripe(self, rows: np.ndarray) -> str:
        return canonical_hash([self._key, hashlib.sha256(rows.tobytes()).hexdigest()])


def prediction_key(
    model: StoredModel, slide: Slide, contexts: Mapping[str, Context], genes: Sequence[str]
) -> str:
    """Hash of all that the prediction of a slide depends on.

    Raises
    ------
    BenchError
        A file of the model cannot be read, or weights are not on this machine.
    """
    source = slide.patch_source
    if source is None:
        raise BenchError(f"{slide.name}: has no image")
    spots = hashlib.sha256(slide.spatial.tobytes() + slide.array_xy.tobytes()).hexdigest()
    fits = []
    for fit in model.fits:
        context = contexts[fit.name]
        computed = [context.seed, context.device, context.precision]
        config = model.kind.Config.model_validate(fit.config).model_dump(mode="json")
        files = content_hash(fit.folder)
        fits.append([files, config, encoder_identity(config), list(fit.panel), computed])
    return canonical_hash(
        {
            "image": [source.image_hash, source.image_scale, slide.patch_pixels],
            "scale": slide.micrometres_per_pixel,
            "spots": [len(slide), spots],
            "fits": fits,
            "genes": list(genes),
            "code": [__version__, code_hash(_CODE), method_code(model.kind)],
            "packages": [installed_version(name) for name in ("numpy", "scikit-learn", "torch")],
        }
    )


def _make_room() -> int:
    """Remove the oldest stripes until all are within half the limit; gives their bytes."""
    entries = []
    for path in (cache_folder() / _NAME).glob("*.npz"):
        with suppress(OSError):
            facts = path.stat()
            entries.append((facts.st_mtime, facts.st_size, path))
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= LARGEST // 2:
            break
        with suppress(OSError):
            path.unlink(missing_ok=True)
            total -= size
    return total
