"""Speed of training, prediction, features and retrieval on this machine: ``make speed``."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from bench.blocks.engines import Engine
from bench.cli.options import names, settings_of
from bench.cli.terminal import complain
from bench.devices import DEVICES, PRECISIONS, choose_device, choose_precision
from bench.errors import BenchError, ConfigError
from bench.execute.method_specs import resolve_methods
from bench.execute.request import Request
from bench.files import write_json
from bench.method import Method, MethodConfig
from bench.registry import find_methods, method_class
from benchmarks.encoders import engines_of, measure_features
from benchmarks.fold import SECTIONS, synthetic_fold
from benchmarks.networks import Measurement, measure_prediction, measure_training
from benchmarks.retrieval import measure_retrieval
from benchmarks.timing import machine

_MOST_BATCHES = 32
_SECTION = 300
"""Spots of a section where a method trains on whole ones."""
_PATCH_PIXELS = 224
_MANY_EPOCHS = 1_000_000
"""A fit ends when it has been measured."""


def parser() -> argparse.ArgumentParser:
    """Options of the command."""
    made = argparse.ArgumentParser(prog="make speed", description=__doc__)
    add = made.add_argument
    add("--method", help="comma-separated, or none; default those that learn spot by spot")
    add("--device", default="auto", choices=DEVICES)
    add("--precision", default="auto", choices=PRECISIONS, help="of image encoders")
    add("--compile", action="store_true", help="compile image encoders in the harness's training")
    add("--batch", type=_positive, help="spots a batch; default 16, on a GPU 128")
    add("--steps", type=_positive, help="training steps a round; default 2, on a GPU 20")
    add("--repeats", type=_positive, default=3, help="rounds")
    add("--seconds", type=float, default=120.0, help="no round begins after so long")
    add("--image-size", type=_positive, help="edge of a patch; default the method's")
    add("--spots", type=_positive, help="training spots; default 32 batches at most")
    add("--test-spots", type=_positive, help="default 16, of whole sections 300, on a GPU 4096")
    add("--genes", type=_positive, default=785)
    add("--queries", type=int, help="of the retrieval, 0 for none; default 2000, on a GPU 30000")
    add("--keys", type=_positive, default=30_000, help="of the retrieval")
    add("--encoder", help="frozen encoders, comma-separated; measured with every engine")
    add("--patches", type=_positive, default=2000, help="of the section that they encode")
    add("--engine", help="engines, comma-separated; default all of the device")
    add("--set", action="append", metavar="KEY=VALUE", help="change a setting")
    add("--plain-set", action="append", metavar="KEY=VALUE", help="in the plain loop alone")
    add("--output", type=Path, metavar="FILE", help="JSON file of all measurements")
    return made


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError("write a number above 0")
    return value


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the options name; JSON values.

    Raises
    ------
    BenchError
        An unknown method or setting, a device that is absent, or a fit that fails.
    """
    device = choose_device(options.device)
    fast = device != "cpu"
    batch = options.batch or (128 if fast else 16)
    measurement = Measurement(
        device=device,
        warm_up=10 if fast else 2,
        steps=options.steps or (20 if fast else 2),
        repeats=options.repeats,
        seconds=options.seconds,
        precision=choose_precision(options.precision, device),
        compile=options.compile,
    )
    chosen = _default_methods() if options.method is None else names(options.method)
    own = {"weights": "none", "batch_size": batch, "patch_size": options.image_size}
    changed = settings_of(options.set)
    kinds = _configured(chosen, own, changed)
    plain = _configured(chosen, own, {**changed, **settings_of(options.plain_set)})
    found: dict[str, Any] = {
        "machine": machine(device),
        "methods": [],
        "encoders": [],
        "retrieval": None,
    }
    whole = _SECTION if any(kind.unit == "section" for kind, _ in kinds) else 0
    trained = measurement.warm_up + measurement.steps * options.repeats
    with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        # Features of random weights stay out of the user's cache.
        os.environ["SPOTBENCH_CACHE"] = f"{folder}/cache"
        fold = synthetic_fold(
            Path(folder),
            spots=options.spots or max(batch * min(_MOST_BATCHES, trained), SECTIONS * whole),
            test_spots=options.test_spots or (4096 if fast else max(16, whole)),
            genes=options.genes,
            patch_pixels=options.image_size or _PATCH_PIXELS,
        )
        for (kind, config), (_, of_plain) in zip(kinds, plain, strict=True):
            method, notes = kind(config), list[str]()
            row = {
                "method": kind.name,
                "settings": config.model_dump(mode="json", exclude={"epochs"}),
                "plain_settings": of_plain.model_dump(mode="json", exclude={"epochs"}),
                "training": measure_training(method, kind(of_plain), fold, measurement, notes),
                "prediction": measure_prediction(method, fold, measurement),
                "notes": notes,
            }
            found["methods"].append(row)
        for encoder in names(options.encoder or ""):
            for engine in _engines(options.engine, device):
                rates = measure_features(
                    encoder,
                    engine,
                    Path(folder),
                    patches=options.patches,
                    edge=options.image_size or _PATCH_PIXELS,
                    measurement=measurement,
                )
                found["encoders"].append({"encoder": encoder, "engine": engine, **rates})
    queries = (30_000 if fast else 2_000) if options.queries is None else options.queries
    if queries > 0:
        found["retrieval"] = measure_retrieval(
            queries, options.keys, options.genes, device, options.repeats
        )
    return found


