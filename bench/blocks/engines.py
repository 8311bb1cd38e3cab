"""Engines that compute features of frozen encoders: PyTorch, compiled or not, or OpenVINO."""

from __future__ import annotations

import warnings
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

import torch
from torch import Tensor

from bench.blocks.encoders import ImageEncoder
from bench.errors import ConfigError
from bench.files import one_line
from bench.method import Precision

Engine = Literal["torch", "compiled", "openvino"]
AskedEngine = Literal["auto", "torch", "compiled", "openvino"]

ENOUGH = 1000
"""Patches of a section from which OpenVINO is faster although it translates the network first."""


def openvino_version() -> str | None:
    """Version of OpenVINO; None where it is not installed."""
    try:
        return version("openvino")
    except PackageNotFoundError:
        return None


def choose_engine(asked: AskedEngine, device: str, patches: int) -> Engine:
    """Engine for the patches of one section; the same on every machine with the same packages.

    Parameters
    ----------
    asked
        Setting; ``auto`` takes OpenVINO where it is installed, on a CPU, from :data:`ENOUGH`
        patches on. It never compiles: that takes a minute, in which a GPU encodes more patches
        than a section has.
    device
        Where the encoder computes.
    patches
        Patches of the section.

    Raises
    ------
    ConfigError
        OpenVINO is asked for and is not installed, or the device is no CPU.
    """
    able = torch.device(device).type == "cpu" and openvino_version() is not None
    if asked == "openvino" and not able:
        raise ConfigError(
            "engine openvino needs a CPU and the package; pip install 'spotbench[openvino]'"
        )
    if asked == "auto":
        return "openvino" if able and patches >= ENOUGH else "torch"
    return asked


class CompiledEncoder:
    """An image encoder compiled by torch for batches of one size.

    Parameters
    ----------
    encoder
        Encoder with its weights on its device, in evaluation mode.
    batch
        Images at once; a smaller batch is filled up.
    """

    def __init__(self, encoder: ImageEncoder, batch: int) -> None:
        self.features = encoder.features
        self._batch = batch
        # A last batch of another size would be compiled anew.
        self._compiled = torch.compile(encoder, dynamic=False)

    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, edge, edge) images, at most a batch, to (n, features).

        Raises
        ------
        ConfigError
            The encoder cannot be compiled here.
        """
        from torch._dynamo.exc import BackendCompilerFailed

        missing = self._batch - len(images)
        filled = torch.cat([images, images[:1].expand(missing, -1, -1, -1)]) if missing else images
        # Another layout would be compiled anew as well.
        filled = filled.contiguous(memory_format=torch.channels_last)
        try:
            found: Tensor = self._compiled(filled)
        except BackendCompilerFailed as error:
            raise ConfigError(
                f"torch cannot compile this encoder here ({one_line(error, 120)}); set engine=torch"
            ) from error
        return found[: len(images)]


class OpenVINOEncoder:
    """An image encoder translated to OpenVINO.

    Parameters
    ----------
    encoder
        Encoder with its weights, on the CPU in evaluation mode.
    edge
        Edge of the images in pixels.
    precision
        What the products are computed in.

    Raises
    ------
    ConfigError
        OpenVINO has no translation of a layer.
    """

    def __init__(self, encoder: ImageEncoder, edge: int, precision: Precision) -> None:
        import openvino

        self.features = encoder.features
        example = torch.zeros(2, 3, edge, edge)
        hint = "bf16" if precision == "bf16" else "f32"
        try:
            with warnings.catch_warnings():
                # Advice for OpenVINO's developers on how a network is traced.
                warnings.simplefilter("ignore")
                model = openvino.convert_model(
                    encoder.model, example_input=example, input=[-1, 3, edge, edge]
                )
            # One batch at a time on all cores: the hint for throughput gives it half of them.
            self._compiled = openvino.compile_model(
                model, "CPU", {"INFERENCE_PRECISION_HINT": hint, "PERFORMANCE_HINT": "LATENCY"}
            )
        except Exception as error:
            # Errors of translation are of many types.
            raise ConfigError(
                f"OpenVINO cannot translate this encoder ({one_line(error, 120)}); set engine=torch"
            ) from error

    def __call__(self, images: Tensor) -> Tensor:
        """(n, 3, edge, edge) images to (n, features) float32."""
        return torch.from_numpy(self._compiled([images.contiguous().numpy()])[0].copy())
