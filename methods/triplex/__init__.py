"""TRIPLEX: a spot's patch, the tiles around it and all spots of its section, fused.

Chung Y. et al., "Accurate spatial gene expression prediction by integrating multi-resolution
features", CVPR 2024, arXiv 2403.07592.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import numpy as np

from bench.api import (
    ConfigError,
    Context,
    DataError,
    MethodConfig,
    NetworkMethod,
    Slide,
    TrainingData,
    TrainingSection,
    in_image_order,
)
from bench.methods.triplex.masks import released_mask, tiles_inside
from bench.methods.triplex.settings import OF_2025, OF_CVPR, QUICK, TriplexConfig

if TYPE_CHECKING:
    from torch import Tensor

    from bench.blocks.features import FrozenEncoder
    from bench.methods.triplex.network import TriplexNetwork
    from bench.methods.triplex.training import TriplexModule


class Triplex(NetworkMethod):
    """Trained ResNet-18 on the patch, frozen features around it and of the section, fused.

    Attributes
    ----------
    encoder_seed, encoder_identity
        Seed and identity of the frozen encoder, which a later prediction must have too.
    grid
        Kept positional grid; None for that of each section.
    """

    name: ClassVar[str] = "triplex"
    Config: ClassVar[type[MethodConfig]] = TriplexConfig
    unit: ClassVar[Literal["spot", "section"]] = "spot"
    presets: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "quick": QUICK,
        "tiny": {
            **QUICK,
            "input_size": 32,
            "tiles": 5,
            "dropout": (0.1, 0.1, 0.1),
            "batch_size": 8,
            "epochs": 2,
        },
    }
    dataset_settings: ClassVar[Mapping[str, Mapping[str, Any]]] = OF_2025
    memory: ClassVar[str | None] = "section.npz"
    encoder_seed: int
    encoder_identity: str
    grid: tuple[int, int] | None = None
    config: TriplexConfig
    _encoder: FrozenEncoder

    def __init__(self, config: MethodConfig | None = None) -> None:
        super().__init__(config)
        self._known: dict[str, dict[str, np.ndarray]] = {}
        self._numbers: dict[str, int] = {}

    @classmethod
    def configure(
        cls, dataset: str, preset: str, changes: Mapping[str, Any] | None = None
    ) -> MethodConfig:
        """Settings for a dataset; the authors' by dataset are those of the variant."""
        chosen = dict(changes or {})
        if chosen.get("variant") == "cvpr":
            kept = cls.presets.get(preset, {})
            own = {k: v for k, v in OF_CVPR.get(dataset, {}).items() if k not in kept}
            of_2025 = {k for k in OF_2025.get(dataset, {}) if k not in kept}
            plain = cls.Config.model_validate({"variant": "cvpr"}).model_dump()
            chosen = {**{k: plain[k] for k in of_2025}, **own, **chosen}
        return super().configure(dataset, preset, chosen)

    @classmethod
    def search_space(cls, trial: Any) -> dict[str, Any]:
        """Optimiser, distillation and length of the training."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
            "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.5),
            "distillation": trial.suggest_float("distillation", 0.0, 1.0),
            "epochs": trial.suggest_int("epochs", 5, 1000, log=True),
        }

    def build(self, data: TrainingData, context: Context) -> TriplexNetwork:
        """The network on the features of the training sections, which are taken first."""
        import torch

        from bench.methods.triplex.network import TriplexNetwork

        config = self.config
        if config.patience is not None and not data.validation:
            raise ConfigError(
                "triplex: early stopping needs validation sections; this fold has none: set"
                " patience=null and a number of epochs"
            )
        self._begin_with(context.seed, context)
        self._known = self._given(data.sections, context)
        self._numbers = {section.name: i for i, section in enumerate(data.sections)}
        dim = self._known[data.train[0].name]["features"].shape[1]
        network = TriplexNetwork(
            len(data.panel),
            dim=dim,
            **self._shapes(dim),
            channels=config.target_channels,
            **self.chosen("variant", "kernel", "tiles", "clamp_training"),
            **self._quirks(),
        )
        self._start_target(network)
        if config.start_at_mean:
            network.start_from(self.mean_target(data))
        # Beside the weights the first section decides the grid, as released.
        self._keep_grid(torch.from_numpy(self._known[data.train[0].name]["position"]))
        return network

    def restore(self, source: Any) -> TriplexNetwork:
        """The network of a checkpoint, which tells its form and all sizes but numbers of heads."""
        from bench.methods.triplex.network import TriplexNetwork

        network = TriplexNetwork.from_released(
            source, **self.chosen("heads", "dropout", "clamp_training"), **self._quirks()
        )
        if network.variant != self.config.variant:
            raise ConfigError(
                f"triplex: the checkpoint is of the form {network.variant}, the settings say"
                f" {self.config.variant}; set variant={network.variant}"
            )
        return network

    @classmethod
    def from_released(
        cls, source: Any, config: MethodConfig, data: TrainingData, context: Context
    ) -> Self:
        """A released checkpoint on the features of the settings' encoder.

        What its tensors do not tell is noted.
        """
        import torch

        method = super().from_released(source, config, data, context)
        if method.network.neighbor_encoder.layer.layers[0][0].fn.attention_biases.shape[1] != (
            method.config.tiles**2
        ):
            raise ConfigError("triplex: the checkpoint has another number of tiles (tiles)")
        method._begin_with(context.seed, context)
        if method.config.keeps("grid"):
            method._keep_grid(torch.from_numpy(method._position(data.train[0])))
        heads = method.config.heads
        context.notes.append(
            f"triplex: a checkpoint does not tell the heads of its fusion and section encoders:"
            f" {heads[0]} and {heads[1]} are those of the settings (heads)"
        )
        return method

    def training_module(self) -> TriplexModule:
        """The loss over four heads."""
        import torch

        from bench.methods.triplex.training import TriplexModule

        sections = [
            (torch.from_numpy(arrays["features"]), torch.from_numpy(arrays["position"]))
            for arrays in self._known.values()
        ]
        return TriplexModule(self.network, self.config, sections, self.grid)

    def loader(self, sections: Sequence[TrainingSection], seed: int) -> Any:
        """Random batches of spots, each with the number of its section and its row in it."""
        from bench.training.batches import SpotDataset, spot_loader

        arrays: dict[str, list[np.ndarray]] = {
            name: [self._known[section.name][name] for section in sections]
            for name in ("neighbours", "mask")
        }
        arrays["target"] = [section.target for section in sections]
        arrays["row"] = [np.arange(len(section)) for section in sections]
        arrays["section"] = [np.full(len(s), self._numbers[s.name]) for s in sections]
        patches = [self.patches(section) for section in sections]
        return spot_loader(SpotDataset(patches, arrays), self.config.batch_size, seed)

    def complete(self, data: TrainingData, context: Context) -> None:
        """Let go of the training features, which the batches hold by then."""
        self._known = {}

    def patches(self, slide: Slide) -> np.ndarray:
        """(spots, height, width, 3) uint8 patches of the spots themselves."""
        return slide.patches(self.config.patch_size, self.config.input_size)

    def inputs(self, slide: Slide) -> dict[str, np.ndarray]:
        """Frozen features of the tiles and of the patches of a section, mask and positions.

        Features and mask go with the image, positions with the spot.
        """
        (neighbours,) = self._encoder.encode_tiles([slide], self.config.tiles)
        (features,) = self._encoder.encode([slide])
        return {
            "neighbours": neighbours,
            "mask": in_image_order(slide, self._mask(slide)),
            "features": features,
            "position": self._position(slide),
        }

    def predict(self, slides: Sequence[Slide], context: Context) -> list[np.ndarray]:
        """Predict slide by slide."""
        self._begin_with(self.encoder_seed, context)
        if not self.config.keeps("dropout"):
            return super().predict(slides, context)
        return [self._predict_dropped(slide, context) for slide in slides]

    def predict_slide(self, images: Iterator[Tensor], **inputs: Tensor) -> Tensor:
        """Tokens of the whole section, then its spots in batches."""
        import torch

        from bench.blocks.images import to_network_scale

        features = inputs["features"]
        if features.shape[1] != self.network.dim:
            raise DataError(
                f"triplex: encoder {self.config.encoder} gives {features.shape[1]} features, the"
                f" network is made for {self.network.dim}"
            )
        tokens = self.network.section_tokens(features, inputs["position"], self.grid)
        parts, start = [], 0
        for patches in images:
            some = slice(start, start + len(patches))
            around = (inputs["neighbours"][some], inputs["mask"][some], tokens[some])
            parts.append(self.network.predict(to_network_scale(patches, "imagenet"), *around))
            start += len(patches)
        return torch.cat(parts)

    def remembered(self) -> dict[str, np.ndarray]:
        """Frozen encoder, and the kept grid if there is one."""
        return {
            "encoder_seed": np.array(self.encoder_seed),
            "encoder_identity": np.array(self.encoder_identity),
            "grid": np.array(self.grid or (0, 0)),
        }

    def remember(self, arrays: dict[str, np.ndarray]) -> None:
        """Frozen encoder, and the kept grid if there is one."""
        self.encoder_seed = int(arrays["encoder_seed"])
        self.encoder_identity = str(arrays["encoder_identity"])
        columns, rows = map(int, arrays["grid"])
        self.grid = (columns, rows) if columns and rows else None

    def _begin_with(self, seed: int, context: Context) -> None:
        """Make the frozen encoder on a device; refuse another one than the fit's."""
        from bench.blocks.features import FrozenEncoder

        self._encoder = FrozenEncoder(self.config.frozen, seed, context.device, context.precision)
        identity = self._encoder.identity
        if getattr(self, "encoder_identity", identity) != identity:
            raise DataError(
                f"encoder {self.config.encoder} with weights {self.config.weights} is not the"
                " one that the method was fitted with; restore its weights or fit again"
            )
        self.encoder_seed, self.encoder_identity = seed, identity

    def _given(
        self, sections: Sequence[TrainingSection], context: Context
    ) -> dict[str, dict[str, np.ndarray]]:
        """Inputs of sections by name; progress is told of each."""
        given = {}
        for number, section in enumerate(sections):
            context.progress(number, len(sections), f"features of {section.name}")
            given[section.name] = self.inputs(section)
        return given

    def _mask(self, slide: Slide) -> np.ndarray:
        """(spots, tiles**2) bool: which tiles are inside the image, in the order of its spots."""
        source = slide.patch_source
        assert source is not None  # its tiles have been cut
        size, _ = slide.patch_edges(self.config.patch_size, self.config.input_size)
        mask = released_mask if self.config.keeps("mask") else tiles_inside
        return mask(source.centres, size, self.config.tiles, source.extent())

    def _position(self, slide: Slide) -> np.ndarray:
        """(spots, 2) float32: pixel (x, y) of the patches' corners, or array (row, column)."""
        if self.config.variant == "cvpr":
            return slide.array_xy[:, ::-1].astype(np.float32)
        size, _ = slide.patch_edges(self.config.patch_size, self.config.input_size)
        return (slide.spatial - size / 2).astype(np.float32)

    def _keep_grid(self, position: Tensor) -> None:
        """As released, keep the grid of this section for all; the CVPR form has none."""
        from bench.methods.triplex.positions import grid_size

        if self.config.keeps("grid") and self.config.variant == "2025":
            self.grid = grid_size(position)

    def _shapes(self, dim: int) -> dict[str, Any]:
        from bench.methods.triplex.attention import EncoderShape

        config = self.config
        hidden = (int(dim * ratio) for ratio in config.mlp_ratio)
        shapes = zip(config.depth, config.heads, hidden, config.dropout, strict=True)
        names = ("fusion", "section", "neighbours")
        return {name: EncoderShape(*shape) for name, shape in zip(names, shapes, strict=True)}

    def _quirks(self) -> dict[str, Any]:
        keeps = self.config.keeps
        return {"mean_over_hidden": keeps("mean"), "always_drops": keeps("dropout")}

    def _start_target(self, network: TriplexNetwork) -> None:
        """Load the weights that the residual network on the patch starts with."""
        from bench.blocks.encoders import image_encoder
        from bench.blocks.weights import read_tensors

        start = self.config.target_start
        if start == "random":
            return
        if start == "frozen":
            encoder = image_encoder(self.config.encoder, self.config.weights)
            state, where = encoder.model.state_dict(), f"weights {self.config.weights}"
        elif start in {"imagenet", "pretrained"}:
            encoder = image_encoder("resnet18", "imagenet")
            state, where = encoder.model.state_dict(), "weights of resnet18"
        else:
            state, where = read_tensors(Path(start)), start
        network.start_target_from(state, where)

    def _predict_dropped(self, slide: Slide, context: Context) -> np.ndarray:
        """Prediction of a slide whose dropout follows from the seed and its name alone."""
        import torch

        drawn = np.random.SeedSequence([context.seed, zlib.crc32(slide.name.encode())])
        devices = range(torch.cuda.device_count()) if context.device == "cuda" else ()
        with torch.random.fork_rng(devices=devices):
            torch.manual_seed(int(drawn.generate_state(1)[0]))
            return super().predict([slide], context)[0]
