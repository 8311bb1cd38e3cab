"""Commands on what a score can mean: noise ceiling and leakage."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.apps import app
from bench.cli.options import (
    FAILED,
    DataRootOption,
    DatasetOption,
    JsonOption,
    ProtocolOption,
)
from bench.cli.table_options import (
    PlainFormatOption,
    TableFormat,
)
from bench.cli.terminal import complain, say, terminal_width
from bench.errors import BenchError
from bench.execute.request import Request

if TYPE_CHECKING:
    from bench.protocol.audit import Finding
    from bench.protocol.rules import Protocol


@app.command("ceiling")
def ceiling_command(
    dataset: DatasetOption,
    protocol: ProtocolOption = Request.protocol,
    how: PlainFormatOption = TableFormat.text,
    genes: Annotated[bool, typer.Option("--genes", help="One row per gene and section.")] = False,
    data_root: DataRootOption = None,
) -> None:
    """Show the noise ceiling of each section.

    The noise ceiling is the maximum PCC attainable given counting noise.
    """
    from bench.execute.ceilings import gene_ceilings, section_ceilings
    from bench.execute.division import divide
    from bench.protocol.rules import find_protocol
    from bench.registry import dataset_card
    from bench.report.formats import rounded, write_table

    rules = find_protocol(protocol)
    card = dataset_card(dataset)
    opened, folds, panel = divide(card, rules, data_root, images=False)
    with redirect_stdout(sys.stderr):
        by_gene = gene_ceilings(opened, folds, rules, panel)
    table = by_gene if genes else section_ceilings(by_gene)
    notes = [
        "Estimated from the correlation of two halves of the counts, corrected to full depth. What"
        " both halves share, such as the depth of a spot, counts as signal, so the ceiling is an"
        " upper bound."
    ]
    title = f"{card.name}, protocol {rules.name}: noise ceiling of the PCC"
    headings = {"ceiling acg": "ceiling PCC(ACG)", "ceiling heg": "ceiling PCC(HEG)"}
    shown = rounded(table).rename(columns=headings)
    width = terminal_width() if how is TableFormat.text else 0
    text = write_table(
        table,
        shown,
        notes,
        how.value,
        title=title,
        width=width,
        hint="a wider terminal or --format csv shows all",
    )
    typer.echo(text, nl=how is TableFormat.text)


@app.command("audit")
def audit_command(
    dataset: DatasetOption,
    protocol: ProtocolOption = Request.protocol,
    test_dataset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Check a model that is fitted on --dataset and tested on this dataset.",
            show_default=False,
        ),
    ] = None,
    data_root: DataRootOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check folds and rules for leakage from test to training.

    Patients, sections, images, spots and count vectors on both sides are listed, as are rules that
    read the test sections. Exit status 1: a forbidden leak was found.
    """
    from bench.execute.audits import cross_audit
    from bench.protocol.rules import find_protocol
    from bench.registry import dataset_card, members

    rules = find_protocol(protocol)
    if test_dataset is not None:
        card = dataset_card(dataset)
        compared, findings = cross_audit(card, dataset_card(test_dataset), rules, (data_root, None))
        _print_cross_audit(dataset, test_dataset, compared, findings, as_json)
        return
    named = members(dataset, data_root)
    audits, failed = [], False
    for name, root in named:
        try:
            audits.append(_audit(name, rules, root, as_json))
        except BenchError as error:
            if len(named) == 1:
                raise
            complain(f"{name}: {error}")
            failed = True
    if as_json:
        typer.echo(json.dumps(audits if len(named) > 1 else audits[0], indent=2))
    if failed or any(finding["forbidden"] for of in audits for finding in of["findings"]):
        raise typer.Exit(FAILED)


def _audit(name: str, rules: Protocol, root: Path | None, as_json: bool) -> dict[str, Any]:
    """Audit one dataset; its findings are printed unless JSON is asked for."""
    from bench.execute.audits import full_audit
    from bench.registry import dataset_card

    card = dataset_card(name)
    folds, with_images, findings = full_audit(card, rules, root)
    if not as_json:
        typer.echo(
            f"{card.name}, protocol {rules.name}: {len(folds.patients)} sections,"
            f" {len(with_images)} of them with an image, {len(folds.folds)} folds"
        )
        _print_findings(findings)
        if not findings:
            typer.echo(
                "nothing found: no patient, image, spot or count vector is on both sides, and no"
                " rule reads the test sections"
            )
    return {
        "dataset": card.name,
        "protocol": rules.name,
        "folds_hash": folds.hash,
        "sections": list(folds.patients),
        "sections_with_image": with_images,
        "findings": [vars(finding) for finding in findings],
    }


def _print_findings(findings: Sequence[Finding]) -> None:
    for finding in findings:
        mark = "FORBIDDEN" if finding.forbidden else "allowed  "
        say(f"{mark}  {finding.title}: {finding.message}")


def _print_cross_audit(
    trained: str, tested: str, compared: Sequence[str], findings: Sequence[Finding], as_json: bool
) -> None:
    content: dict[str, Any] = {"trained": trained, "tested": tested, "compared": list(compared)}
    if as_json:
        content["findings"] = [vars(finding) for finding in findings]
        typer.echo(json.dumps(content, indent=2))
    else:
        both = len(compared) == 2
        how = "sections compared" if both else "judged by their cards, for not both are here"
        typer.echo(f"trained on {trained}, tested on {tested}: {how}")
        _print_findings(findings)
        if not findings:
            typer.echo("nothing found that both hold")
    if findings:
        raise typer.Exit(FAILED)
