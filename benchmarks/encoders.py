"""Features of frozen encoders by the harness, against the engine alone."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any, get_args

import torch

from bench.blocks.engines import Engine, openvino_version
from bench.blocks.features import FrozenEncoder
from bench.blocks.frozen import FrozenEncoderConfig
from bench.encoders.declaration import declaration
from bench.worker.memory import peak_device_memory_mb, peak_memory_mb, reset_peak_memory
from benchmarks.fold import synthetic_slide
from benchmarks.networks import Measurement
from benchmarks.timing import seconds_of, spread, summary, synchronize

_ROUND = 5.0
"""Seconds that the engine alone is measured in a round."""


def engines_of(device: str) -> tuple[Engine, ...]:
    """Engines that a device has."""
    able = {"openvino": device == "cpu" and openvino_version() is not None}
    return tuple(engine for engine in get_args(Engine) if able.get(engine, True))


def measure_features(
    encoder: str,
    engine: Engine,
    folder: Path,
    *,
    patches: int,
    edge: int,
    measurement: Measurement,
) -> dict[str, Any]:
    """Patches per second to the features of new sections, and of the engine alone.

    The harness reads the patches that were cut to the disk before; ``cut`` is the rate of that.
    The engine alone is given one batch again and again, which lies on the device as the network
    takes it. ``first_seconds`` is the first batch: it holds what the engine does to the network.
    Weights are random. Features are kept in the cache, as in a run.
    """
    settings = FrozenEncoderConfig(
        encoder=encoder, weights="none", patch_size=edge, input_size=None, engine=engine
    )
    frozen = FrozenEncoder(settings, 0, measurement.device, measurement.precision)
    warm = synthetic_slide(folder, "warm", spots=frozen.batch, patch_pixels=edge)
    start = time.perf_counter()
    frozen.encode([warm])
    first = time.perf_counter() - start
    reset_peak_memory(measurement.device)
    rates: dict[str, list[float]] = {"harness": [], "ceiling": []}
    cut: list[float] = []
    for number in range(measurement.repeats):
        slide = synthetic_slide(folder, f"{engine}{number}", spots=patches, patch_pixels=edge)
        assert slide.patch_source is not None
        resampling = declaration(encoder).resampling
        cutting = partial(slide.patch_source.cut, edge, None, resampling)
        cut.append(patches / seconds_of(cutting, "cpu"))
        duration = seconds_of(partial(frozen.encode, [slide]), measurement.device)
        rates["harness"].append(patches / duration)
        if number == 0:
            memory = {
                "peak_memory_mb": peak_memory_mb(),
                "peak_device_memory_mb": peak_device_memory_mb(measurement.device),
            }
        rates["ceiling"].append(_alone(frozen, edge, engine, measurement.device))
    return {
        "patches": patches,
        "first_seconds": first,
        **summary(rates),
        "cut": spread(cut),
        **memory,
    }


def _alone(frozen: FrozenEncoder, edge: int, engine: Engine, device: str) -> float:
    run, batch = frozen.network(edge, engine), frozen.batch
    images = torch.rand(batch, 3, edge, edge).to(device, memory_format=torch.channels_last)
    done = 0
    with torch.inference_mode():
        run(images)
        synchronize(device)
        start = time.perf_counter()
        while time.perf_counter() - start < _ROUND:
            for _ in range(4):
                run(images)
                done += batch
            synchronize(device)
        return done / (time.perf_counter() - start)
