"""A whole measurement: methods and retrieval, with what must be known of the machine."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from bench.devices import choose_device, choose_precision
from bench.errors import BenchError
from bench.execute.environment import package_versions
from bench.execute.method_specs import resolve_methods
from bench.execute.request import Request
from bench.method import Method, MethodConfig
from bench.registry import find_methods, method_class
from bench.speed.fold import SECTIONS, SYNTHETIC, SpeedFold, dataset_fold, synthetic_fold
from bench.speed.machine import busy_warning, load_average, machine
from bench.speed.measure import SpeedRequest, measure_method
from bench.speed.retrieval import RetrievalSize, measure_retrieval

Row = dict[str, str]

_LOOPS = (
    ("spot by spot", "loop", "ratio"),
    ("after one product", "after_one_product", "ratio_to_after_one_product"),
)
_MOST_BATCHES = 32
_SECTION = 300
"""Spots of a section where methods train on whole ones."""
_PATCH_PIXELS = 224


@dataclass(frozen=True)
class SpeedOptions:
    """What a user asked for; see the options of ``bench speed``. None takes the device's default.

    Attributes
    ----------
    methods
        Names; None for all that learn from images spot by spot, controls left out.
    settings, plain_settings
        Values by ``setting`` or ``method.setting``; the second are of the plain loop alone.
    """

    methods: tuple[str, ...] | None = None
    dataset: str = SYNTHETIC
    data_root: Path | None = None
    device: str = "auto"
    batch: int | None = None
    steps: int | None = None
    repeats: int = 3
    seconds: float = 120.0
    precision: str = "auto"
    compile: bool = False
    image_size: int | None = None
    spots: int | None = None
    test_spots: int | None = None
    genes: int = 785
    trajectory: int = 0
    reference: bool = True
    retrieval: bool = True
    queries: int | None = None
    keys: int = 30_000
    top_k: int = 200
    settings: Mapping[str, Any] = field(default_factory=dict)
    plain_settings: Mapping[str, Any] = field(default_factory=dict)


def measure(options: SpeedOptions, progress: Callable[[str], None]) -> dict[str, Any]:
    """Measure methods and retrieval on this machine.

    Parameters
    ----------
    options
        What to measure, and how long.
    progress
        Told what is being done.

    Returns
    -------
    dict
        JSON values: ``machine``, ``versions``, ``load_before``, ``load_after``, ``date``,
        ``options``, ``warnings``, ``methods`` (see
        :func:`bench.speed.measure.measure_method`) and ``retrieval`` (see
        :func:`bench.speed.retrieval.measure_retrieval`).

    Raises
    ------
    BenchError
        An unknown method, dataset or setting; a device that is not there; a fit that fails.
    """
    load = load_average()
    device = choose_device(options.device)
    fast = device != "cpu"
    batch = options.batch or (128 if fast else 16)
    request = SpeedRequest(
        device=device,
        warm_up=10 if fast else 2,
        steps=options.steps or (20 if fast else 2),
        repeats=options.repeats,
        seconds=options.seconds,
        precision=choose_precision(options.precision, device),
        compile=options.compile,
        reference=options.reference,
        trajectory=options.trajectory,
    )
    named = _default_methods() if options.methods is None else options.methods
    chosen = _configured(named, batch, options, options.settings)
    plain = _configured(named, batch, options, {**options.settings, **options.plain_settings})
    warning = busy_warning(load)
    found: dict[str, Any] = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(device),
        "versions": package_versions(),
        "options": {
            **asdict(options),
            "data_root": None if options.data_root is None else str(options.data_root),
            "batch": batch,
            "precision": request.precision,
            "steps": request.steps,
        },
        "load_before": load,
        "warnings": [] if warning is None else [warning],
        "methods": [],
        "retrieval": None,
    }
    if chosen:
        trained = request.warm_up + request.steps * request.repeats
        whole = _SECTION if any(kind.unit == "section" for kind, _ in chosen) else 0
        spots = options.spots or max(batch * min(_MOST_BATCHES, trained), SECTIONS * whole)
        test_spots = options.test_spots or (4096 if fast else max(16, whole))
        with TemporaryDirectory() as folder:
            fold = _fold(options, Path(folder), chosen, spots, test_spots)
            found["methods"] = [
                measure_method(kind, config, fold, request, progress, of_plain)
                for (kind, config), (_, of_plain) in zip(chosen, plain, strict=True)
            ]
    if options.retrieval:
        size = RetrievalSize(
            queries=options.queries or (30_000 if fast else 2_000),
            keys=options.keys,
            top_k=min(options.top_k, options.keys),
        )
        found["retrieval"] = measure_retrieval(size, device, options.repeats, progress)
    found["load_after"] = load_average()
    return found


def method_rows(found: Mapping[str, Any], phase: Literal["training", "prediction"]) -> list[Row]:
    """Rows of the printed table, one a method: medians, and for ratios their range."""
    rows = []
    for one in found["methods"]:
        part = one[phase]
        if part is None:
            continue
        row = {
            "method": one["method"],
            "images/s": _rate(part, "end_to_end"),
            "ceiling": _rate(part, "ceiling"),
            "of ceiling": _ratio(part, "ratio_to_ceiling"),
        }
        if phase == "training":
            row["plain"] = _rate(part, "reference")
            row["times plain"] = _ratio(part, "ratio_to_reference")
        rows.append(row)
    return rows


def memory_rows(found: Mapping[str, Any]) -> list[Row]:
    """Rows of the printed table of the harness's peak memory, one a method."""
    return [
        {
            "method": one["method"],
            "training": "-" if one["training"] is None else _gigabytes(one["training"]),
            "prediction": _gigabytes(one["prediction"]),
        }
        for one in found["methods"]
    ]


