"""The commands. Each is thin over a function; heavy imports stay inside the commands."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.errors import BenchError
from bench.tune.choices import Budget, Pruner, Sampler, Score

if TYPE_CHECKING:
    from bench.comparison import Outcome
    from bench.execute.plan import Request
    from bench.store import StoredRun

DONE, REFUSED, FAILED, INTERRUPTED = 0, 2, 1, 130

app = typer.Typer(
    name="bench",
    help="Benchmark methods that predict spatial gene expression from H&E histology.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(help="Look at a dataset and check its files.", no_args_is_help=True)
app.add_typer(data_app, name="data")


class ListedKind(StrEnum):
    """What ``bench list`` can list."""

    all = "all"
    methods = "methods"
    datasets = "datasets"
    protocols = "protocols"


class TableFormat(StrEnum):
    """How ``bench tables`` can print."""

    text = "text"
    csv = "csv"
    markdown = "markdown"
    latex = "latex"
    json = "json"


class Device(StrEnum):
    """Where networks can run."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"


ResultsOption = Annotated[
    Path, typer.Option("--results", help="Results folder.", envvar="SPOTBENCH_RESULTS")
]
DataRootOption = Annotated[
    Path | None,
    typer.Option("--data-root", help="Folder of the dataset's files.", show_default=False),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
DatasetOption = Annotated[
    str, typer.Option("--dataset", "-d", help="Dataset name, or the path of a card.")
]
StoredProtocolOption = Annotated[
    str | None,
    typer.Option("--protocol", "-p", help="Protocol.", show_default="all that have runs"),
]
MethodOption = Annotated[str, typer.Option("--method", "-m", help="Name of a method.")]
FoldsOption = Annotated[
    str | None, typer.Option(help="Folds to run, such as 0,2.", show_default="all")
]
PresetOption = Annotated[
    str, typer.Option(help="authors' settings, or quick ones for machines without a GPU.")
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change a setting; METHOD.KEY for one."),
]
TrackingOption = Annotated[
    str | None,
    typer.Option(
        metavar="URI|none",
        help="MLflow tracking URI.",
        show_default="$MLFLOW_TRACKING_URI or SQLite in the results folder",
    ),
]
ProtocolOption = Annotated[
    str, typer.Option("--protocol", "-p", help="strict, published, or the path of a YAML file.")
]


@app.command("list")
def list_command(
    kind: Annotated[ListedKind, typer.Argument(help="What to list.")] = ListedKind.all,
    as_json: JsonOption = False,
) -> None:
    """List methods, datasets and protocols."""
    from bench.evaluate.names import ORACLE_SUMMARIES
    from bench.protocol.rules import PROTOCOLS
    from bench.registry import dataset_card, find_datasets, find_methods

    listing: dict[str, list[dict[str, str]]] = {}
    if kind in {ListedKind.all, ListedKind.methods}:
        listing["methods"] = [
            {"name": found.name, "from": found.source, "summary": found.summary}
            for found in find_methods().values()
        ]
        listing["methods"].append(
            {
                "name": "shuffled:METHOD",
                "from": "built-in",
                "summary": "Control: any method that looks at images, its test images permuted.",
            }
        )
        listing["methods"] += [
            {"name": name, "from": "built-in", "summary": summary}
            for name, summary in ORACLE_SUMMARIES.items()
        ]
    if kind in {ListedKind.all, ListedKind.datasets}:
        listing["datasets"] = []
        for name in find_datasets():
            card = dataset_card(name)
            count = f"{len(card.sections)} / {len(card.patients)}"
            listing["datasets"].append(
                {"name": name, "sections / patients": count, "summary": card.title}
            )
    if kind in {ListedKind.all, ListedKind.protocols}:
        listing["protocols"] = [
            {"name": protocol.name, "hash": protocol.hash[:12], "summary": protocol.title}
            for protocol in PROTOCOLS.values()
        ]
    if as_json:
        typer.echo(json.dumps(listing, indent=2))
        return
    for title, rows in listing.items():
        _print_rows(title, rows)


@app.command("run")
def run_command(
    dataset: DatasetOption,
    method: Annotated[
        str | None,
        typer.Option("--method", "-m", help="Methods, comma-separated; see 'bench list'."),
    ] = None,
    protocol: ProtocolOption = "strict",
    folds: FoldsOption = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="authors' settings, or quick ones for machines without a GPU.",
            show_default="authors",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file of a method's settings, as 'bench tune' writes them."),
    ] = None,
    settings: SettingsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="All randomness follows from it.")] = 0,
    device: Annotated[Device, typer.Option(help="Where networks run.")] = Device.auto,
    data_root: DataRootOption = None,
    results: ResultsOption = Path("results"),
    tracking: TrackingOption = None,
    force: Annotated[bool, typer.Option("--force", help="Redo finished folds.")] = False,
    no_oracles: Annotated[
        bool, typer.Option("--no-oracles", help="Leave out the row of the depth oracle.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Run methods on a dataset; finished folds are kept, so the same call resumes."""
    from bench.execute.entrants import read_settings

    methods, pairs = _names(method), settings or []
    if config is not None:
        named, written_for, found = read_settings(config)
        methods = methods or (named,)
        preset, pairs = preset or written_for, [*found, *pairs]
    if not methods:
        raise BenchError(
            "no method named; see 'bench list methods', or name a settings file with --config"
        )
    request = _request(
        folds,
        pairs,
        device,
        methods=methods,
        dataset=dataset,
        protocol=protocol,
        preset=preset or "authors",
        seed=seed,
        data_root=data_root,
        results=results,
        force=force,
        oracles=not no_oracles,
    )
    _carry_out(request, tracking, as_json)


@app.command("tune")
def tune_command(
    method: Annotated[str, typer.Option("--method", "-m", help="Methods, comma-separated.")],
    dataset: DatasetOption,
    protocol: ProtocolOption = "strict",
    folds: Annotated[
        str | None, typer.Option(help="Outer folds, such as 0,2.", show_default="all")
    ] = None,
    trials: Annotated[
        int, typer.Option(min=1, help="Trials of each study: a method on an outer fold.")
    ] = 50,
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
    ] = Score.pcc_acg,
    inner_folds: Annotated[
        int, typer.Option(min=2, help="Inner folds at most, made of the training patients.")
    ] = 3,
    sampler: Annotated[Sampler, typer.Option(help="How settings are suggested.")] = Sampler.tpe,
    pruner: Annotated[Pruner, typer.Option(help="How trials are ended early.")] = Pruner.hyperband,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Worker processes.")] = 1,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Database of the trials, such as postgresql+psycopg://user@host/name.",
            show_default="a journal file in the results",
        ),
    ] = None,
    preset: PresetOption = "authors",
    settings: SettingsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="All randomness follows from it.")] = 0,
    device: Annotated[Device, typer.Option(help="Where networks run.")] = Device.auto,
    data_root: DataRootOption = None,
    results: ResultsOption = Path("results"),
    tracking: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Tune methods on the training sections of each fold, then score the best once on its test.

    The same call goes on after an interruption, and a second one beside it shares the work.
    --set fixes a setting.
    """
    from bench.tune.progress import TerminalTuningWatcher
    from bench.tune.request import TuneRequest, equal_budget, read_seconds
    from bench.tune.tuning import refit, tune

    request = equal_budget(
        TuneRequest(
            run=_request(
                folds,
                settings,
                device,
                methods=_names(method),
                dataset=dataset,
                protocol=protocol,
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
        found, failed = tune(request, watcher)
        outcomes = refit(request, found, tracking=tracking, watcher=watcher) if found else []
    if outcomes:
        _print_tuned(outcomes, as_json)
    for one in failed:
        _complain(f"{one.method}, fold {one.fold}: no trial gave a value; {'; '.join(one.reasons)}")
    if failed or any(outcome.failures for outcome in outcomes):
        raise typer.Exit(FAILED)


def _print_tuned(outcomes: list[Outcome], as_json: bool) -> None:
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
    typer.echo(f"\n{render(runs, 'text', title=title, width=_terminal_width())}")
    typer.echo(write_pairs(pairs, "text", title="Tuned against default, on the test sections"))


@app.command("import-weights")
def import_weights_command(
    method: MethodOption,
    dataset: DatasetOption,
    checkpoint: Annotated[
        Path, typer.Option("--checkpoint", "-c", help="Checkpoint as the method's authors save it.")
    ],
    protocol: ProtocolOption = "strict",
    folds: FoldsOption = None,
    preset: PresetOption = "authors",
    settings: SettingsOption = None,
    seed: Annotated[int, typer.Option(min=0, help="All randomness follows from it.")] = 0,
    device: Annotated[Device, typer.Option(help="Where networks run.")] = Device.auto,
    data_root: DataRootOption = None,
    results: ResultsOption = Path("results"),
    tracking: TrackingOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a run out of a released checkpoint: nothing is trained, all else is as in 'bench run'.

    Nothing in the file is executed. A checkpoint belongs to one training set: name the fold
    that it was held out of with --folds.
    """
    request = _request(
        folds,
        settings,
        device,
        methods=(method,),
        dataset=dataset,
        protocol=protocol,
        preset=preset,
        seed=seed,
        data_root=data_root,
        results=results,
        checkpoint=checkpoint,
        oracles=False,
    )
    _carry_out(request, tracking, as_json)


