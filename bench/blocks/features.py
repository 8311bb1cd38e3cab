"""Features of a frozen image encoder, computed once and kept."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.blocks.encoders import ImageEncoder, changed, image_encoder
from bench.blocks.engines import (
    CompiledEncoder,
    Engine,
    OpenVINOEncoder,
    choose_engine,
    openvino_version,
)
from bench.blocks.frozen import FrozenEncoderConfig, in_image_order
from bench.blocks.images import Pixels, image_batches, images_at_once, to_network_scale
from bench.blocks.precision import to_device
from bench.cache import Cache
from bench.data.images.patches import PatchSource, Resampling
from bench.data.inputs import Slide
from bench.encoders.declaration import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    LOCAL_FOLDER,
    PRETRAINED,
    declaration,
    has_own_settings,
)
from bench.encoders.weights import local_folder, weights_hash, weights_identity
from bench.errors import DataError, TrainingError
from bench.files import canonical_hash
from bench.method import Context, Precision

_VERSION = 1
_IMAGES_AT_ONCE = 32
_BLOCKS_AT_ONCE = 64
"""Blocks of tiles that are cut together: 240 MB of 5 x 5 tiles of 224 px."""


class FrozenEncoder:
    """An image encoder that is never trained; what it says of a section is kept on disk.

    The features are kept by patches, encoder, weights, precision and kind of device, so that every
    fold, method and trial finds those of another.

    Parameters
    ----------
    settings
        Encoder, weights and patches.
    seed
        Random weights are drawn from it.
    device, precision
        Where and in what the encoder computes.
    """

    def __init__(
        self,
        settings: FrozenEncoderConfig,
        seed: int,
        device: str,
        precision: Precision = "float32",
    ) -> None:
        self.settings = settings
        self.seed = seed
        self.device = device
        self.precision = precision
        self._by_edge: dict[int, OpenVINOEncoder | CompiledEncoder] = {}

    @cached_property
    def identity(self) -> str:
        """Hash of encoder, weights and pixel scale: another one gives other features.

        Raises
        ------
        DataError
            The weight file cannot be read.
        """
        settings = self.settings
        if settings.features is not None:
            return canonical_hash(["brought along"])
        weights: list[Any]
        if settings.weights == "none":
            weights = ["none", self.seed, self._versions]
        elif settings.weights not in PRETRAINED:
            weights = ["file", weights_hash(Path(settings.weights))]
        elif settings.encoder == "densenet121":
            weights = ["imagenet"]
        else:
            weights = ["published", weights_identity(settings.encoder)]
        name = settings.encoder
        if local_folder(name) is not None:  # its content counts, wherever it lies
            name = LOCAL_FOLDER
        facts: list[Any] = [name, weights, self._pixels]
        if has_own_settings(settings.encoder) or settings.encoder_args or settings.pooling:
            of = declaration(settings.encoder)
            facts.append(changed(of, settings.encoder_args, settings.pooling).blueprint)
        if self._statistics is not None:
            facts.append(self._statistics)
        return canonical_hash(facts)

    @property
    def _pixels(self) -> Pixels:
        """How pixels are fed; a random network of timm has no statistics of its own."""
        settings = self.settings
        if settings.pixels != "encoder" or self._statistics is not None:
            return settings.pixels
        if settings.weights == "none" and not has_own_settings(settings.encoder):
            return "imagenet"
        of = declaration(settings.encoder)
        return "imagenet" if (of.mean, of.std) == (IMAGENET_MEAN, IMAGENET_STD) else "encoder"

    @property
    def _statistics(self) -> tuple[tuple[float, float, float], ...] | None:
        """Mean and deviation of the settings, where they replace the encoder's own."""
        settings = self.settings
        if settings.mean is None and settings.std is None:
            return None
        of = declaration(settings.encoder)
        return (settings.mean or of.mean, settings.std or of.std)

    def encode(self, slides: Sequence[Slide], context: Context | None = None) -> list[np.ndarray]:
        """Features of slides, one (spots, features) float32 array each.

        The progress of `context` is told which section they are being taken of.

        Raises
        ------
        ConfigError, DataError
            No such encoder, weights or image; see :func:`bench.blocks.encoders.image_encoder`.
        TrainingError
            A feature is not finite.
        """
        return _each(slides, context, "features of", self._features)

    def _features(self, slide: Slide) -> np.ndarray:
        if self.settings.features is not None:
            return in_image_order(slide, self._brought(slide))
        features = self.stored(slide)
        if features is None:
            source, patches, key = self._asked(slide)
            features = self._kept(self._compute(source.cut(*patches)), key, slide)
        # The order of a shuffled twin comes last: its features are those of the same patches.
        return in_image_order(slide, features.astype(np.float32, copy=False))

    def encode_tiles(
        self, slides: Sequence[Slide], tiles: int, context: Context | None = None
    ) -> list[np.ndarray]:
        """Features of the squares of tiles around spots, each tile as large as a patch.

        The square is cut and resampled as a whole; the middle tile of an odd number of them is
        the spot's own patch. Pixels of it are not kept on disk, its features are.

        Parameters
        ----------
        slides
            Sections with images.
        tiles
            Tiles along an edge of the square.
        context
            Its progress is told which section they are being taken of.

        Returns
        -------
        list of (spots, tiles**2, features) float32 arrays
            Tile ``tiles * row + column``, rows from the top of the image.

        Raises
        ------
        ConfigError, DataError, TrainingError
            As :meth:`encode`; or a section has stored patches in place of an image.
        """
        of_slide = partial(self._features_of_tiles, tiles=tiles)
        return _each(slides, context, "features around spots of", of_slide)

    def encode_parts(
        self, slides: Sequence[Slide], parts: int, context: Context | None = None
    ) -> list[np.ndarray]:
        """Features of the squares that patches are divided into, resampled to a patch's size.

        Parameters
        ----------
        slides
            Sections with images.
        parts
            Squares along the edge of a patch.
        context
            Its progress is told which section they are being taken of.

        Returns
        -------
        list of (spots, parts**2, features) float32 arrays
            Part ``parts * row + column``, rows from the top of the image.

        Raises
        ------
        ConfigError, DataError, TrainingError
            As :meth:`encode`.
        """
        of_slide = partial(self._features_of_tiles, tiles=parts, within=True)
        return _each(slides, context, "features within spots of", of_slide)

    def _features_of_tiles(self, slide: Slide, tiles: int, *, within: bool = False) -> np.ndarray:
        source, patches, key = self._asked(slide, tiles, within=within)
        features = _FEATURES.get(key)
        spots = len(slide)
        if features is None or not _fits(features, (spots, tiles**2), self.settings.store):
            if not within:
                source.extent()  # refuses a section without a whole image
            parts = []
            for start in range(0, spots, _BLOCKS_AT_ONCE):
                some = range(start, min(start + _BLOCKS_AT_ONCE, spots))
                blocks = _tiles_of(source.cut_once(some, *patches), tiles)
                parts.append(self._compute(blocks, engine=self._engine(spots * tiles**2)))
            features = np.concatenate(parts).reshape(spots, tiles**2, -1)
            features = self._kept(features, key, slide)
        return in_image_order(slide, features.astype(np.float32, copy=False))

    def _kept(self, features: np.ndarray, key: str, slide: Slide) -> np.ndarray:
        """Features as they are stored, on disk from now on."""
        with np.errstate(over="ignore"):
            stored = features.astype(self.settings.store)
        if not np.isfinite(stored).all():
            raise TrainingError(
                f"section {slide.name}: encoder {self.settings.encoder} gives features that"
                " are not finite; check its weights and the pixel scale it was trained on"
            )
        _keep(key, stored)
        return stored

    def stored(self, slide: Slide) -> np.ndarray | None:
        """Features of a slide that are kept on disk, in the order of its spots; else None.

        Returns
        -------
        (spots, features) array of the type that the settings store

        Raises
        ------
        ConfigError, DataError
            As :meth:`encode`.
        """
        features = _FEATURES.get(self.key(slide))
        fits = features is not None and _fits(features, (len(slide),), self.settings.store)
        return features if fits else None

    def key(self, slide: Slide) -> str:
        """Key of the features of a slide: hash of all that they depend on.

        Raises
        ------
        ConfigError, DataError
            As :meth:`encode`.
        """
        return self._asked(slide)[2]

    def keep(self, slide: Slide, features: np.ndarray) -> None:
        """Keep features of a slide that were computed on another machine.

        Raises
        ------
        DataError
            They are not of the number of spots or the type that is asked for, or not finite.
        """
        fits = _fits(features, (len(slide),), self.settings.store)
        if not fits or not np.isfinite(features).all():
            raise DataError(f"section {slide.name}: received what are no features of it")
        _keep(self.key(slide), features)

    def _asked(
        self, slide: Slide, tiles: int | None = None, *, within: bool = False
    ) -> tuple[PatchSource, tuple[int, int | None, Resampling], str]:
        """Source of the patches of a slide, what to cut, and the key of their features."""
        source = slide.patch_source
        if source is None:
            raise DataError(f"section {slide.name}: no image, but the method asks for patches")
        edges = slide.patch_edges(self.settings.patch_size, self.settings.input_size)
        if tiles is not None:
            size, pixels = edges[0], edges[1] or edges[0]
            edges = (size if within else tiles * size, tiles * pixels)
        patches = (*edges, declaration(self.settings.encoder).resampling)
        # Each rounds differently: results must not depend on who was first.
        setting = [self.identity, self._versions, torch.device(self.device).type, self.precision]
        facts = [_VERSION, source.key(*patches), *setting]
        if tiles is not None:
            facts.append(["tiles", tiles])
        engine = self._engine(len(slide) * (tiles or 1) ** 2)
        if engine == "openvino":
            facts.append(["openvino", "one batch on all cores", openvino_version()])
        elif engine == "compiled":
            facts.append(["compiled"])
        if self.settings.store != "float32":
            facts.append(self.settings.store)
        return source, patches, canonical_hash(facts)

    def _brought(self, slide: Slide) -> np.ndarray:
        if slide.brought is None:
            raise DataError(
                f"section {slide.name}: the features that the setting 'features' names are matched"
                " to spots by the harness alone; use 'bench run' or bench.run"
            )
        return np.asarray(slide.brought(), dtype=np.float32)

    @cached_property
    def _versions(self) -> list[str]:
        return [version(name) for name in ("torch", "torchvision", "timm")]

    @cached_property
    def _encoder(self) -> ImageEncoder:
        # On the generator of the CPU alone: networks are built there, and torch.manual_seed
        # would leave those of the GPUs changed.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            settings = self.settings
            encoder = image_encoder(
                settings.encoder, settings.weights, settings.encoder_args, settings.pooling
            )
        if self._statistics is not None:
            encoder.mean, encoder.std = self._statistics
        return to_device(encoder, Context(device=self.device, precision=self.precision)).eval()

    def _engine(self, patches: int) -> Engine:
        return choose_engine(self.settings.engine, self.device, patches)

    @property
    def batch(self) -> int:
        """Patches that the network is given at once."""
        return images_at_once(_IMAGES_AT_ONCE, self.device)

    def network(self, edge: int, engine: Engine) -> Callable[[torch.Tensor], torch.Tensor]:
        """What computes features of a batch of images; made once for images of one edge.

        Parameters
        ----------
        edge
            Edge of the images in pixels.
        engine
            What computes.

        Raises
        ------
        ConfigError, DataError
            As :meth:`encode`; or the engine cannot take the encoder.
        """
        if engine == "torch":
            return self._encoder
        if edge not in self._by_edge:
            self._by_edge[edge] = (
                OpenVINOEncoder(self._encoder, edge, self.precision)
                if engine == "openvino"
                else CompiledEncoder(self._encoder, self.batch)
            )
        return self._by_edge[edge]

    @torch.inference_mode()
    def _compute(self, patches: np.ndarray, *, engine: Engine | None = None) -> np.ndarray:
        encoder = self._encoder
        engine = engine or self._engine(len(patches))
        run = self.network(patches.shape[1], engine) if len(patches) else encoder
        features = np.empty((len(patches), encoder.features), dtype=np.float32)
        start = 0
        for images in image_batches(patches, self.device, self.batch):
            batch = run(to_network_scale(images, self._pixels, encoder))
            features[start : start + len(images)] = batch.float().cpu().numpy()
            start += len(images)
        return features


