"""Features of a whole slide in stripes, against the encoder alone on the same tiles.

``python -m benchmarks.whole_slide`` writes a pyramid of JPEG tiles with the description of an
Aperio slide into a temporary folder, and prints what was measured as JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import imagecodecs
import numpy as np
import tifffile
from PIL import Image

from bench.blocks.features import FrozenEncoder
from bench.blocks.frozen import FrozenEncoderConfig
from bench.data.images.slide_patches import STRIPE_SPOTS, Stripes, slide_patches, stripe_ranges
from bench.data.images.tissue import TissueGrid, find_tissue, tissue_grid
from bench.data.images.whole_slide import open_slide
from bench.data.inputs import Slide
from bench.devices import DEVICES, choose_device
from bench.files import atomic_write
from bench.worker.memory import peak_memory_mb, reset_peak_memory
from benchmarks.timing import machine

_EDGE = 256
_SCALE = 0.25
_REDUCTIONS = (1, 4, 16, 64)
_TISSUES, _GLASSES = 24, 4
_SMALLEST_LEVEL = 64
_HALF_AXES = (0.36, 0.22)  # of the ellipse of tissue, as shares of width and height
_EVERY = 4  # stripes, of one of which the encoder alone is measured


def write_slide(path: Path, width: int, height: int, seed: int = 0) -> None:
    """Write a slide of a few tiles, again and again: an ellipse of tissue on glass."""
    rng = np.random.default_rng(seed)
    tissue = [_tile(rng, tissue=True) for _ in range(_TISSUES)]
    glass = [_tile(rng, tissue=False) for _ in range(_GLASSES)]
    text = (
        f"Aperio Image Library v11.2.1\r\n{width}x{height} [0,0 {width}x{height}]"
        f" ({_EDGE}x{_EDGE}) JPEG/RGB Q=75|AppMag = 40|MPP = {_SCALE}"
    )

    def tiles(across: int, down: int) -> Iterator[bytes]:
        for place in range(across * down):
            row, column = divmod(place, across)
            x, y = (column + 0.5) / across - 0.5, (row + 0.5) / down - 0.5
            inside = (x / _HALF_AXES[0]) ** 2 + (y / _HALF_AXES[1]) ** 2 < 1
            yield tissue[place * 7 % _TISSUES] if inside else glass[place % _GLASSES]

    shared: dict[str, Any] = {"metadata": None, "description": text, "software": False}
    with atomic_write(path) as temporary, tifffile.TiffWriter(temporary, bigtiff=True) as writer:
        for reduction in _REDUCTIONS:
            size = (height // reduction, width // reduction)
            if reduction > 1 and min(size) < _SMALLEST_LEVEL:
                break
            down, across = (math.ceil(side / _EDGE) for side in size)
            writer.write(
                tiles(across, down),
                shape=(*size, 3),
                dtype=np.uint8,
                tile=(_EDGE, _EDGE),
                photometric="ycbcr",
                subsampling=(2, 2),
                compression="jpeg",
                **shared,
            )
            if reduction == 1:  # Aperio's thumbnail
                writer.write(np.full((64, 80, 3), 240, np.uint8), photometric="rgb", **shared)


def _tile(rng: np.random.Generator, *, tissue: bool) -> bytes:
    pixels = np.full((_EDGE, _EDGE, 3), 243, dtype=np.int64)
    if tissue:
        coarse = Image.fromarray(rng.integers(83, 174, (32, 32, 3), dtype=np.uint8))
        texture = np.asarray(coarse.resize((_EDGE, _EDGE), Image.Resampling.BICUBIC))
        pixels = np.array((190, 120, 175)) + texture.astype(np.int64) - 128
    pixels = pixels + rng.integers(-8 if tissue else -2, 9 if tissue else 3, (_EDGE, _EDGE, 1))
    shown = np.clip(pixels, 0, 255).astype(np.uint8)
    return bytes(imagecodecs.jpeg_encode(shown, level=75, subsampling="420"))


def measure_slide(
    path: Path, encoder: str, *, pitch_um: float, edge: int, device: str, spots: int = STRIPE_SPOTS
) -> dict[str, Any]:
    """Seconds and memory from the file to the features of all tiles, and the encoder's own.

    The features of some stripes are computed once more from the same patches, which are in memory
    then, while nothing else is read; ``beyond_encoder`` is how much longer they took in the
    stripes. Weights are random.
    """
    reset_peak_memory()
    start = time.perf_counter()
    with open_slide(path) as slide:
        grid = tissue_grid(find_tissue(slide), pitch_um, slide.micrometres_per_pixel)
        found = time.perf_counter()
        source = slide_patches(slide, grid.spatial)
        hashed = time.perf_counter()
        size = (slide.width, slide.height)
    settings = FrozenEncoderConfig(
        encoder=encoder,
        weights="none",
        patch_size=f"{pitch_um:g}um",
        input_size=edge,
        engine="torch",
    )
    frozen = FrozenEncoder(settings, 0, device)
    ranges = stripe_ranges(grid.array_xy[:, 1], spots)
    together, alone, total = 0.0, 0.0, 0.0
    with Stripes(source, ranges) as stripes:
        for number, (some, part) in enumerate(stripes):
            held: list[np.ndarray] = []

            def cut(*asked: Any, part: Any = part, held: list[np.ndarray] = held) -> np.ndarray:
                held.append(part.cut(*asked))
                return held[-1]

            begun = time.perf_counter()
            frozen.encode([_slide_of(grid, some, replace(part, cutter=cut))])
            spent = time.perf_counter() - begun
            total += spent
            if number % _EVERY == 1 or (number == 0 and len(ranges) == 1):
                same = replace(part, image_hash="alone", cutter=lambda *_, held=held: held[-1])
                begun = time.perf_counter()
                frozen.encode([_slide_of(grid, some, same)])
                alone += time.perf_counter() - begun
                together += spent
    return {
        "size": size,
        "file_gb": path.stat().st_size / 1e9,
        "tiles": len(grid),
        "stripes": len(ranges),
        "seconds_to_grid": found - start,
        "seconds_to_hash": hashed - found,
        "seconds_of_features": total,
        "beyond_encoder": together / alone - 1,
        "peak_memory_mb": peak_memory_mb(),
    }


def _slide_of(grid: TissueGrid, spots: range, source: Any) -> Slide:
    some = slice(spots.start, spots.stop)
    return Slide(
        "slide",
        grid.array_xy[some],
        grid.spatial[some],
        round(grid.pitch_pixels),
        source,
        micrometres_per_pixel=grid.pitch_um / grid.pitch_pixels,
    )


def parser() -> argparse.ArgumentParser:
    """Options of the command."""
    made = argparse.ArgumentParser(prog="python -m benchmarks.whole_slide", description=__doc__)
    add = made.add_argument
    add("--width", type=int, default=100_000, help="pixels")
    add("--height", type=int, default=80_000, help="pixels")
    add("--pitch", type=float, default=100.0, help="of the grid in micrometres")
    add("--encoder", default="timm:resnet18")
    add("--image-size", type=int, default=224, help="edge of a patch")
    add("--device", default="auto", choices=DEVICES)
    return made


def main() -> int:
    """Measure and print."""
    options = parser().parse_args()
    device = choose_device(options.device)
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        os.environ["SPOTBENCH_CACHE"] = f"{folder}/cache"
        path = Path(folder) / "slide.svs"
        write_slide(path, options.width, options.height)
        found = measure_slide(
            path, options.encoder, pitch_um=options.pitch, edge=options.image_size, device=device
        )
    sys.stdout.write(json.dumps({"machine": machine(device), **found}, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
