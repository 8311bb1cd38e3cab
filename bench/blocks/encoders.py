"""Image encoders built from their declarations, with their weights."""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from bench.blocks.precision import ImageModule
from bench.blocks.weights import check_strict, load_strict, read_tensors
from bench.encoders.declaration import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PRETRAINED,
    EncoderDeclaration,
    declaration,
)
from bench.encoders.weights import checked_weights
from bench.errors import ConfigError, DataError
from bench.files import one_line

# torchvision's published DenseNet files name a layer's parts 'norm.1', the module 'norm1'.
_OLD_DENSENET_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.(\d\.)")
_CLASSIFIER = re.compile(r"(?:classifier|fc(?:\.\d+)?|head(?:\.fc)?|heads)\.(?:weight|bias)")
# Of self-supervised training alone; no feature depends on them.
_UNUSED = re.compile(r"(?:embeddings\.)?mask_token|pooler\.dense\.(?:weight|bias)")
_WRONG_ARGUMENTS = (AssertionError, AttributeError, KeyError, RuntimeError, TypeError, ValueError)


class ImageEncoder(ImageModule):
    """Images to one feature vector each.

    Attributes
    ----------
    features
        Length of the vector.
    mean, std
        Of the channels in the encoder's own training, on the scale 0 to 1.
    """

    def __init__(
        self,
        model: nn.Module,
        features: int,
        mean: tuple[float, float, float] = IMAGENET_MEAN,
        std: tuple[float, float, float] = IMAGENET_STD,
    ) -> None:
        super().__init__()
        self.model = model
        self.features = features
        self.mean = mean
        self.std = std

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) to (n, features)."""
        return self.compute(self.model, images)


class PooledTokens(nn.Module):
    """A vision transformer whose tokens are pooled into one vector.

    Parameters
    ----------
    network
        The transformer.
    tokens
        (n, 3, height, width) images to (n, tokens, width): class token, registers, patch tokens.
    pooling
        ``cls``, ``avg`` or ``cls+avg``; see :data:`bench.encoders.declaration.Pooling`.
    others
        Tokens before the patch tokens: the class token and registers.
    """

    def __init__(
        self, network: nn.Module, tokens: Callable[[Tensor], Tensor], pooling: str, others: int
    ) -> None:
        super().__init__()
        self.network = network
        self._tokens = tokens
        self._parts = pooling.split("+")
        self._others = others

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) to (n, width), twice the width for ``cls+avg``."""
        tokens = self._tokens(images)
        pooled = {"cls": lambda: tokens[:, 0], "avg": lambda: tokens[:, self._others :].mean(dim=1)}
        return torch.cat([pooled[part]() for part in self._parts], dim=-1)