def _request(
    folds: str | None, settings: Sequence[str] | None, device: Device, **options: Any
) -> Request:
    """A request from options as they were typed."""
    from bench.execute.plan import Request

    return Request(
        folds=_numbers(folds), settings=tuple(settings or ()), device=device.value, **options
    )


def _carry_out(request: Request, tracking: str | None, as_json: bool) -> None:
    from bench.comparison import carry_out
    from bench.progress import TerminalWatcher

    # Libraries and methods may print; standard output is for the table alone.
    with redirect_stdout(sys.stderr), TerminalWatcher() as watcher:
        outcome = carry_out(request, tracking=tracking, watcher=watcher)
    _print_outcome(outcome, as_json)
    if outcome.failures:
        raise typer.Exit(FAILED)


def _terminal_width() -> int:
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else 0


def _numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise BenchError(f"--folds '{text}': write fold numbers such as 0,2") from None


def _print_outcome(outcome: Outcome, as_json: bool) -> None:
    from bench.report.tables import render

    if as_json:
        content = json.loads(render(outcome.runs, "json"))
        content["failures"] = [vars(failure) for failure in outcome.failures]
        content["left_out"] = dict(outcome.plan.dataset.left_out)
        typer.echo(json.dumps(content, indent=2))
        return
    title = f"{outcome.plan.dataset.card.name}, protocol {outcome.plan.protocol.name}"
    title += f", folds {outcome.plan.folds.hash[:12]}"
    typer.echo("\n" + render(outcome.runs, "text", title=title, width=_terminal_width()))
    for failure in outcome.failures:
        run = next(r for r in outcome.plan.runs if r.entrant.label == failure.label)
        where = run.folder.fold(failure.fold).path / "failure.txt"
        _complain(f"{failure.label}, fold {failure.fold} failed: {failure.reason} (see {where})")


