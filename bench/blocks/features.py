"""Features of a frozen image encoder, computed once and kept."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from bench.blocks.images import ImageEncoder, Pixels, image_batches, image_encoder, to_network_scale
from bench.data.views import Slide
from bench.errors import DataError
from bench.files import atomic_write, cache_folder, canonical_hash, file_hash

_VERSION = 1


class FrozenEncoder:
    """An image encoder that is never trained; what it says of a section is kept on disk.

    The features are keyed by patches, encoder, weights and pixel scale, so that every fold,
    method and trial finds those of another.

    Parameters
    ----------
    name, weights
        See :func:`bench.blocks.images.image_encoder`. With ``none`` the weights are drawn from
        `seed`.
    pixels
        See :func:`bench.blocks.images.to_network_scale`.
    seed
        Of random weights.
    device
        Where the encoder runs.
    """

    def __init__(self, name: str, weights: str, pixels: Pixels, seed: int, device: str) -> None:
        self.name, self.weights, self.pixels = name, weights, pixels
        self.seed, self.device = seed, device

    def features(self, slide: Slide, size: int | None, pixels: int | None) -> np.ndarray:
        """Features of a slide's patches; see :meth:`bench.data.views.Slide.patches`.

        Returns
        -------
        (spots, features) float32
        """
        if slide.patch_source is None:
            raise DataError(f"section {slide.name}: no image, but the method asks for patches")
        patches_key = slide.patch_source.key(size or slide.patch_pixels, pixels)
        key = canonical_hash([_VERSION, patches_key, self.name, self._weights_key, self.pixels])
        path = cache_folder() / "features" / f"{key[:32]}.npy"
        stored = _read(path, len(slide))
        if stored is None:
            stored = self._compute(slide.patch_source.cut(size or slide.patch_pixels, pixels))
            with atomic_write(path) as temporary, open(temporary, "wb") as stream:
                np.save(stream, stored)
        # The order of a shuffled twin comes last: its features are those of the same patches.
        return stored if slide.image_order is None else stored[slide.image_order]

    @cached_property
    def _weights_key(self) -> list[object]:
        if self.weights == "none":
            return ["none", self.seed, torch.__version__]
        if self.weights == "imagenet":
            import timm
            import torchvision

            return ["imagenet", torchvision.__version__, timm.__version__]
        return ["file", file_hash(Path(self.weights))]

    @cached_property
    def _encoder(self) -> ImageEncoder:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            encoder = image_encoder(self.name, self.weights)
        return encoder.to(self.device).eval()

    @torch.inference_mode()
    def _compute(self, patches: np.ndarray) -> np.ndarray:
        parts = [
            self._encoder(to_network_scale(images, self.pixels)).float().cpu().numpy()
            for images in image_batches(patches, self.device)
        ]
        return np.concatenate(parts)


def _read(path: Path, spots: int) -> np.ndarray | None:
    try:
        stored = np.load(path, allow_pickle=False)
    except (FileNotFoundError, ValueError, EOFError):
        return None
    fits = stored.ndim == 2 and len(stored) == spots and stored.dtype == np.float32
    return stored if fits else None
