import warnings

import anndata
import numpy as np
import pytest
import scanpy
from sklearn.neighbors import kneighbors_graph

from bench.errors import BenchError, DataError, UnknownNameError
from bench.protocol.fold_data import fold_data
from bench.protocol.folds import Fold
from bench.protocol.panel import NEIGHBOURS, choose_panel, panel_columns
from bench.protocol.rules import STRICT, with_panel

SMALL = STRICT.model_copy(update={"panel_size": 15, "heg_genes": 5})


@pytest.fixture
def sections(make_section):
    """Three sections of 40 genes whose mean and spread differ from gene to gene."""
    rng = np.random.default_rng(5)
    mean = np.geomspace(0.3, 20, 40)
    return {
        name: make_section(name, name[0], rng.negative_binomial(1.5, 1.5 / (1.5 + mean), (60, 40)))
        for name in ("A1", "B1", "C1")
    }


FOLD = Fold(index=0, train=("A1",), validation=("B1",), test=("C1",))


def test_a_panel_is_what_scanpy_ranks_highest_with_the_section_as_batch(sections):
    pair = [sections["A1"], sections["B1"]]
    pooled = anndata.concat(
        {s.name: s.adata for s in pair}, label="batch", index_unique="-", merge="same"
    )
    pooled.X = pooled.X.astype(np.float32)
    scanpy.pp.normalize_total(pooled, target_sum=10_000)
    scanpy.pp.log1p(pooled)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scanpy.pp.highly_variable_genes(pooled, n_top_genes=15, batch_key="batch")
    wanted = set(pooled.var_names[pooled.var["highly_variable"]])
    panel = choose_panel(pair, SMALL)
    assert set(panel) == wanted
    assert len(panel) == 15


@pytest.mark.parametrize("genes", [1, 7, 39])
def test_a_panel_has_exactly_the_genes_that_are_asked_for(sections, genes):
    protocol = SMALL.model_copy(update={"panel_size": genes})
    panel = choose_panel(list(sections.values()), protocol)
    assert len(panel) == len(set(panel)) == genes


def test_a_panel_keeps_the_order_of_the_genes_in_the_first_section(sections):
    panel = choose_panel(list(sections.values()), SMALL)
    numbers = [int(gene[1:]) for gene in panel]
    assert numbers == sorted(numbers)


def test_choosing_a_panel_leaves_the_counts_as_they_were(sections):
    before = sections["A1"].adata.X.toarray()
    choose_panel(list(sections.values()), SMALL)
    np.testing.assert_array_equal(sections["A1"].adata.X.toarray(), before)
    assert np.issubdtype(sections["A1"].adata.X.dtype, np.integer)


def test_fewer_genes_than_asked_for_are_all_taken(sections):
    protocol = SMALL.model_copy(update={"panel_size": 1000})
    assert choose_panel([sections["A1"]], protocol) == tuple(f"G{i}" for i in range(40))


def test_a_gene_must_be_measured_in_every_training_section(make_section):
    counts = np.random.default_rng(0).poisson(3, (50, 4))
    one = make_section("A1", "A", counts, genes=["a", "b", "c", "d"])
    two = make_section("B1", "B", counts, genes=["d", "x", "b", "y"])
    assert choose_panel([one, two], SMALL) == ("b", "d")
    assert choose_panel([two, one], SMALL) == ("d", "b")


def test_sections_without_a_common_gene_are_refused(make_section):
    counts = np.ones((5, 2), dtype=int)
    pair = [make_section("A", "A", counts, ["a", "b"]), make_section("B", "B", counts, ["c", "d"])]
    with pytest.raises(BenchError, match="no gene in common"):
        choose_panel(pair, SMALL)


def test_a_gene_must_be_detected_in_five_percent_of_the_training_spots_together(make_section):
    first, second = np.zeros((60, 3), dtype=int), np.zeros((40, 3), dtype=int)
    first[:, 0] = 1
    first[:5, 1] = 9  # 5 of 100 spots, though 8 % of the first section
    second[:4, 2] = 9  # 4 of 100 spots, though 10 % of the second section
    pair = [make_section("A1", "A", first), make_section("B1", "B", second)]
    assert choose_panel(pair, SMALL) == ("G0", "G1")


def test_no_detected_gene_is_refused(make_section):
    counts = np.zeros((100, 2), dtype=int)
    counts[0] = 1
    with pytest.raises(BenchError, match="no gene is detected in 5%"):
        choose_panel([make_section("A1", "A", counts)], SMALL)


@pytest.mark.filterwarnings("ignore:Some cells have zero counts")
def test_a_spot_without_counts_does_not_spoil_the_panel(sections, make_section):
    counts = sections["A1"].adata.X.toarray()
    counts[3] = 0
    sections["A1"] = make_section("A1", "A", counts)
    assert len(choose_panel(list(sections.values()), SMALL)) == 15


def test_the_test_section_has_no_influence_on_what_is_chosen(sections, make_section):
    before = fold_data(FOLD, sections, SMALL)
    scrambled = np.random.default_rng(9).poisson(50, (60, 40))
    scrambled[:, :20] = 0
    after = fold_data(FOLD, sections | {"C1": make_section("C1", "C", scrambled)}, SMALL)
    assert after.training.panel == before.training.panel
    np.testing.assert_array_equal(after.truth[0].heg, before.truth[0].heg)
    for old, new in zip(before.training.sections, after.training.sections, strict=True):
        np.testing.assert_array_equal(old.target, new.target)
        np.testing.assert_array_equal(old.expression, new.expression)
        np.testing.assert_array_equal(old.counts, new.counts)
    assert not np.array_equal(after.truth[0].expression, before.truth[0].expression)