def _stored(results: Path, dataset: str, protocol: str | None) -> list[tuple[str, list[StoredRun]]]:
    """Stored runs on a dataset, by protocol."""
    from bench.errors import UnknownNameError
    from bench.report.tables import newest
    from bench.store import stored_names, stored_runs

    stored = stored_names(results)
    if not stored:
        raise BenchError(f"{results}: no runs here; make some with 'bench run'")
    if dataset not in stored:
        raise UnknownNameError(f"dataset in {results}", dataset, stored)
    if protocol is not None and protocol not in stored[dataset]:
        raise UnknownNameError(f"protocol with runs on {dataset}", protocol, stored[dataset])
    names = [protocol] if protocol else stored[dataset]
    return [(name, newest(stored_runs(results, dataset, name))) for name in names]


def _names(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


@app.command("tables")
def tables_command(
    dataset: DatasetOption,
    protocol: StoredProtocolOption = None,
    how: Annotated[TableFormat, typer.Option("--format", "-f", help="Format.")] = TableFormat.text,
    pairs: Annotated[
        bool, typer.Option("--pairs", help="Compare the methods pair by pair instead.")
    ] = False,
    with_published: Annotated[
        bool, typer.Option("--with-published", help="Set ours beside published numbers instead.")
    ] = False,
    score: Annotated[
        str, typer.Option(help="Score that --pairs compares.", metavar="NAME")
    ] = "pcc_acg",
    results: ResultsOption = Path("results"),
) -> None:
    """Print the table of all stored runs on a dataset."""
    from bench.errors import UnknownNameError
    from bench.report.pairs import HIGHER_IS_BETTER, LOWER_IS_BETTER, render_pairs
    from bench.report.published import render_published
    from bench.report.tables import render

    if pairs and with_published:
        raise BenchError("--pairs and --with-published are two tables; ask for one")
    if score not in (known := (*HIGHER_IS_BETTER, *LOWER_IS_BETTER)):
        raise UnknownNameError("score", score, known)

    found = _stored(results, dataset, protocol)
    if len(found) > 1 and how in {TableFormat.csv, TableFormat.json}:
        names = ", ".join(name for name, _ in found)
        raise BenchError(f"{dataset} has runs under protocols {names}; name one with --protocol")
    for name, runs in found:
        title = f"{dataset}, protocol {name}"
        if pairs:
            text = render_pairs(runs, how.value, score=score, title=title)
        elif with_published:
            text = render_published(runs, dataset, name, how.value, title=title)
        else:
            text = render(runs, how.value, title=title, width=_terminal_width())
        typer.echo(text, nl=how is TableFormat.text)


@app.command("report")
def report_command(
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", "-d", help="Dataset.", show_default="all that have runs"),
    ] = None,
    protocol: StoredProtocolOption = None,
    out: Annotated[
        Path | None, typer.Option(help="HTML file.", show_default="report.html in the results")
    ] = None,
    results: ResultsOption = Path("results"),
) -> None:
    """Write one HTML page of the stored runs: tables, figures, maps of genes, settings."""
    from bench.report.page import stored_comparisons, write_page

    comparisons = stored_comparisons(results, dataset, protocol)
    typer.echo(write_page(results, out or results / "report.html", comparisons))


