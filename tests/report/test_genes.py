"""Gene rankings, marker sets and over-representation."""

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.multitest import multipletests

from bench.errors import DataError
from bench.report.genes import (
    gene_ranking,
    marker_sets,
    over_representation,
    read_gmt,
    render_genes,
    render_sets,
    section_genes,
)


class Run:
    """A stored run of which only the table of genes matters."""

    def __init__(self, table):
        self.table = table

    def genes(self):
        return self.table.copy()


@pytest.fixture
def run():
    rng = np.random.default_rng(0)
    rows = []
    for fold, section in enumerate(("A1", "B1")):
        for number in range(6):
            truth = rng.normal(size=40)
            test = scipy.stats.pearsonr(truth, number * truth / 4 + rng.normal(size=40))
            rows.append((fold, section, f"G{number}", test.statistic, test.pvalue, 0.9))
    rows[0] = (*rows[0][:3], np.nan, np.nan, 0.9)
    rows[1] = (*rows[1][:3], -0.9, 1e-9, 0.9)
    columns = ["fold", "section", "gene", "pcc", "p_value", "ceiling"]
    return Run(pd.DataFrame(rows, columns=columns))


def test_q_values_are_benjamini_and_hochbergs_by_section(run):
    table = section_genes(run)
    for _, part in table.groupby("section"):
        p = part["p_value"].dropna()
        wanted = multipletests(p, method="fdr_bh")[1]
        np.testing.assert_allclose(part.loc[p.index, "q_value"], wanted)
    assert table["q_value"].isna().sum() == 1


def test_genes_are_ranked_by_mean_evidence_of_a_positive_correlation(run):
    ranking = gene_ranking(run).set_index("gene")
    table = run.genes()
    for gene in ("G3", "G4", "G5"):
        part = table[table["gene"] == gene]
        assert ranking.loc[gene, "mean_log10_p"] == pytest.approx(-np.log10(part["p_value"]).mean())
        assert ranking.loc[gene, "pcc"] == pytest.approx(part["pcc"].mean())
        best = part.loc[part["pcc"].idxmax()]
        assert ranking.loc[gene, "best_section"] == best["section"]
    assert ranking.loc["G0", "sections"] == 1
    # A strong correlation of the wrong sign counts for nothing.
    other = table[(table["gene"] == "G1") & (table["section"] == "B1")].iloc[0]
    half = -np.log10(other["p_value"]) / 2 if other["pcc"] > 0 else 0.0
    assert ranking.loc["G1", "mean_log10_p"] == pytest.approx(half)
    assert list(ranking["rank"]) == [1, 2, 3, 4, 5, 6]
    assert ranking["mean_log10_p"].is_monotonic_decreasing


def test_a_p_value_of_zero_has_a_finite_rank():
    table = pd.DataFrame(
        [(0, "A1", "G", 1.0, 0.0, 0.9)],
        columns=["fold", "section", "gene", "pcc", "p_value", "ceiling"],
    )
    assert gene_ranking(Run(table))["mean_log10_p"].item() == 300


def test_the_shown_markers_are_there():
    sets = marker_sets()
    assert {"GNAS", "FASN", "SCD", "FN1"} <= sets["cancer"]
    assert {"HLA-B", "HLA-DRA", "CD74", "IGKC"} <= sets["immune"]


def test_over_representation_is_fishers_one_sided_test():
    panel = [f"G{number}" for number in range(100)]
    best = panel[:20]
    sets = {
        "enriched": frozenset(panel[:8] + panel[50:52] + ["NOT_IN_PANEL"]),
        "even": frozenset(panel[10:60]),
        "elsewhere": frozenset(["X", "Y"]),
    }
    table = over_representation(best, panel, sets).set_index("set")
    assert list(table.index) == ["enriched", "even"]
    for name, row in table.iterrows():
        listed = sets[name] & set(panel)
        hit = len(listed & set(best))
        square = [[hit, len(listed) - hit], [20 - hit, 80 - len(listed) + hit]]
        wanted = scipy.stats.fisher_exact(square, alternative="greater").pvalue
        assert row["p_value"] == pytest.approx(wanted)
    assert table.loc["enriched", "in_panel"] == 10
    assert table.loc["enriched", "expected"] == pytest.approx(2)
    wanted = multipletests(table["p_value"], method="fdr_bh")[1]
    np.testing.assert_allclose(table["q_value"], wanted)
    assert over_representation(best, panel, {}).empty


def test_a_gmt_file_is_read(tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text("one\ta description\tA\tB\t\n\ntwo\t\tC\r\n")
    assert read_gmt(path) == {"one": {"A", "B"}, "two": {"C"}}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no gene set"),
        (b"one\tdescription\n", "line 1: write name"),
        (b"one\td\tA\none\td\tB\n", "line 2: set 'one' came before"),
        (b"\xff\xfe\x00", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_what_is_no_gmt_file_is_refused(tmp_path, content, words):
    path = tmp_path / "sets.gmt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=words):
        read_gmt(path)


def test_a_mouse_panel_has_marker_sets():
    panel = ["Mbp", "Plp1", "Snap25", "Gfap", "Actb", "Gapdh"]
    table = over_representation(["Mbp", "Plp1"], panel, marker_sets())
    assert table["set"].tolist()[0] == "mouse oligodendrocytes"
    assert set(table["set"]) == {"mouse oligodendrocytes", "mouse neurons", "mouse astrocytes"}


def test_genes_fit_the_terminal(run):
    narrow = render_genes(run, "text", top=3, width=80)
    assert max(map(len, narrow.splitlines())) <= 80
    assert {"rank", "gene", "PCC", "ceiling"} <= set(narrow.splitlines()[0].split())
    assert "markers" not in narrow.splitlines()[0]  # none of these genes is one
    assert "Hidden in 80 characters: best PCC" in narrow
    assert "markers" in render_genes(run, "csv", top=3, width=80)


def test_sets_fit_the_terminal_and_name_their_genes_where_there_is_room(run, tmp_path):
    path = tmp_path / "sets.gmt"
    path.write_text("first\tx\t" + "\t".join(f"G{number}" for number in range(6)) + "\n")
    narrow = render_sets(run, "text", top=6, gmt=path, width=60)
    assert max(map(len, narrow.splitlines())) <= 60
    assert "Hidden in 60 characters: genes" in narrow
    assert "G0, G1" in render_sets(run, "text", top=6, gmt=path, width=200)
    assert "G0 G1" in render_sets(run, "csv", top=6, gmt=path, width=60)