def test_the_training_sections_do_decide_what_is_chosen(sections, make_section):
    before = fold_data(FOLD, sections, SMALL)
    other = np.random.default_rng(9).permuted(sections["B1"].adata.X.toarray(), axis=1)
    after = fold_data(FOLD, sections | {"B1": make_section("B1", "B", other)}, SMALL)
    assert after.training.panel != before.training.panel


def test_panel_columns_point_at_the_genes_and_mark_the_unmeasured(make_section):
    section = make_section("A1", "A", np.ones((4, 3), dtype=int), genes=["a", "b", "c"])
    columns = panel_columns(section, ["c", "nowhere", "a"])
    assert columns.tolist() == [2, -1, 0]


@pytest.fixture
def patterned(make_section):
    """Sections of 10 x 10 spots: genes 0-3 lie in stripes, the others are noise of more spread."""
    rng = np.random.default_rng(3)
    rows, columns = np.divmod(np.arange(100), 10)
    mean = np.full((100, 24), 20.0)
    mean[:, :4] = np.where(columns[:, None] < 5, 14, 26)
    found = {}
    for name in ("A1", "B1"):
        counts = rng.poisson(mean)
        counts[:, 4:] = rng.negative_binomial(2, 2 / (2 + mean[:, 4:]))
        section = make_section(name, name[0], counts)
        section.adata.obsm["spatial"] = np.column_stack([columns, rows]) * 100.0
        found[name] = section
    return list(found.values())


def rule(panel, size):
    return STRICT.model_copy(update={"panel": panel, "panel_size": size, "heg_genes": 2})


def test_spatially_variable_genes_are_those_of_the_highest_morans_i(patterned):
    assert choose_panel(patterned, rule("svg", 4)) == ("G0", "G1", "G2", "G3")
    assert set(choose_panel(patterned, rule("hvg", 4))) != {"G0", "G1", "G2", "G3"}


def test_morans_i_is_that_of_its_definition(patterned):
    section = patterned[0]
    values = section.adata.X.toarray().astype(float)
    values = np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4)
    graph = kneighbors_graph(section.spatial, NEIGHBOURS).toarray()
    centred = values - values.mean(axis=0)
    wanted = (len(values) / graph.sum() * np.einsum("ig,ij,jg->g", centred, graph, centred)) / (
        centred**2
    ).sum(axis=0)
    size = 9
    best = np.sort(np.argsort(-wanted)[:size])
    assert choose_panel([section], rule("svg", size)) == tuple(f"G{i}" for i in best)


def test_a_gene_without_spread_in_one_section_is_judged_by_the_others(patterned, make_section):
    counts = patterned[0].adata.X.toarray()
    counts[:, 0] = 0
    flat = make_section("A1", "A", counts)
    flat.adata.obsm["spatial"] = patterned[0].spatial
    assert "G0" in choose_panel([flat, patterned[1]], rule("svg", 4))


def test_expressed_genes_are_those_of_the_highest_mean(sections):
    pair = [sections["A1"], sections["B1"]]
    values = np.concatenate([section.adata.X.toarray() for section in pair]).astype(float)
    values = np.log1p(values / values.sum(axis=1, keepdims=True) * 1e4)
    best = np.sort(np.argsort(-values.mean(axis=0))[:7])
    assert choose_panel(pair, rule("expressed", 7)) == tuple(f"G{i}" for i in best)


@pytest.mark.parametrize(
    ("asked", "name", "change"),
    [
        ("svg", "strict-svg", {"panel": "svg", "panel_size": 1000}),
        ("hvg:250", "strict-hvg-250", {"panel": "hvg", "panel_size": 250}),
        ("Mine_1", "strict-mine_1", {"panel": "published", "panel_name": "Mine_1"}),
    ],
)
def test_a_panel_that_is_asked_for_makes_other_rules_of_another_name(asked, name, change):
    changed = with_panel(STRICT, asked, ["Mine_1"])
    assert changed.name == name
    assert changed.hash != STRICT.hash
    assert changed == STRICT.model_copy(update={"name": name, **change})


def test_a_panel_of_a_file_is_part_of_the_rules(tmp_path):
    path = tmp_path / "My genes.txt"
    path.write_text("FASN\n\nACTB\n")
    changed = with_panel(STRICT, str(path), [])
    assert (changed.name, changed.panel) == ("strict-my-genes", "listed")
    assert changed.genes == ("FASN", "ACTB")
    path.write_text("FASN\nGNAS\n")
    assert with_panel(STRICT, str(path), []).hash != changed.hash


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"", "needs genes"), (b"A\nB\nA\n", "twice"), (b"\xff\xfe", "not a text file")],
)
def test_a_file_that_is_no_list_of_genes_is_refused(tmp_path, content, said):
    path = tmp_path / "genes.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=said) as caught:
        with_panel(STRICT, str(path), [])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("asked", "said"), [("hvg:0", "svg|hvg"), ("svg:-3", "svg:500")])
def test_a_size_that_is_none_is_refused(asked, said):
    with pytest.raises(DataError, match=said):
        with_panel(STRICT, asked, [])


def test_an_unknown_panel_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownNameError, match="her2st_785"):
        with_panel(STRICT, "her2st_758", ["her2st_785"])