@app.command("figures")
def figures_command(
    dataset: DatasetOption,
    protocol: StoredProtocolOption = None,
    sections: Annotated[
        str | None, typer.Option("--section", help="Sections to map, comma-separated.")
    ] = None,
    genes: Annotated[
        str | None, typer.Option("--gene", help="Genes to map, comma-separated.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the figures.", show_default="in the results")
    ] = None,
    results: ResultsOption = Path("results"),
) -> None:
    """Draw the stored runs on a dataset: scores, genes, ranks, cost, maps, domains."""
    from bench.report.drawing import draw_figures

    for name, runs in _stored(results, dataset, protocol):
        folder = (out or results / "figures" / dataset) / name
        written = draw_figures(runs, folder, sections=_names(sections), genes=_names(genes))
        for path in written:
            typer.echo(path)


@app.command("genes")
def genes_command(
    dataset: DatasetOption,
    method: MethodOption,
    protocol: StoredProtocolOption = None,
    how: Annotated[TableFormat, typer.Option("--format", "-f", help="Format.")] = TableFormat.text,
    top: Annotated[int, typer.Option(min=1, help="Best-predicted genes to list and test.")] = 50,
    gmt: Annotated[
        Path | None,
        typer.Option(help="Gene sets to test for, in GMT format.", show_default="marker genes"),
    ] = None,
    enriched: Annotated[
        bool, typer.Option("--enriched", help="Gene sets over-represented among the best instead.")
    ] = False,
    results: ResultsOption = Path("results"),
) -> None:
    """Rank the genes a method predicts, and test which gene sets the best ones belong to."""
    from bench.errors import UnknownNameError
    from bench.report.genes import render_genes, render_sets

    for name, runs in _stored(results, dataset, protocol):
        chosen = [run for run in runs if run.facts["label"] == method and run.done]
        if not chosen:
            labels = sorted({run.facts["label"] for run in runs if run.done})
            raise UnknownNameError(f"method with finished folds under {name}", method, labels)
        for run in chosen:
            title = f"{method} on {dataset}, protocol {name}, preset {run.facts['preset']}"
            if enriched:
                text = render_sets(run, how.value, top=top, gmt=gmt, title=title)
            else:
                text = render_genes(run, how.value, top=top, title=title)
            typer.echo(text, nl=how is TableFormat.text)


@app.command("ceiling")
def ceiling_command(
    dataset: DatasetOption,
    protocol: ProtocolOption = "strict",
    how: Annotated[TableFormat, typer.Option("--format", "-f", help="Format.")] = TableFormat.text,
    genes: Annotated[bool, typer.Option("--genes", help="One row a gene and section.")] = False,
    data_root: DataRootOption = None,
) -> None:
    """Show the highest PCC that counting noise leaves to be had, by section."""
    from bench.execute.ceilings import gene_ceilings, section_ceilings
    from bench.execute.plan import divide
    from bench.protocol.rules import find_protocol
    from bench.registry import dataset_card
    from bench.report.tables import rounded, write_table

    rules = find_protocol(protocol)
    card = dataset_card(dataset)
    opened, folds, panel = divide(card, rules, data_root, images=False)
    with redirect_stdout(sys.stderr):
        by_gene = gene_ceilings(opened, folds, rules, panel)
    table = by_gene if genes else section_ceilings(by_gene)
    notes = [
        "From counts split in two halves, their correlation taken to full depth; what both halves"
        " share, such as a spot's depth, counts as signal, so the ceiling is an upper one."
    ]
    title = f"{card.name}, protocol {rules.name}: noise ceiling of the PCC"
    text = write_table(table, rounded(table), notes, how.value, title=title)
    typer.echo(text, nl=how is TableFormat.text)


