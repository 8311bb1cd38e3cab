"""Protocols: named, versioned, hashed sets of rules."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bench.errors import DataError, UnknownNameError
from bench.faults import first_fault
from bench.files import canonical_hash
from bench.protocol.gene_list import read_symbols
from bench.yaml_files import read_yaml


class _Rules(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Scale(_Rules):
    """Scale of expression: ``log(1 + 10,000 * count / total)``, or ``log(1 + count)``.

    Attributes
    ----------
    total
        ``spot``: the spot's counts; ``gene``: the gene's counts over the spots of its section;
        ``none``: no division, the raw count.
    genes
        Genes in the total: ``all`` measured or only the ``panel``. Used for ``spot`` alone.
    log
        ``ln`` or ``log10``.
    """

    total: Literal["spot", "gene", "none"] = "spot"
    genes: Literal["all", "panel"] = "all"
    log: Literal["ln", "log10"] = "ln"


class Protocol(_Rules):
    """Set of rules under which methods are compared.

    Attributes
    ----------
    name, version, title
        Name and version that runs are stored under, and a line for lists and tables. A change of
        the rules changes the version.
    split
        ``patient``: leave one patient out up to `leave_one_out_up_to` patients, above that
        `grouped_folds` folds of patients balanced by spots; one training patient is set aside
        for validation. ``section``: leave one section out, no validation. ``listed``: the folds
        that the dataset ships, no validation.
    leave_one_out_up_to, grouped_folds
        Number of patients up to which one is left out at a time, and number of folds above it.
    patient_folds
        ``published``: under a patient split, the test patients of each fold are those that the
        card lists, if it does; otherwise, and with ``own``, the rule of `split` applies.
    sections
        ``all`` of the card, or those of its ``published`` list in the published order.
    panel
        ``hvg``, ``svg``, ``expressed``: chosen inside each fold from its training sections, as
        :func:`bench.protocol.panel.choose_panel` says; ``published``: a list of the card's;
        ``listed``: `genes`; ``total``: chosen from all sections of the dataset, test sections
        included, as :func:`bench.protocol.panel.panel_by_totals` says.
    panel_size, detected_share
        Size of a chosen panel, and minimum share of training spots in which a gene is detected.
    panel_name
        Name of the card's list, if not its published one.
    genes
        Genes of a ``listed`` panel.
    input, target
        Scale of the input of expression encoders; scale of target and truth.
    smoothing
        ``3x3``: target and truth are means over the spots of the section whose array column and
        row differ by one at most, the spot itself included; so is an input on the target's scale.
    heg, heg_genes
        Highly expressed genes are those of highest mean in the ``training`` sections or in the
        ``test`` section's own truth; and their number.
    headline
        Score that tables show first and rank by: over each test ``section``, or over all test
        spots of a ``fold``, averaged over folds.
    method_settings
        Settings by method that runs under the protocol have unless the user chooses others.
    footnotes
        Footnotes of every table under the protocol, in addition to findings of the audit.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    version: int = Field(ge=1)
    title: str
    split: Literal["patient", "section", "listed"]
    patient_folds: Literal["own", "published"] = "own"
    leave_one_out_up_to: int = Field(default=10, ge=2)
    grouped_folds: int = Field(default=8, ge=2)
    sections: Literal["all", "published"] = "all"
    panel: Literal["hvg", "svg", "expressed", "published", "listed", "total"] = "hvg"
    panel_size: int = Field(default=1000, ge=1)
    panel_name: str | None = None
    genes: tuple[str, ...] = ()
    detected_share: float = Field(default=0.05, ge=0, lt=1)
    input: Scale = Scale()
    target: Scale = Scale()
    smoothing: Literal["none", "3x3"] = "none"
    heg: Literal["training", "test"] = "training"
    heg_genes: int = Field(default=50, ge=1)
    headline: Literal["section", "fold"] = "section"
    method_settings: dict[str, dict[str, Any]] = {}
    footnotes: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _listed_where_it_says_so(self) -> Self:
        if (self.panel == "listed") != bool(self.genes):
            raise ValueError("panel 'listed' needs genes, and no other panel has them")
        if len(set(self.genes)) != len(self.genes):
            raise ValueError("a gene is listed twice")
        return self

    @property
    def hash(self) -> str:
        """SHA-256 over all rules; title and footnotes are excluded."""
        rules = self.model_dump(mode="json", exclude={"title", "footnotes"})
        # Absent where they change nothing: the hashes of earlier protocols stay as they are.
        for name, plain in _ADDED.items():
            if rules[name] == plain:
                del rules[name]
        return canonical_hash(rules)


_ADDED: dict[str, Any] = {
    "headline": "section",
    "method_settings": {},
    "patient_folds": "own",
    "smoothing": "none",
}
"""Rules that the first protocols did not have, with the values that mean no such rule."""

STRICT = Protocol(
    name="strict",
    version=1,
    title="patient-disjoint folds, everything chosen on training sections",
    split="patient",
)

PUBLISHED = Protocol(
    name="published",
    version=1,
    title="the papers' leave-one-section-out, with the released evaluation's scales",
    split="section",
    sections="published",
    panel="published",
    input=Scale(total="spot", genes="panel", log="log10"),
    target=Scale(total="gene", genes="panel", log="log10"),
    heg="test",
)

