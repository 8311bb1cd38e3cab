"""Commands that make results: run, tune, import-weights."""

from __future__ import annotations

import json
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.options import (
    DEFAULT_DEVICE,
    DEFAULT_PRECISION,
    FAILED,
    AliasesOption,
    CompileOption,
    DataRootOption,
    DatasetOption,
    Device,
    DeviceOption,
    ExecutorOption,
    FoldsOption,
    GpusOption,
    Isolation,
    IsolationOption,
    JobsOption,
    JsonOption,
    MethodOption,
    NoSharedDiskOption,
    PanelOption,
    Precision,
    PrecisionOption,
    PresetOption,
    ProfileOption,
    ProtocolOption,
    RayAddressOption,
    RayCpusOption,
    RayGpusOption,
    ResultsOption,
    SeedOption,
    SettingsOption,
    SubmitOnlyOption,
    TimeLimitOption,
    TrackingOption,
    executor_options,
    names,
    numbers,
    read_seconds,
    settings_of,
)
from bench.cli.terminal import complain, terminal_width
from bench.execute.executors.options import RAY, ExecutorOptions
from bench.execute.request import Request
from bench.tune.choices import Budget, Pruner, Sampler, Score
from bench.tune.request import TuneRequest

if TYPE_CHECKING:
    from bench.execute.run import RunResult


def run_command(
    ctx: typer.Context,
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            help="Dataset name, or the path of a card; required unless --config names one.",
            show_default=False,
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            help="Methods, comma-separated: names of 'bench list' or paths such as ./mine.py.",
        ),
    ] = None,
    protocol: ProtocolOption = Request.protocol,
    panel: PanelOption = None,
    aliases: AliasesOption = None,
    folds: FoldsOption = None,
    preset: PresetOption = Request.preset,
    config: Annotated[
        Path | None,
        typer.Option(
            help="YAML file of these options and settings, such as best.yaml of 'bench tune'.",
            show_default="none",
        ),
    ] = None,
    settings: SettingsOption = None,
    seed: SeedOption = Request.seed,
    device: DeviceOption = DEFAULT_DEVICE,
    precision: PrecisionOption = DEFAULT_PRECISION,
    compile_encoders: CompileOption = Request.compile,
    data_root: DataRootOption = None,
    results: ResultsOption = Request.results,
    tracking: TrackingOption = None,
    force: Annotated[bool, typer.Option("--force", help="Redo finished folds.")] = Request.force,
    no_oracles: Annotated[
        bool, typer.Option("--no-oracles", help="Leave out the row of the depth oracle.")
    ] = not Request.oracles,
    executor: ExecutorOption = ExecutorOptions.executor,
    jobs: JobsOption = ExecutorOptions.jobs,
    gpus: GpusOption = None,
    time_limit: TimeLimitOption = None,
    isolation: IsolationOption = Isolation.process,
    profile: ProfileOption = None,
    submit_only: SubmitOnlyOption = False,
    ray_address: RayAddressOption = None,
    no_shared_disk: NoSharedDiskOption = not ExecutorOptions.shared_disk,
    ray_cpus: RayCpusOption = ExecutorOptions.ray_cpus,
    ray_gpus: RayGpusOption = ExecutorOptions.ray_gpus,
    as_json: JsonOption = False,
) -> None:
    """Run methods on a dataset; finished folds are kept, so the same call resumes."""
    from bench.cli.config_file import combine, read_config, require_method_and_dataset

    values = _values(
        method=method,
        folds=folds,
        settings=settings,
        device=device,
        precision=precision,
        dataset=dataset,
        protocol=protocol,
        panel=panel,
        aliases=aliases,
        preset=preset,
        seed=seed,
        data_root=data_root,
        results=results,
        force=force,
        oracles=not no_oracles,
        compile=compile_encoders,
    )
    if config is not None:
        values = combine(values, _typed(ctx), read_config(config), config)
    require_method_and_dataset(values)
    where = executor_options(
        executor=executor,
        jobs=jobs,
        gpus=gpus,
        time_limit=time_limit,
        isolation=isolation,
        profile=profile,
        submit_only=submit_only,
        ray_address=ray_address,
        no_shared_disk=no_shared_disk,
        ray_cpus=ray_cpus,
        ray_gpus=ray_gpus,
    )
    _run(Request(**values), tracking, as_json, where)


