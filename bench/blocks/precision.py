"""Device, memory layout and precision of a network: fast where it is safe to be."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.method import Context

_Network = TypeVar("_Network", bound=nn.Module)


class ImageModule(nn.Module):
    """The costly part of a network, on images, which :func:`to_device` makes fast.

    Heads, losses and what compares embeddings are left in float32: they take little time, and the
    8 bits of bfloat16 would tell there.

    Attributes
    ----------
    bf16
        Whether it computes in bfloat16, by autocast: parameters stay float32.
    channels_last
        Whether it takes images in that layout, which convolutions are faster in.
    compiled
        Whether it is compiled when it is trained.
    """

    bf16: bool = False
    channels_last: bool = False
    compiled: bool = False
    _compiled: Callable[[Tensor], Tensor] | None = None

    def compute(self, part: Callable[[Tensor], Tensor], images: Tensor) -> Tensor:
        """``part(images)`` in this layout and precision, as the type of the parameters.

        Parameters
        ----------
        part
            What to compute, the same at each call; it holds parameters of this module.
        images : (n, channels, height, width)
        """
        if self.compiled and self.training:
            self._compiled = self._compiled or _compiled(part)
            part = self._compiled
        images = images.contiguous(memory_format=self._layout)
        with torch.autocast(images.device.type, dtype=torch.bfloat16, enabled=self.bf16):
            output = part(images)
        return output.float() if self.bf16 else output

    @property
    def _layout(self) -> torch.memory_format:
        return torch.channels_last if self.channels_last else torch.contiguous_format

    def _set(self, *, bf16: bool, channels_last: bool) -> None:
        self.bf16, self.channels_last = bf16, channels_last
        self.to(memory_format=self._layout)


def to_device(network: _Network, context: Context) -> _Network:
    """Move a network to the device of a context, in its layout and precision; the same network.

    In ``bf16`` the :class:`ImageModule` parts of the network compute in bfloat16 and, on CUDA, all
    other products in TF32; in ``float32`` nothing is rounded further.

    Parameters
    ----------
    network
        Network to move; it is changed.
    context
        Device and precision.

    Returns
    -------
    network
        The same object.
    """
    network.to(context.device)
    fast = context.precision == "bf16"
    for part in _parts(network):
        part._set(bf16=fast, channels_last=True)
    if context.device == "cuda":
        torch.backends.cuda.matmul.allow_tf32 = fast
        torch.backends.cudnn.allow_tf32 = fast
    return network


def compile_training(network: nn.Module) -> None:
    """Let the :class:`ImageModule` parts of a network be compiled when they are next trained."""
    for part in _parts(network):
        part.compiled = True


def reset(network: nn.Module) -> None:
    """Take back what :func:`to_device` and :func:`compile_training` did; the device stays."""
    for part in _parts(network):
        part._set(bf16=False, channels_last=False)
        part.compiled, part._compiled = False, None


def _compiled(part: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    # As a function: a compiled module would be registered as a submodule of the network.
    return torch.compile(lambda images: part(images))


def _parts(network: nn.Module) -> Iterator[ImageModule]:
    return (part for part in network.modules() if isinstance(part, ImageModule))
