"""Groups of options that several commands take, each declared once."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from typing import Any, get_type_hints

from bench.cli.executor_options import (
    ExecutorOption,
    GpusOption,
    Isolation,
    IsolationOption,
    NoSharedDiskOption,
    ProfileOption,
    RayAddressOption,
    RayCpusOption,
    RayGpusOption,
    SubmitOnlyOption,
    TimeLimitOption,
)
from bench.cli.options import (
    DEFAULT_DEVICE,
    DEFAULT_PRECISION,
    AliasesOption,
    DataRootOption,
    DeviceOption,
    FoldsOption,
    PanelOption,
    PrecisionOption,
    PresetOption,
    ProtocolOption,
    ResultsOption,
    SeedOption,
    SeedsOption,
    SettingsOption,
    TestDataRootOption,
    TestDatasetOption,
    TrackingOption,
    TrainPatientsOption,
    check_file,
    names,
    numbers,
    patients_of,
    read_seconds,
    seeds_of,
    settings_of,
)
from bench.execute.executors.options import RAY, ExecutorOptions
from bench.execute.request import Request


@dataclass(frozen=True, kw_only=True)
class RequestGroup:
    """Options of run, tune and import-weights: all of a request but methods and dataset."""

    protocol: ProtocolOption = Request.protocol
    panel: PanelOption = None
    aliases: AliasesOption = None
    folds: FoldsOption = None
    preset: PresetOption = Request.preset
    settings: SettingsOption = None
    seed: SeedOption = Request.seed
    device: DeviceOption = DEFAULT_DEVICE
    precision: PrecisionOption = DEFAULT_PRECISION
    data_root: DataRootOption = None
    results: ResultsOption = Request.results
    tracking: TrackingOption = None

    def values(self, method: str | None, dataset: str | None, **others: Any) -> dict[str, Any]:
        """Fields of a request.

        Raises
        ------
        BenchError
            The table of gene symbols is missing, or an option cannot be read.
        """
        check_file(self.aliases)
        typed = {name: value for name, value in vars(self).items() if name != "tracking"}
        return {
            **typed,
            "methods": names(method),
            "dataset": dataset,
            "folds": numbers(self.folds),
            "settings": settings_of(self.settings),
            "device": self.device.value,
            "precision": self.precision.value,
            **others,
        }


@dataclass(frozen=True, kw_only=True)
class VariantsGroup:
    """Options of run that make several runs of a method, or test on another dataset."""

    seeds: SeedsOption = None
    test_dataset: TestDatasetOption = Request.test_dataset
    test_data_root: TestDataRootOption = Request.test_data_root
    train_patients: TrainPatientsOption = None

    def values(self) -> dict[str, Any]:
        """Fields of a request."""
        return {
            "seeds": seeds_of(self.seeds),
            "test_dataset": self.test_dataset,
            "test_data_root": self.test_data_root,
            "train_patients": patients_of(self.train_patients),
        }


@dataclass(frozen=True, kw_only=True)
class ExecutorGroup:
    """Options of run and tune on where jobs run."""

    executor: ExecutorOption = ExecutorOptions.executor
    profile: ProfileOption = None
    submit_only: SubmitOnlyOption = False
    ray_address: RayAddressOption = None
    no_shared_disk: NoSharedDiskOption = not ExecutorOptions.shared_disk
    ray_cpus: RayCpusOption = ExecutorOptions.ray_cpus
    ray_gpus: RayGpusOption = ExecutorOptions.ray_gpus

    def options(self, **local: Any) -> ExecutorOptions:
        """Where jobs run; `local` are the fields of this machine's workers."""
        return ExecutorOptions(
            executor=self.executor,
            profile=self.profile,
            submit_only=self.submit_only,
            ray_address=self.ray_address if self.executor == RAY else None,
            shared_disk=not self.no_shared_disk,
            ray_cpus=self.ray_cpus,
            ray_gpus=self.ray_gpus,
            **local,
        )


@dataclass(frozen=True, kw_only=True)
class WorkersGroup:
    """Options of run on the workers of this machine, beside their number."""

    gpus: GpusOption = None
    time_limit: TimeLimitOption = None
    isolation: IsolationOption = Isolation.process

    def values(self) -> dict[str, Any]:
        """Fields of :class:`bench.execute.executors.options.ExecutorOptions`."""
        limit = read_seconds(self.time_limit, "--time-limit") if self.time_limit else None
        return {
            "gpus": numbers(self.gpus, "--gpus") or (),
            "time_limit": limit,
            "isolation": self.isolation.value,
        }


def with_groups(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command take groups: each field of such a parameter is an option of the command."""
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, Any] = {name: kind for name, kind in hints.items() if is_dataclass(kind)}
    parameters: list[inspect.Parameter] = []
    for name, parameter in inspect.signature(command).parameters.items():
        if name not in groups:
            parameters.append(
                parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)
            )
            continue
        own = get_type_hints(groups[name], include_extras=True)
        parameters += [
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=own[field.name],
            )
            for field in fields(groups[name])
        ]

    @wraps(command)
    def flat(**typed: Any) -> None:
        for name, kind in groups.items():
            typed[name] = kind(**{field.name: typed.pop(field.name) for field in fields(kind)})
        command(**typed)

    # What typer reads.
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {one.name: one.annotation for one in parameters}
    return flat