class PooledStage(nn.Module):
    """One feature stage of a convolutional network, averaged over space."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """(n, 3, height, width) to (n, channels of the stage)."""
        (stage,) = self.network(images)
        return stage.mean(dim=(2, 3))


def image_encoder(
    name: str,
    weights: str,
    arguments: Mapping[str, Any] | None = None,
    pooling: str | None = None,
) -> ImageEncoder:
    """Build an image encoder.

    Parameters
    ----------
    name
        A named encoder, ``timm:NAME``, ``hf-hub:OWNER/NAME[@revision]`` or ``local-dir:PATH``; see
        :func:`bench.encoders.declaration.declaration`. ``densenet121`` is torchvision's, its
        feature maps averaged over space without the ReLU that torchvision's own forward applies.
    weights
        ``none`` (random), ``pretrained`` or ``imagenet`` (the published ones), or the path of a
        ``.safetensors``, ``.pt``, ``.pth`` or ``.bin`` file of this encoder's tensors.
    arguments
        Arguments of the constructor that differ from the declared ones.
    pooling
        In place of the declared one.

    Returns
    -------
    ImageEncoder
        Network from (n, 3, height, width) float32 to (n, features) float32.

    Raises
    ------
    ConfigError
        No such encoder, arguments it does not take, or weights that are not here: never
        silently random.
    DataError
        A weight file that is missing, unsafe, or of another network.
    """
    of = changed(declaration(name), arguments, pooling)
    pretrained = weights in PRETRAINED
    if of.library == "torchvision":
        encoder = _densenet121(pretrained)
    elif of.library in {"conch", "remote"}:
        encoder = _from_package(name, of, weights)
    else:
        encoder = _random(name, of)
        if pretrained:
            load_encoder_weights(encoder, checked_weights(name))
    if not pretrained and weights != "none" and of.library not in {"conch", "remote"}:
        load_encoder_weights(encoder, Path(weights))
    return encoder


def changed(
    of: EncoderDeclaration, arguments: Mapping[str, Any] | None, pooling: str | None
) -> EncoderDeclaration:
    """A declaration with other constructor arguments or pooling."""
    changes: dict[str, Any] = {}
    if arguments:
        changes = {"arguments": {**of.arguments, **arguments}, "dimension": None}
    if pooling is not None and pooling != of.pooling:
        changes |= {"pooling": pooling, "dimension": None}
    return of.model_copy(update=changes)


def check_encoder(
    name: str,
    edge: int | None,
    arguments: Mapping[str, Any] | None = None,
    pooling: str | None = None,
) -> int | None:
    """Build an encoder without memory for its tensors and pass one image size through it.

    Parameters
    ----------
    name, arguments, pooling
        As of :func:`image_encoder`.
    edge
        Edge of the images in pixels; None if it is not known.

    Returns
    -------
    int or None
        Length of the feature vector; None where only the weights tell.

    Raises
    ------
    ConfigError
        No such encoder, arguments it does not take, or images of this edge do not fit.
    """
    of = changed(declaration(name), arguments, pooling)
    if of.library in {"conch", "remote", "torchvision"}:
        return of.dimension
    with torch.device("meta"):
        encoder = _random(name, of).eval()
    if edge is None:
        return encoder.features
    try:
        with torch.inference_mode():
            width = encoder.model(torch.empty(1, 3, edge, edge, device="meta")).shape[-1]
    except (AssertionError, RuntimeError, ValueError, TypeError) as error:
        raise ConfigError(
            f"encoder {name} does not take images of {edge} px ({one_line(error, 100)});"
            f" set input_size={of.input_size}"
        ) from error
    return int(width)


def check_weights(of: EncoderDeclaration, path: Path) -> None:
    """Compare a weight file with the network of a declaration, without loading it.

    Raises
    ------
    ConfigError
        The network cannot be built.
    DataError
        The file is missing, would run code, or lacks, adds or reshapes a tensor.
    """
    if of.library == "remote":
        return
    if of.library == "conch":
        read_tensors(path)
        return
    with torch.device("meta"):
        encoder = _random(of.title, of)
    network, state = _state_for(encoder, path)
    check_strict(network, state, str(path))


def load_encoder_weights(encoder: ImageEncoder, path: Path) -> None:
    """Load a weight file into an encoder; a classifier in it is left aside.

    Raises
    ------
    DataError
        The file is missing, would run code, or lacks, adds or reshapes a tensor.
    """
    network, state = _state_for(encoder, path)
    load_strict(network, state, str(path))


def _state_for(encoder: ImageEncoder, path: Path) -> tuple[nn.Module, dict[str, Tensor]]:
    """The network of an encoder, and the tensors of a file by the names of that network."""
    model = encoder.model
    network = model.network if isinstance(model, PooledTokens | PooledStage) else model
    own = network.state_dict()
    state = {}
    for key, tensor in read_tensors(path).items():
        if key not in own and (_CLASSIFIER.fullmatch(key) or _UNUSED.fullmatch(key)):
            continue
        key = _OLD_DENSENET_NAME.sub(r"\1\2", key)
        if isinstance(network, nn.Sequential):
            key = "0." + key.removeprefix("features.").removeprefix("0.")
        state[key] = tensor
    if isinstance(model, PooledStage):  # later stages are not built
        state = {key: tensor for key, tensor in state.items() if key in own}
    elif set(state) != set(own):
        state = _renamed_by_timm(network, state)
    return network, state


def _renamed_by_timm(network: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of a checkpoint of another project by timm's names, where timm knows how."""
    module = sys.modules[type(network).__module__]
    convert = getattr(module, "checkpoint_filter_fn", None)
    if not module.__name__.startswith("timm.") or convert is None:
        return state
    try:
        converted = convert(dict(state), network)
    except _WRONG_ARGUMENTS:  # no form that timm knows: the names are reported as they are
        return state
    return {k: v for k, v in converted.items() if not _CLASSIFIER.fullmatch(k)}


