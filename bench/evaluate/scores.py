"""Every score, declared once: its name, its direction, how it is computed and where it is shown.

Tables, pairs, pages, MLflow and tuning read these declarations. A new score is one entry of
:data:`SCORES` and the function that computes it, in :mod:`bench.evaluate.section`. Nothing heavy
is imported here, because the command line reads the names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from bench.evaluate.gene_values import GeneValues

Place = Literal["text", "page", "machine", "none"]
"""Where a column is shown first: in every table; on the HTML page and in csv and json; in csv and
json alone; nowhere, the score is only stored."""

_PLACES: tuple[Place, ...] = ("none", "machine", "page", "text")

LEADING = "pcc_acg"
"""Score that ranks runs, and that pairs, figures and tuning use unless told otherwise."""


@dataclass(frozen=True)
class Column:
    """A column for people that is derived from a score.

    Attributes
    ----------
    heading
        Heading of the column.
    gives_way
        Rank in which columns are hidden on a narrow terminal, 1 first; 0 for a column that stays.
    """

    heading: str
    gives_way: int = 0


@dataclass(frozen=True)
class Score:
    """A score as it is stored, compared and shown.

    Attributes
    ----------
    name
        Name in ``scores.parquet``.
    heading
        Heading for people.
    compute
        Value from a :class:`bench.evaluate.section.ScoredSection`, or, for a pooled score, from the
        values of each gene over all test spots of a fold.
    better
        Direction; None for a reference value that no method is ranked by.
    scope
        ``section``: one value a test section. ``pooled``: one value a fold, over all its test
        spots.
    combine
        How the values of sections or folds become that of a run.
    unit
        ``1`` for a number without a unit; ``target`` for the unit of the protocol's scale.
    per_gene
        Column of ``genes.parquet`` that the score averages; empty for none.
    needs_scale
        The prediction must be on the scale of the truth; undefined for scale-free oracles.
    ceiling
        Name of the score that is its maximum given counting noise; empty for none.
    decimals
        Digits after the point for people.
    spread
        Standard deviation and interval over sections are given as well, and MLflow has the value
        of every section.
    place
        Where the score is shown; see :data:`Place`.
    column
        Name of the column in csv and json; that of the score where empty.
    gives_way
        As :attr:`Column.gives_way`.
    interval, share
        Columns for people of the 95 % interval and of the share of the ceiling; None for no column.
    tunable
        Tuning may optimise the score.
    note
        Footnote that defines the score, for tables that show it.
    """

    name: str
    heading: str
    compute: Callable[[GeneValues], float]
    better: Literal["higher", "lower"] | None = "higher"
    scope: Literal["section", "pooled"] = "section"
    combine: Literal["mean", "sum"] = "mean"
    unit: Literal["1", "genes", "target", "target²"] = "1"
    per_gene: str = ""
    needs_scale: bool = False
    ceiling: str = ""
    decimals: int = 4
    spread: bool = False
    place: Place = "machine"
    column: str = ""
    gives_way: int = 0
    interval: Column | None = None
    share: Column | None = None
    tunable: bool = False
    note: str = ""

    @property
    def shown_as(self) -> str:
        """Name of the column in csv and json."""
        return self.column or self.name

    def is_in(self, place: Place) -> bool:
        """Whether a table of this place has the score."""
        return self.place != "none" and _PLACES.index(self.place) >= _PLACES.index(place)


def _panel_mean(column: str) -> Callable[[GeneValues], float]:
    return lambda values: values.panel_mean(column)


def _heg_mean(column: str) -> Callable[[GeneValues], float]:
    return lambda values: values.heg_mean(column)


SCORES: tuple[Score, ...] = (
    Score(
        "pcc_acg",
        "PCC(ACG)",
        _panel_mean("pcc"),
        per_gene="pcc",
        ceiling="ceiling_acg",
        spread=True,
        place="text",
        interval=Column("95 % interval", gives_way=9),
        share=Column("of ceiling", gives_way=11),
        tunable=True,
    ),
    Score(
        "ceiling_acg",
        "ceiling",
        _panel_mean("ceiling"),
        better=None,
        per_gene="ceiling",
        place="text",
        gives_way=7,
        note="Ceiling: noise ceiling, the maximum PCC attainable given counting noise, estimated"
        " from halved counts.",
    ),
    Score(
        "pcc_acg_given_depth",
        "given depth",
        _panel_mean("pcc_given_depth"),
        per_gene="pcc_given_depth",
        place="text",
        gives_way=8,
        note="Given depth: partial PCC(ACG) at fixed log total count of the spot.",
    ),
    Score(
        "pcc_heg",
        "PCC(HEG)",
        _heg_mean("pcc"),
        per_gene="pcc",
        ceiling="ceiling_heg",
        spread=True,
        place="text",
        share=Column("of its ceiling", gives_way=3),
        tunable=True,
    ),
    Score("pcc_heg_given_depth", "PCC(HEG) given depth", _heg_mean("pcc_given_depth")),
    Score("ceiling_heg", "ceiling(HEG)", _heg_mean("ceiling"), better=None),
    Score(
        "mse",
        "MSE",
        _panel_mean("mse"),
        better="lower",
        unit="target²",
        per_gene="mse",
        needs_scale=True,
        spread=True,
        place="text",
        tunable=True,
    ),
    Score(
        "mae",
        "MAE",
        lambda section: section.value("mae"),
        better="lower",
        unit="target",
        needs_scale=True,
        spread=True,
        place="text",
        gives_way=6,
    ),
    Score(
        "ccc_acg",
        "CCC(ACG)",
        _panel_mean("ccc"),
        per_gene="ccc",
        needs_scale=True,
        spread=True,
        place="page",
        tunable=True,
        note="CCC(ACG): Lin's concordance correlation coefficient of each gene, mean over panel"
        " genes; unlike the PCC it is lowered by errors of mean and scale.",
    ),
    Score(
        "spearman_acg",
        "Spearman(ACG)",
        _panel_mean("spearman"),
        per_gene="spearman",
    ),
    Score("ssim", "SSIM", _panel_mean("ssim"), per_gene="ssim"),
    Score(
        "morans_i_agreement",
        "Moran's I agreement",
        lambda section: section.value("morans_i_agreement"),
    ),
    Score("ari", "ARI", lambda section: section.value("ari")),
    Score("nmi", "NMI", lambda section: section.value("nmi")),
    Score(
        "ari_observed", "ARI observed", lambda section: section.value("ari_observed"), better=None
    ),
    Score(
        "nmi_observed", "NMI observed", lambda section: section.value("nmi_observed"), better=None
    ),
    Score(
        "pooled_pcc_acg",
        "pooled PCC(ACG)",
        _panel_mean("pcc"),
        scope="pooled",
        place="text",
        gives_way=1,
    ),
    Score("pooled_pcc_heg", "pooled PCC(HEG)", _heg_mean("pcc"), scope="pooled"),
    Score(
        "undefined_acg",
        "undefined",
        lambda section: section.undefined("pcc"),
        better="lower",
        combine="sum",
        unit="genes",
        decimals=0,
        place="text",
        column="undefined",
        gives_way=4,
        note="Undefined: genes constant in truth or prediction, left out of the PCC means,"
        " counted over all sections.",
    ),
    Score(
        "undefined_heg",
        "undefined HEG",
        lambda section: section.undefined_heg("pcc"),
        better="lower",
        combine="sum",
        unit="genes",
        decimals=0,
        place="none",
    ),
)
"""All scores, in the order of their columns."""

BY_NAME = {score.name: score for score in SCORES}
"""Scores by their names."""

SECTION_SCORES = tuple(score for score in SCORES if score.scope == "section")
POOLED_SCORES = tuple(score for score in SCORES if score.scope == "pooled")

COMPARABLE = {
    score.name: score for score in SECTION_SCORES if score.better and score.combine == "mean"
}
"""Scores by name that pairs of methods can be compared by."""

TUNABLE = tuple(score.name for score in SCORES if score.tunable)
"""Names of the scores that tuning may optimise."""