def tune_command(
    method: Annotated[str, typer.Option("--method", "-m", help="Methods, comma-separated.")],
    dataset: DatasetOption,
    protocol: ProtocolOption = Request.protocol,
    panel: PanelOption = None,
    aliases: AliasesOption = None,
    folds: Annotated[
        str | None, typer.Option(help="Outer folds, such as 0,2.", show_default="all")
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Trials of each study: a method on an outer fold.")
    ] = TuneRequest.trials,
    timeout: Annotated[
        str | None,
        typer.Option(help="Time of the trials of each study, such as 2h.", show_default="none"),
    ] = None,
    budget: Annotated[
        Budget,
        typer.Option(help="What is equal for all methods: trials and time, or time alone."),
    ] = Budget.equal,
    objective: Annotated[
        Score, typer.Option(help="Score on the inner folds that is optimised.")
    ] = TuneRequest.objective,
    inner_folds: Annotated[
        int, typer.Option(min=2, help="Inner folds at most, made of the training patients.")
    ] = TuneRequest.inner_folds,
    sampler: Annotated[
        Sampler, typer.Option(help="How settings are suggested.")
    ] = TuneRequest.sampler,
    pruner: Annotated[
        Pruner, typer.Option(help="How trials are ended early.")
    ] = TuneRequest.pruner,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=1, help="Worker processes.")
    ] = TuneRequest.jobs,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Database of the trials, such as postgresql+psycopg://user@host/name.",
            show_default="a journal file in the results",
        ),
    ] = None,
    preset: PresetOption = Request.preset,
    settings: SettingsOption = None,
    seed: SeedOption = Request.seed,
    device: DeviceOption = DEFAULT_DEVICE,
    precision: PrecisionOption = DEFAULT_PRECISION,
    data_root: DataRootOption = None,
    results: ResultsOption = Request.results,
    tracking: TrackingOption = None,
    executor: ExecutorOption = ExecutorOptions.executor,
    profile: ProfileOption = None,
    submit_only: SubmitOnlyOption = False,
    ray_address: RayAddressOption = None,
    no_shared_disk: NoSharedDiskOption = not ExecutorOptions.shared_disk,
    ray_cpus: RayCpusOption = ExecutorOptions.ray_cpus,
    ray_gpus: RayGpusOption = ExecutorOptions.ray_gpus,
    as_json: JsonOption = False,
) -> None:
    """Tune methods on the training sections of each fold, then score the best once on its test.

    The same call goes on after an interruption, and a second one beside it shares the work.
    --set fixes a setting.
    """
    from bench.execute.executors.choose import make_executor
    from bench.tracking.upload import Tracker, tracking_uri
    from bench.tune.progress import TerminalTuningWatcher
    from bench.tune.request import equal_budget
    from bench.tune.runners import make_study_runner
    from bench.tune.tuning import refit, tune

    where = make_executor(
        ExecutorOptions(
            executor,
            profile=profile,
            submit_only=submit_only,
            ray_address=ray_address if executor == RAY else None,
            shared_disk=not no_shared_disk,
            ray_cpus=ray_cpus,
            ray_gpus=ray_gpus,
        )
    )
    _fetch_if_absent(dataset, data_root)
    request = equal_budget(
        TuneRequest(
            run=_request(
                method=method,
                folds=folds,
                settings=settings,
                device=device,
                precision=precision,
                dataset=dataset,
                protocol=protocol,
                panel=panel,
                aliases=aliases,
                preset=preset,
                seed=seed,
                data_root=data_root,
                results=results,
            ),
            trials=trials,
            timeout=read_seconds(timeout) if timeout else None,
            jobs=jobs,
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            objective=objective,
            inner_folds=inner_folds,
        ),
        budget,
    )
    with redirect_stdout(sys.stderr), TerminalTuningWatcher() as watcher:
        found, failed = tune(request, watcher, make_study_runner(where, watcher))
        outcomes = []
        if found:
            tracker = Tracker(tracking_uri(tracking, results), results, watcher.warn)
            outcomes = refit(request, found, uploads=tracker, watcher=watcher, executor=where)
    if outcomes:
        _print_tuned(outcomes, as_json)
    for one in failed:
        complain(f"{one.method}, fold {one.fold}: no trial gave a value; {'; '.join(one.reasons)}")
    if failed or any(outcome.failures for outcome in outcomes):
        raise typer.Exit(FAILED)


def _print_tuned(outcomes: list[RunResult], as_json: bool) -> None:
    from bench.report.pairs import tuned_pairs, write_pairs
    from bench.report.tables import render

    runs = [run for outcome in outcomes for run in outcome.runs]
    plan = outcomes[0].plan
    pairs = tuned_pairs(runs)
    title = f"{plan.dataset.card.name}, protocol {plan.protocol.name}, folds {plan.folds.hash[:12]}"
    if as_json:
        content = json.loads(render(runs, "json"))
        content["pairs"] = json.loads(write_pairs(pairs, "json"))["rows"]
        typer.echo(json.dumps(content, indent=2))
        return
    typer.echo(f"\n{render(runs, 'text', title=title, width=terminal_width())}")
    typer.echo(write_pairs(pairs, "text", title="Tuned against default, on the test sections"))