def _engines(asked: str | None, device: str) -> tuple[Engine, ...]:
    able = engines_of(device)
    if asked is None:
        return able
    if unknown := set(names(asked)) - set(able):
        raise ConfigError(f"no engine {min(unknown)} here; there are {', '.join(able)}")
    return tuple(engine for engine in able if engine in names(asked))


def _default_methods() -> tuple[str, ...]:
    kinds = [method_class(name) for name in find_methods()]
    return tuple(k.name for k in kinds if k.needs_image and k.unit == "spot" and not k.control)


def _configured(
    chosen: tuple[str, ...], own: Mapping[str, Any], changed: Mapping[str, Any]
) -> list[tuple[type[Method], MethodConfig]]:
    """Methods with the authors' settings, random weights and the changes asked for."""
    if chosen == ("none",):
        return []
    fields = {
        name for method in chosen for name in method_class(method).Config.model_fields
    }  # an unknown method is refused here
    values = {key: value for key, value in own.items() if key in fields and value is not None}
    found = []
    for spec in resolve_methods(chosen, "", Request.preset, {**values, **changed}):
        kind = method_class(str(spec.method))
        config = kind.Config.model_validate(spec.config)
        if "epochs" in kind.Config.model_fields:
            config = config.model_copy(update={"epochs": _MANY_EPOCHS})
        found.append((kind, config))
    return found


def tables(found: Mapping[str, Any]) -> str:
    """The measurements as text: median rates, and ratios with their range."""
    parts = {
        phase: {one["method"]: one[phase] for one in found["methods"] if one[phase] is not None}
        for phase in ("training", "prediction")
    }
    if found["encoders"]:
        parts["features"] = {f"{one['encoder']}, {one['engine']}": one for one in found["encoders"]}
    if found["retrieval"] is not None:
        parts["retrieval"] = {"": found["retrieval"]}
    blocks = [
        f"{phase}\n{pd.DataFrame({n: _row(r) for n, r in rows.items()}).T.fillna('-').to_string()}"
        for phase, rows in parts.items()
        if rows
    ]
    notes = [f"{one['method']}: {note}" for one in found["methods"] for note in one["notes"]]
    return "\n\n".join([*blocks, *notes])


def _row(values: Mapping[str, Any]) -> dict[str, str]:
    row = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            row[name] = "{median:.3g} ({lowest:.3g}-{highest:.3g})".format(**value)
        elif isinstance(value, int | float):
            row[name] = f"{value:.3g}"
    return row


def main() -> None:
    """Run the command; an error is one line and status 2."""
    options = parser().parse_args()
    try:
        found = speed(options)
        if options.output is not None:
            write_json(options.output, found)
    except BenchError as error:
        complain(str(error))
        sys.exit(2)
    if (load := found["machine"]["load"]) is not None and load > found["machine"]["cores"] / 2:
        complain(f"the machine was busy (load {load:.1f}): compare ratios, not rates")
    sys.stdout.write(f"{tables(found)}\n")


if __name__ == "__main__":
    main()
