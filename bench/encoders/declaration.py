"""Declarations of image encoders: architecture, weights, pooling, pixel statistics, licence."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from bench.encoders.folders import stored_folder
from bench.errors import ConfigError, DataError, UnknownNameError
from bench.files import one_line
from bench.yaml_files import read_yaml

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

PRETRAINED = frozenset({"pretrained", "imagenet"})
"""Values of the setting ``weights`` that mean the encoder's own published weights."""

LOCAL_FOLDER = "local-dir:"
"""What precedes the folder in the name of an encoder that lies in one."""

PREFIXES = ("timm:", "hf-hub:", "hf_hub:", LOCAL_FOLDER)
"""Beginnings of names of encoders that are not declared."""

_HUB = ("hf-hub:", "hf_hub:")
_CONFIG = "config.json"
_Channels = tuple[float, float, float]
_Deviation = Annotated[float, Field(gt=0)]

Pooling = Annotated[str, Field(pattern=r"^(own|cls|avg|cls\+avg|stage[1-5])$")]
"""How the output of an encoder becomes one vector: ``own`` is the network's own pooling, ``cls``
the class token, ``avg`` the mean of the patch tokens without class token and registers,
``cls+avg`` both, ``stage3`` the mean over space of the third feature stage."""


class EncoderDeclaration(BaseModel):
    """What is known of an encoder.

    Attributes
    ----------
    title
        One line for lists.
    library
        What builds the network: ``timm``, ``transformers``, ``torchvision``, ``conch``, or
        ``remote`` for code that comes with a snapshot on this machine.
    architecture, arguments
        Name of the architecture there, and arguments of its constructor.
    repository, revision, file
        Where the weights are on the Hugging Face hub; an empty repository if they are not.
    pooling
        See :data:`Pooling`.
    dimension
        Length of the vector; None where only the built network tells.
    mean, std
        Of the channels in training, on the scale 0 to 1.
    input_size
        Edge of the input in pixels.
    resampling
        Kernel by which patches of another edge are resampled to it.
    um_per_px
        Scale that the encoder was trained on; None where it was trained on photographs.
    licence, gated, citation
        Of the weights; gated ones are given to accounts that have accepted the licence.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: str
    library: Literal["timm", "transformers", "torchvision", "conch", "remote"]
    architecture: str
    arguments: dict[str, Any] = Field(default_factory=dict)
    repository: str = ""
    revision: str = "main"
    file: str = ""
    pooling: Pooling = "own"
    dimension: int | None = Field(default=None, ge=1)
    mean: _Channels = IMAGENET_MEAN
    std: tuple[_Deviation, _Deviation, _Deviation] = IMAGENET_STD
    input_size: int = Field(default=224, ge=8, le=4096)
    resampling: Literal["area", "bilinear", "bicubic"] = "area"
    um_per_px: float | None = Field(default=None, gt=0)
    licence: str = ""
    gated: bool = False
    citation: str = ""

    @property
    def page(self) -> str:
        """Address of the page where the weights are described and access is asked for."""
        return f"https://huggingface.co/{self.repository}" if self.repository else ""

    @property
    def blueprint(self) -> dict[str, Any]:
        """What the features depend on besides the weights, as JSON has it."""
        parts = {"library", "architecture", "arguments", "pooling", "mean", "std", "resampling"}
        return self.model_dump(mode="json", include=parts)

    @property
    def patch_size(self) -> str | None:
        """Edge of the patch that fills the input at the scale of the training, as a setting."""
        return None if self.um_per_px is None else f"{self.um_per_px * self.input_size:g}um"


DENSENET121 = EncoderDeclaration(
    title="DenseNet-121 of ImageNet, without the ReLU after the last normalisation",
    library="torchvision",
    architecture="densenet121",
    dimension=1024,
    licence="BSD-3-Clause",
    citation="Huang et al., Densely connected convolutional networks, CVPR 2017",
)


@cache
def declarations() -> dict[str, EncoderDeclaration]:
    """Named encoders by name, in the order of the file."""
    entries = read_yaml(Path(__file__).with_name("declared.yaml"))
    named = {"densenet121": DENSENET121}
    return named | {name: EncoderDeclaration(**entry) for name, entry in entries.items()}


def is_named(encoder: str) -> bool:
    """Whether an encoder has a declaration of its own, other than the plain ``densenet121``."""
    return encoder != "densenet121" and encoder in declarations()


def has_own_settings(encoder: str) -> bool:
    """Whether settings that are not given follow the encoder: named and prefixed encoders."""
    return encoder.startswith(PREFIXES) or is_named(encoder)


def declaration(encoder: str) -> EncoderDeclaration:
    """Declaration of an encoder.

    Parameters
    ----------
    encoder
        A name of :func:`declarations`, ``timm:NAME`` or a plain name of timm,
        ``hf-hub:OWNER/NAME[@revision]``, or ``local-dir:PATH`` of a folder with ``config.json``.

    Raises
    ------
    UnknownNameError
        No such encoder; the nearest names are offered.
    ConfigError
        The configuration of a hub model that has not been fetched is asked for.
    DataError
        A ``config.json`` that is missing or describes no model of timm.
    """
    if encoder in declarations():
        return declarations()[encoder]
    if encoder.startswith("local-dir:"):
        return from_folder(Path(encoder.partition(":")[2]).expanduser(), encoder)
    if hub_repository(encoder) is not None:
        folder = stored_folder(encoder)
        if not (folder / _CONFIG).is_file():
            raise ConfigError(
                f"encoder {encoder} is not on this machine; fetch it with"
                f" 'bench encoders get {encoder}'"
            )
        return from_folder(folder, encoder).model_copy(update=_of_hub(encoder))
    return _of_timm(encoder)


def hub_repository(encoder: str) -> tuple[str, str] | None:
    """Repository and revision of ``hf-hub:OWNER/NAME[@revision]``; None for other names.

    Raises
    ------
    ConfigError
        The name does not have this form.
    """
    if not encoder.startswith(_HUB):
        return None
    repository, _, revision = encoder.partition(":")[2].partition("@")
    parts = repository.split("/")
    valid = len(parts) == 2 and all(
        part.strip(".-") and all(c.isalnum() or c in "-_." for c in part) for part in parts
    )
    if not valid or ".." in repository or revision.startswith("-"):
        raise ConfigError(f"encoder '{encoder}' is not of the form hf-hub:OWNER/NAME[@revision]")
    return repository, revision or "main"


def from_folder(folder: Path, encoder: str) -> EncoderDeclaration:
    """Declaration of a model of timm from the ``config.json`` of its folder.

    Raises
    ------
    DataError
        The file is missing, or it does not describe a model of timm.
    """
    path = folder / _CONFIG
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        own = content.get("pretrained_cfg", content)
        size = own.get("input_size") or (3, 224, 224)
        values = {
            "title": encoder,
            "library": "timm",
            "architecture": content["architecture"],
            "arguments": content.get("model_args") or {},
            "mean": own.get("mean") or IMAGENET_MEAN,
            "std": own.get("std") or IMAGENET_STD,
            "input_size": size[-1],
            "resampling": _kernel(own.get("interpolation")),
            "licence": own.get("license") or "",
        }
        if "global_pool" in content and content["global_pool"] in {"token", "avg"}:
            values["arguments"] = {"global_pool": content["global_pool"], **values["arguments"]}
        return EncoderDeclaration(**values)
    except FileNotFoundError:
        raise DataError(f"{path}: missing; the folder of a timm model has one") from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: does not describe a model of timm ({one_line(error, 120)})"
        ) from error


def _of_hub(encoder: str) -> dict[str, str]:
    repository, revision = hub_repository(encoder) or ("", "")
    return {"repository": repository, "revision": revision}


def _of_timm(encoder: str) -> EncoderDeclaration:
    import timm

    name = encoder.removeprefix("timm:")
    # Names with another scheme would be fetched by timm itself.
    if ":" in name or "/" in name or not timm.is_model(name):
        raise UnknownNameError("encoder", encoder, [*declarations(), *timm.list_models()])
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if config is None:
        return EncoderDeclaration(title=name, library="timm", architecture=name)
    hub = config.hf_hub_id or ""
    return EncoderDeclaration(
        title=name,
        library="timm",
        architecture=name,
        repository=hub,
        file=config.hf_hub_filename or ("model.safetensors" if hub else ""),
        mean=config.mean,
        std=config.std,
        input_size=config.input_size[-1],
        licence=config.license or "",
    )


def _kernel(interpolation: object) -> str:
    return str(interpolation) if interpolation in {"bilinear", "bicubic"} else "area"