def import_weights_command(
    method: MethodOption,
    dataset: DatasetOption,
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", "-c", help="Checkpoint as the method's authors save it.")
    ],
    protocol: ProtocolOption = Request.protocol,
    panel: PanelOption = None,
    aliases: AliasesOption = None,
    folds: FoldsOption = None,
    preset: PresetOption = Request.preset,
    settings: SettingsOption = None,
    seed: SeedOption = Request.seed,
    device: DeviceOption = DEFAULT_DEVICE,
    precision: PrecisionOption = DEFAULT_PRECISION,
    data_root: DataRootOption = None,
    results: ResultsOption = Request.results,
    tracking: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a run out of a released checkpoint: nothing is trained, all else is as in 'bench run'.

    Nothing in the file is executed. A checkpoint belongs to one training set: name the fold
    that it was held out of with --folds.
    """
    request = _request(
        method=method,
        folds=folds,
        settings=settings,
        device=device,
        precision=precision,
        dataset=dataset,
        protocol=protocol,
        panel=panel,
        aliases=aliases,
        preset=preset,
        seed=seed,
        data_root=data_root,
        results=results,
        checkpoint=checkpoint,
        oracles=False,
    )
    _run(request, tracking, as_json)


def _values(
    *,
    method: str | None,
    folds: str | None,
    settings: list[str] | None,
    device: Device,
    precision: Precision,
    **options: Any,
) -> dict[str, Any]:
    """Fields of a request from options as they were typed."""
    return {
        "methods": names(method),
        "folds": numbers(folds),
        "settings": settings_of(settings),
        "device": device.value,
        "precision": precision.value,
        **options,
    }


def _request(**options: Any) -> Request:
    return Request(**_values(**options))


def _typed(ctx: typer.Context) -> set[str]:
    """Fields of a request whose options were typed."""
    field_names = {"method": "methods", "compile_encoders": "compile"}
    sources = {name: ctx.get_parameter_source(name) for name in ctx.params}
    return {
        field_names.get(name, name)
        for name, source in sources.items()
        if source is not None and source.name == "COMMANDLINE"
    }


def _fetch_if_absent(dataset: str, data_root: Path | None) -> None:
    from bench.data.dataset import is_here
    from bench.registry import dataset_card

    card = dataset_card(dataset)
    if data_root is not None or is_here(card, None):
        return
    from bench.cli.download_bar import DownloadBar
    from bench.data.fetching.fetch import fetch_if_absent

    with DownloadBar() as bar:
        fetch_if_absent(card, data_root, bar)


def _run(
    request: Request,
    tracking: str | None,
    as_json: bool,
    where: ExecutorOptions | None = None,
) -> None:
    from bench.execute.executors.choose import make_executor
    from bench.execute.run import run_request
    from bench.progress import TerminalWatcher
    from bench.tracking.upload import Tracker, tracking_uri

    executor = make_executor(where or ExecutorOptions())
    _fetch_if_absent(request.dataset, request.data_root)
    # Libraries and methods may print; standard output is for the table alone.
    with redirect_stdout(sys.stderr), TerminalWatcher() as watcher:
        tracker = Tracker(tracking_uri(tracking, request.results), request.results, watcher.warn)
        outcome = run_request(request, watcher=watcher, executor=executor, uploads=tracker)
    _print_outcome(outcome, as_json)
    if outcome.failures:
        raise typer.Exit(FAILED)


def _print_outcome(outcome: RunResult, as_json: bool) -> None:
    from bench.report.tables import render

    if as_json:
        content = json.loads(render(outcome.runs, "json"))
        content["failures"] = [vars(failure) for failure in outcome.failures]
        content["left_out"] = dict(outcome.plan.dataset.left_out)
        typer.echo(json.dumps(content, indent=2))
        return
    title = f"{outcome.plan.dataset.card.name}, protocol {outcome.plan.protocol.name}"
    title += f", folds {outcome.plan.folds.hash[:12]}"
    typer.echo("\n" + render(outcome.runs, "text", title=title, width=terminal_width()))
    for failure in outcome.failures:
        run = next(r for r in outcome.plan.runs if r.method_spec.label == failure.label)
        where = run.folder.fold(failure.fold).path / "failure.txt"
        complain(f"{failure.label}, fold {failure.fold} failed: {failure.reason} (see {where})")