def _each(
    slides: Sequence[Slide],
    context: Context | None,
    what: str,
    of_slide: Callable[[Slide], np.ndarray],
) -> list[np.ndarray]:
    """Features of slides; progress is told of each."""
    features = []
    for number, slide in enumerate(slides):
        if context is not None:
            context.progress(number, len(slides), f"{what} {slide.name}")
        features.append(of_slide(slide))
    return features


def _keep(key: str, features: np.ndarray) -> None:
    with _FEATURES.new_entry(key) as temporary:
        np.savez(temporary, features=features)


def _read(path: Path) -> np.ndarray:
    with np.load(path, allow_pickle=False) as stored:
        return np.asarray(stored["features"])


def _fits(features: np.ndarray, rows: tuple[int, ...], kind: str) -> bool:
    return features.dtype == kind and features.shape[:-1] == rows


def _tiles_of(blocks: np.ndarray, tiles: int) -> np.ndarray:
    """(n, tiles * edge, tiles * edge, 3) to (n * tiles**2, edge, edge, 3), row by row."""
    edge = blocks.shape[1] // tiles
    cut = blocks.reshape(len(blocks), tiles, edge, tiles, edge, 3).swapaxes(2, 3)
    return cut.reshape(-1, edge, edge, 3)


_FEATURES = Cache("features", ".npz", _read)
"""Features by patches, encoder, weights, precision and kind of device."""