BY_SECTION = Protocol(
    name="by-section",
    version=1,
    title="leave one section out, everything chosen on training sections; for data of one patient",
    split="section",
    footnotes=(
        "Protocol by-section: test sections are of patients whose other sections were trained on;"
        " the scores do not apply to new patients.",
    ),
)

# The patches that the benchmark ships, whatever an encoder's own size is.
_HEST_PAPER: dict[str, Any] = {"pca": None, "alpha": "hest", "clip": None, "patch_size": "112um"}
_HEST_PROBE = {**_HEST_PAPER, "pca": 256, "pca_solver": "randomized"}
_HEST_FOOTNOTE = (
    "The target is ln(1 + raw count) without a division by the spot's total, so that spot depth"
    " (cellularity and capture) is part of what is predicted."
)

HEST = Protocol(
    name="hest",
    version=1,
    title="HEST-Benchmark: the folds and 50 genes of each task, raw log counts, PCA 256 + ridge",
    split="listed",
    panel="published",
    input=Scale(total="none"),
    target=Scale(total="none"),
    headline="fold",
    method_settings={"ridge": _HEST_PROBE},
    footnotes=(_HEST_FOOTNOTE,),
)

HEST_PAPER = HEST.model_copy(
    update={
        "name": "hest-paper",
        "title": "HEST-Benchmark as in table A13 of its paper: ridge without PCA",
        "method_settings": {"ridge": _HEST_PAPER},
    }
)

_WITHIN_PANEL = Scale(total="spot", genes="panel", log="ln")

TRIPLEX = Protocol(
    name="triplex",
    version=1,
    title="TRIPLEX and its followers: 250 genes by total count, smoothed target, patient folds",
    split="patient",
    patient_folds="published",
    panel="total",
    panel_size=250,
    detected_share=0.10,
    input=_WITHIN_PANEL,
    target=_WITHIN_PANEL,
    smoothing="3x3",
    footnotes=(
        "Target and truth are means over 3 x 3 array positions, which are easier to predict than"
        " the measured values: scores are higher than under protocol strict.",
    ),
)

PROTOCOLS = {
    protocol.name: protocol
    for protocol in (STRICT, PUBLISHED, BY_SECTION, HEST, HEST_PAPER, TRIPLEX)
}
"""Built-in protocols by name."""

LISTS = ("published", "listed", "total")
"""Panels that are one list for all folds."""


def find_protocol(name: str) -> Protocol:
    """Protocol by name, or from a YAML file with the same fields.

    Raises
    ------
    UnknownNameError
        The name is neither a known protocol nor a file.
    DataError
        The file is not YAML or violates the schema.
    """
    if name in PROTOCOLS:
        return PROTOCOLS[name]
    path = Path(name)
    if path.suffix not in {".yaml", ".yml"}:
        raise UnknownNameError("protocol", name, PROTOCOLS)
    content = read_yaml(path)
    if not isinstance(content, dict):
        raise DataError(f"{path}: a protocol must be a mapping of fields")
    try:
        protocol = Protocol.model_validate(content)
    except ValidationError as error:
        raise DataError(f"{path}: {first_fault(error)}") from error
    if protocol.name in PROTOCOLS:
        raise DataError(f"{path}: the name '{protocol.name}' is taken by a built-in protocol")
    return protocol


CHOSEN = ("hvg", "svg", "expressed")
"""Ways to choose a panel inside a fold."""


def with_panel(protocol: Protocol, asked: str, listed: Collection[str]) -> Protocol:
    """Rules with another panel, and a name that includes the panel.

    Parameters
    ----------
    protocol
        Rules to change.
    asked
        ``hvg``, ``svg`` or ``expressed``, optionally with a size (``svg:500``); a list of the
        dataset's card; or a text file with one gene symbol per line.
    listed
        Names of the card's lists.

    Raises
    ------
    UnknownNameError
        The panel is none of these.
    DataError
        The file is not a list of genes.
    """
    way, _, size = asked.partition(":")
    change: dict[str, Any]
    if way in CHOSEN:
        if size and not (size.isdecimal() and int(size) > 0):
            raise DataError(f"panel '{asked}': write a number of genes, such as {way}:500")
        change = {"panel": way, "panel_size": int(size) if size else protocol.panel_size}
    elif asked in listed:
        change = {"panel": "published", "panel_name": asked}
    elif Path(asked).is_file():
        change = {"panel": "listed", "genes": read_symbols(Path(asked))}
    else:
        raise UnknownNameError("panel", asked, [*CHOSEN, *listed, "a file of gene symbols"])
    plain = {"panel_name": None, "genes": ()}
    word = Path(asked).stem if change["panel"] == "listed" else asked
    suffix = re.sub(r"[^a-z0-9_-]+", "-", word.lower()).strip("-") or "listed"
    changed = {**protocol.model_dump(), **plain, **change, "name": f"{protocol.name}-{suffix}"}
    try:
        return Protocol.model_validate(changed)
    except ValidationError as error:
        raise DataError(f"panel {asked}: {first_fault(error)}") from error