@app.command("audit")
def audit_command(
    dataset: DatasetOption,
    protocol: ProtocolOption = "strict",
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look for what the folds and rules let slip from the test side to the training side."""
    from bench.execute.audits import full_audit
    from bench.protocol.rules import find_protocol
    from bench.registry import dataset_card

    rules = find_protocol(protocol)
    card = dataset_card(dataset)
    folds, with_images, findings = full_audit(card, rules, data_root)
    if as_json:
        content = {
            "dataset": card.name,
            "protocol": rules.name,
            "folds_hash": folds.hash,
            "sections": list(folds.patients),
            "sections_with_image": with_images,
            "findings": [vars(finding) for finding in findings],
        }
        typer.echo(json.dumps(content, indent=2))
    else:
        typer.echo(
            f"{card.name}, protocol {rules.name}: {len(folds.patients)} sections,"
            f" {len(with_images)} of them with an image, {len(folds.folds)} folds"
        )
        for finding in findings:
            mark = "FORBIDDEN" if finding.forbidden else "allowed  "
            typer.echo(f"{mark}  {finding.title}: {finding.message}")
        if not findings:
            typer.echo(
                "nothing found: no patient, image, spot or count vector is on both sides, and no"
                " rule reads the test sections"
            )
    if any(finding.forbidden for finding in findings):
        raise typer.Exit(FAILED)


@data_app.command("show")
def show_command(
    dataset: Annotated[str, typer.Argument(help="Dataset name, or the path of a card.")],
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show a dataset's sections, and which of their files are on this machine."""
    from bench.data.dataset import data_folder
    from bench.errors import DataError
    from bench.registry import dataset_card

    card = dataset_card(dataset)
    try:
        root: Path | None = data_folder(card, data_root)
        note = ""
    except DataError as error:
        if data_root is not None:
            raise
        root, note = None, str(error)
    rows = []
    for section in card.sections:
        missing = [
            role
            for role, file in section.files.items()
            if root is None or not (root / file.path).is_file()
        ]
        rows.append(
            {
                "section": section.name,
                "patient": section.patient,
                "spots": str(section.spots or "-"),
                "um/px": f"{section.micrometres_per_pixel or card.micrometres_per_pixel:.3f}",
                "labels": "yes" if "labels" in section.files else "-",
                "missing": ", ".join(missing) or "-",
            }
        )
    if as_json:
        facts = card.model_dump(mode="json", exclude={"sections"})
        folder = str(root) if root else None
        typer.echo(json.dumps({"card": facts, "folder": folder, "sections": rows}, indent=2))
        return
    typer.echo(f"{card.title}\n{card.citation}")
    for name in ("doi", "licence", "source", "platform", "tissue", "note"):
        value = getattr(card, name)
        if value:
            typer.echo(f"{name}: {value}")
    typer.echo(f"folder: {root or note}")
    _print_rows("", rows)


@data_app.command("verify")
def verify_command(
    dataset: Annotated[str, typer.Argument(help="Dataset name, or the path of a card.")],
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Hash every file of a dataset that is here against its card; missing files are listed."""
    from bench.data.dataset import data_folder
    from bench.errors import DataError
    from bench.registry import dataset_card

    card = dataset_card(dataset)
    root = data_folder(card, data_root)
    good, missing, wrong = 0, [], []
    for section in card.sections:
        for file in section.files.values():
            path = root / file.path
            if not path.is_file():
                missing.append(file.path)
                continue
            try:
                file.verify(path)
                good += 1
            except DataError as error:
                wrong.append(str(error))
    if as_json:
        typer.echo(json.dumps({"good": good, "missing": missing, "wrong": wrong}, indent=2))
    else:
        typer.echo(f"{good} files are what the card says, {len(missing)} are missing")
        for name in missing[:10]:
            typer.echo(f"  missing: {name}")
        if len(missing) > 10:
            typer.echo(f"  and {len(missing) - 10} more")
        for line in wrong:
            _complain(line)
    if wrong:
        raise typer.Exit(REFUSED)


@app.command("sync")
def sync_command(results: ResultsOption = Path("results"), tracking: TrackingOption = None) -> None:
    """Upload the stored runs that a tracking store has not seen; calling again adds nothing."""
    from bench.tracking.upload import sync, tracking_uri

    failure = sync(results, tracking_uri(tracking, results), typer.echo)
    if failure:
        _complain(failure)
        raise typer.Exit(FAILED)


@app.command("ui")
def ui_command(
    results: ResultsOption = Path("results"),
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")] = 5000,
) -> None:
    """Open MLflow's pages on the results; stop with Ctrl-C."""
    from bench.tracking.pages import public
    from bench.tracking.upload import ARTIFACTS, newest_page, tracking_uri

    uri = tracking_uri(None, results)
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).is_file():
        raise BenchError(f"{results}: nothing has been tracked here; make a run with 'bench run'")
    page = newest_page(results, uri)
    if uri.startswith(("http://", "https://")):
        typer.echo(f"MLflow runs at {public(uri).rstrip('/')}{page or ''}")
        return
    typer.echo(f"MLflow on {public(uri)}: http://127.0.0.1:{port} (Ctrl-C stops it)")
    if page is not None:
        typer.echo(f"Newest runs, best first: http://127.0.0.1:{port}{page}")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri]
    command += ["--default-artifact-root", (results / ARTIFACTS).resolve().as_uri()]
    command += ["--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    # Six processes for jobs that these results do not have.
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
    sys.stdout.flush()
    os.execv(sys.executable, command)  # noqa: S606 - signals must reach MLflow itself


@app.command("check")
def check_command(
    method: Annotated[str, typer.Argument(help="Method; see 'bench list methods'.")],
    no_demo: Annotated[
        bool, typer.Option("--no-demo", help="Leave out the run on the demo, the longest check.")
    ] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show where a method's errors come from.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check that a method, built-in or your own, does what every method must."""
    from bench.contract.report import LinePrinter, as_json_text, summary
    from bench.contract.suite import check_method
    from bench.progress import TerminalWatcher

    printer = LinePrinter(sys.stderr if as_json else sys.stdout, verbose)
    with redirect_stdout(sys.stderr):
        results = check_method(method, demo=not no_demo, listener=printer, jobs=TerminalWatcher)
    typer.echo(as_json_text(method, results) if as_json else summary(method, results))
    if any(result.outcome == "failed" for result in results):
        raise typer.Exit(FAILED)


@app.command("doctor")
def doctor_command(results: ResultsOption = Path("results"), as_json: JsonOption = False) -> None:
    """Check this machine: packages, devices, memory, folders; say how to mend what is wrong."""
    from bench.doctor import examine

    findings = examine(results)
    if as_json:
        typer.echo(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            mark = "ok  " if finding.good else "MEND"
            typer.echo(f"{mark}  {finding.what}: {finding.found}")
            if not finding.good:
                typer.echo(f"      {finding.mend}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(FAILED)


def _print_rows(title: str, rows: list[dict[str, str]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, title=title or None, title_justify="left")
    for name in rows[0] if rows else []:
        table.add_column(name, overflow="fold", no_wrap=name in {"name", "section"})
    for row in rows:
        table.add_row(*row.values())
    Console(highlight=False).print(table)


def _complain(message: str) -> None:
    typer.echo(f"bench: {message}", err=True)


def main() -> None:
    """Run a command and turn what went wrong into one line and an exit status."""
    arguments = sys.argv[1:]
    try:
        status = app(args=arguments, prog_name="bench", standalone_mode=False) or DONE
        if status == INTERRUPTED:  # so typer reports Ctrl-C inside a command
            raise KeyboardInterrupt
        sys.exit(status)
    except typer.TyperException as error:
        message = error.format_message()
        if message:  # empty where typer has printed a group's help
            _complain(message)
        sys.exit(REFUSED)
    except BenchError as error:
        _complain(str(error))
        sys.exit(REFUSED)
    except OSError as error:
        # What reaches this place is the machine's state: a cache folder that cannot be written,
        # a disk that is full. Results go through errors of their own.
        if error.errno is None:
            raise
        _complain(f"{error.filename or 'the system'}: {os.strerror(error.errno)}")
        sys.exit(REFUSED)
    except KeyboardInterrupt:
        if arguments[:1] in (["run"], ["tune"], ["import-weights"]):
            again = shlex.join(["bench", *(part for part in arguments if part != "--force")])
            _complain(f"interrupted; what is finished is kept, resume with: {again}")
        else:
            _complain("interrupted")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    main()
