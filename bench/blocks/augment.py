"""Random changes of a batch of patches, drawn anew for each patch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Augmentation = Literal["none", "jitter_flip_rotate", "quarter_turns"]

BRIGHTNESS, CONTRAST, SATURATION = range(3)

# Shares of red, green and blue in the gray of torchvision.
_GRAY = (0.2989, 0.587, 0.114)
# Patches changed at once: on a CPU what stays in its cache, on a GPU enough for few launches.
_ON_CPU, _ON_GPU = 8, 64


def augmentation(kind: Augmentation) -> Callable[[Tensor], Tensor]:
    """Random change of a batch of patches, drawn anew for each patch.

    ``jitter_flip_rotate``: brightness, contrast and saturation within 50 % in a random order,
    horizontal flip, rotation by any angle with black corners. ``quarter_turns``: one of the
    eight symmetries of a square, as flips both ways and a multiple of 90 degrees draw it.

    All is drawn on the CPU from torch's generator, so that a seed gives the same changes on
    every device, and a GPU is not waited for.

    Parameters
    ----------
    kind
        ``jitter_flip_rotate``, ``quarter_turns`` or ``none``.

    Returns
    -------
    callable
        (n, 3, edge, edge) uint8 in any order of memory to the same.
    """
    if kind == "none":
        return lambda patches: patches
    return _jitter_flip_rotate if kind == "jitter_flip_rotate" else _quarter_turns


def _jitter_flip_rotate(patches: Tensor) -> Tensor:
    n = len(patches)
    drawn = (
        torch.rand(n, 3).argsort(dim=1),
        torch.empty(n, 3).uniform_(0.5, 1.5),
        torch.rand(n) < 0.5,
        torch.empty(n).uniform_(-180, 180),
    )
    operations, factors, flipped, degrees = (
        values.to(patches.device, non_blocking=True) for values in drawn
    )
    changed = torch.empty_like(patches)
    size = _ON_CPU if patches.is_cpu else _ON_GPU
    for start in range(0, n, size):
        some = slice(start, start + size)
        coloured = jitter(patches[some], operations[some], factors[some])
        changed[some] = flip_rotate(coloured, flipped[some], degrees[some])
    return changed


def _quarter_turns(patches: Tensor) -> Tensor:
    symmetries = torch.randint(8, (len(patches),)).tolist()
    changed = torch.empty_like(patches)
    for target, patch, symmetry in zip(changed, patches, symmetries, strict=True):
        turns, mirrored = symmetry % 4, symmetry >= 4
        target.copy_(torch.rot90(patch.flip(2) if mirrored else patch, turns, dims=(1, 2)))
    return changed


def jitter(patches: Tensor, operations: Tensor, factors: Tensor) -> Tensor:
    """Change brightness, contrast and saturation of each patch, as torchvision does.

    Each operation moves the pixels away from, or towards, black, the patch's mean gray or their
    own gray: ``factor * pixel + (1 - factor) * that``, cut to 0..255 and to whole levels.

    Parameters
    ----------
    patches : (n, 3, height, width) uint8
    operations : (n, steps) int64
        ``BRIGHTNESS``, ``CONTRAST`` or ``SATURATION``, in the order they are applied.
    factors : (n, steps) float32
        Of these operations.

    Returns
    -------
    (n, 3, height, width) uint8
    """
    levels = patches.to(torch.float32, memory_format=torch.contiguous_format)
    for operation, factor in zip(operations.T, factors.T, strict=True):
        operation, factor = operation[:, None, None], factor[:, None, None, None]
        red, green, blue = levels.unbind(1)
        gray = red.mul(_GRAY[0]).add_(green, alpha=_GRAY[1]).add_(blue, alpha=_GRAY[2]).floor_()
        mean = gray.mean(dim=(1, 2), keepdim=True)
        towards = gray.mul_(operation == SATURATION).add_(mean * (operation == CONTRAST))
        levels.mul_(factor).addcmul_(towards[:, None], 1 - factor).clamp_(0, 255).floor_()
    return levels.to(torch.uint8)


def flip_rotate(patches: Tensor, flipped: Tensor, degrees: Tensor) -> Tensor:
    """Mirror patches left to right, then turn them about their centre, corners black.

    A pixel is that of the source that is nearest.

    Parameters
    ----------
    patches : (n, 3, height, width) uint8
    flipped : (n,) bool
        Which to mirror.
    degrees : (n,) float32
        Angles, counter-clockwise.

    Returns
    -------
    (n, 3, height, width) uint8
    """
    height, width = patches.shape[2:]
    middle_x, middle_y = (width - 1) / 2, (height - 1) / 2
    x = torch.arange(width, device=patches.device) - middle_x
    y = torch.arange(height, device=patches.device)[:, None] - middle_y
    angle = degrees.deg2rad()[:, None, None]
    cos, sin = angle.cos(), angle.sin()
    side = torch.where(flipped, -1.0, 1.0)[:, None, None]
    column = (side * cos * x + (middle_x - side * sin * y)).round_()
    row = (sin * x + (middle_y + cos * y)).round_()
    outside = (column != column.clamp(0, width - 1)) | (row != row.clamp(0, height - 1))
    # Sources outside the patch read a black pixel appended to it.
    source = row.mul_(width).add_(column).masked_fill_(outside, height * width).long()
    pixels = F.pad(patches.flatten(2), (0, 1))
    return pixels.gather(2, source.flatten(1)[:, None].expand(-1, 3, -1)).view(patches.shape)