def retrieval_rows(found: Mapping[str, Any]) -> list[Row]:
    """Rows of the retrieval, one a loop; none where it was left out."""
    part = found["retrieval"]
    if part is None:
        return []
    size = part["size"]
    return [
        {
            "queries in keys": f"{size['queries']} in {size['keys']}",
            "queries/s": _short(part["harness"]["queries_per_second"]["median"]),
            "loop": name,
            "its": _short(part[key]["queries_per_second"]["median"]),
            "ratio": _spread(part[ratio]),
        }
        for name, key, ratio in _LOOPS
    ]


def _default_methods() -> tuple[str, ...]:
    kinds = [method_class(name) for name in find_methods()]
    return tuple(k.name for k in kinds if k.needs_image and k.unit == "spot" and not k.control)


def _configured(
    named: tuple[str, ...], batch: int, options: SpeedOptions, settings: Mapping[str, Any]
) -> list[tuple[type[Method], MethodConfig]]:
    """Methods with the authors' settings, from random weights, changed as asked."""
    if not named:
        return []
    own: dict[str, Any] = {"weights": "none", "batch_size": batch}
    if options.image_size is not None:
        own["patch_size"] = options.image_size
    fields = {setting for name in named for setting in _fields(name)}
    values = {key: value for key, value in own.items() if key in fields}
    dataset = "" if options.dataset == SYNTHETIC else options.dataset
    found = []
    for method_spec in resolve_methods(named, dataset, Request.preset, {**values, **settings}):
        if method_spec.method is None or method_spec.shuffled:
            raise BenchError(f"{method_spec.label} fits nothing of its own; name a method")
        kind = method_class(method_spec.method)
        found.append((kind, kind.Config.model_validate(method_spec.config)))
    return found


def _fields(name: str) -> set[str]:
    """Settings of a method; none of what is no method, which is refused by name later."""
    return set(method_class(name).Config.model_fields) if name in find_methods() else set()


def _fold(
    options: SpeedOptions,
    folder: Path,
    chosen: list[tuple[type[Method], MethodConfig]],
    spots: int,
    test_spots: int,
) -> SpeedFold:
    if options.dataset == SYNTHETIC:
        return synthetic_fold(
            folder,
            spots=spots,
            test_spots=test_spots,
            genes=options.genes,
            patch_pixels=options.image_size or _PATCH_PIXELS,
        )
    images = any(kind.needs_image for kind, _ in chosen)
    return dataset_fold(
        options.dataset,
        spots=spots,
        test_spots=test_spots,
        images=images,
        data_root=options.data_root,
    )


def _spread(values: Mapping[str, Any]) -> str:
    """Median and range."""
    low, middle, high = (_short(values[name]) for name in ("lowest", "median", "highest"))
    return f"{middle} ({low}-{high})"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _rate(part: Mapping[str, Any], name: str) -> str:
    return _short(part[name]["images_per_second"]["median"]) if name in part else "-"


def _ratio(part: Mapping[str, Any], name: str) -> str:
    return _spread(part[name]) if name in part else "-"


def _gigabytes(part: Mapping[str, Any]) -> str:
    """Largest memory of the process and, after a plus, of the GPU."""
    parts = (part["peak_memory_mb"], part["peak_device_memory_mb"])
    return " + ".join(f"{value / 1024:.1f}" for value in parts if value is not None) or "-"