def _densenet121(pretrained: bool) -> ImageEncoder:
    from torchvision.models import DenseNet121_Weights, densenet121

    wanted = DenseNet121_Weights.IMAGENET1K_V1 if pretrained else None
    try:
        network = densenet121(weights=wanted)
    except OSError as error:
        raise ConfigError(
            f"ImageNet weights of densenet121 cannot be fetched ({one_line(error, 120)}); connect"
            " once, or set weights to a local file, or to 'none' for a random start"
        ) from error
    pooled = nn.Sequential(network.features, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return ImageEncoder(pooled, network.classifier.in_features)


def _random(name: str, of: EncoderDeclaration) -> ImageEncoder:
    """An encoder of timm or transformers with random weights."""
    try:
        model, features = _of_timm(of) if of.library == "timm" else _of_transformers(of)
    except _WRONG_ARGUMENTS as error:
        raise ConfigError(f"encoder {name} cannot be built ({one_line(error, 160)})") from error
    if of.dimension is not None and of.dimension != features:
        raise ConfigError(
            f"encoder {name} gives {features} features, its declaration says {of.dimension}"
        )
    return ImageEncoder(model, features, of.mean, of.std)


def _of_timm(of: EncoderDeclaration) -> tuple[nn.Module, int]:
    import timm

    arguments = {key: _layer(key, value) for key, value in of.arguments.items()}
    if of.pooling.startswith("stage"):
        stage = int(of.pooling.removeprefix("stage"))
        network = timm.create_model(
            of.architecture, features_only=True, out_indices=[stage], **arguments
        )
        return PooledStage(network), int(network.feature_info.channels()[0])
    network = timm.create_model(of.architecture, num_classes=0, **arguments)
    if of.pooling == "own":
        # Networks with a convolution after pooling give more features than their last stage has.
        return network, int(getattr(network, "head_hidden_size", None) or network.num_features)
    others = getattr(network, "num_prefix_tokens", None)
    if others is None or ("cls" in of.pooling and others == 0):
        raise ValueError(f"it has no tokens for pooling {of.pooling}")
    width = int(network.num_features) * (1 + of.pooling.count("+"))
    return PooledTokens(network, network.forward_features, of.pooling, others), width


def _layer(key: str, value: Any) -> Any:
    """A kind of layer by its name in timm or torch, for arguments such as ``act_layer``."""
    if not key.endswith("_layer") or not isinstance(value, str):
        return value
    import timm.layers

    for where in (timm.layers, nn):
        kind = getattr(where, value, None)
        built = getattr(kind, "func", kind)  # some are partial functions of a class
        if inspect.isclass(built) and issubclass(built, nn.Module):
            return kind
    raise ValueError(f"{key}: neither timm nor torch has a layer {value}")


def _of_transformers(of: EncoderDeclaration) -> tuple[nn.Module, int]:
    try:
        import transformers
    except ImportError:
        raise ConfigError(
            f"{of.title} needs transformers; install it with pip install 'spotbench[encoders]'"
        ) from None
    kind = getattr(transformers, of.architecture)
    arguments = dict(of.arguments)
    unknown = set(arguments) - set(inspect.signature(kind.config_class).parameters)
    if unknown:
        raise ValueError(f"unknown argument {sorted(unknown)[0]}")
    config = kind.config_class(**arguments)
    extra = {"add_pooling_layer": False} if of.architecture == "ViTModel" else {}
    network = kind(config, **extra)
    others = 1 + getattr(config, "num_register_tokens", 0)
    width = config.hidden_size * (1 + of.pooling.count("+"))
    pooled = PooledTokens(
        network, lambda images: network(images).last_hidden_state, of.pooling, others
    )
    return pooled, width


def _from_package(name: str, of: EncoderDeclaration, weights: str) -> ImageEncoder:
    """An encoder whose package builds and loads it in one step."""
    if weights == "none":
        raise ConfigError(f"encoder {name} is built from its weights and cannot be random")
    path = checked_weights(name) if weights in PRETRAINED else Path(weights)
    if of.library == "conch":
        network = _conch(of, path)
    else:
        network = _remote(name, path, of)
    return ImageEncoder(network, of.dimension or 0, of.mean, of.std)


class _EncodedImage(nn.Module):
    """CONCH's image embedding before the projection of its contrastive training."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.encode_image(images, proj_contrast=False, normalize=False)


def _conch(of: EncoderDeclaration, path: Path) -> nn.Module:
    try:
        from conch.open_clip_custom import create_model_from_pretrained
    except ImportError:
        raise ConfigError(
            "encoder conch needs its authors' package;"
            " pip install git+https://github.com/Mahmoodlab/CONCH.git"
        ) from None
    read_tensors(path)  # refuses files that hold more than tensors
    network, _ = create_model_from_pretrained(of.architecture, checkpoint_path=str(path))
    return _EncodedImage(network)


def _remote(name: str, folder: Path, of: EncoderDeclaration) -> nn.Module:
    """A network of code in a folder that the user has looked at and named."""
    if not folder.is_dir():
        raise DataError(f"{folder}: encoder {name} needs the folder of its repository")
    try:
        from transformers import AutoModel
    except ImportError:
        raise ConfigError(
            f"encoder {name} needs transformers; install it with pip install 'spotbench[encoders]'"
        ) from None
    try:
        network = AutoModel.from_pretrained(
            str(folder), trust_remote_code=True, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, ImportError, AttributeError) as error:
        raise DataError(f"{folder}: cannot be loaded ({one_line(error, 160)})") from error
    others = 1 + getattr(network.config, "num_register_tokens", 0)
    return PooledTokens(
        network, lambda images: network(images).last_hidden_state, of.pooling, others
    )
