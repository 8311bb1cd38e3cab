import dataclasses
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp

from bench.data.inputs import TrainingData
from bench.errors import DataError
from bench.protocol.fold_data import fold_data, highest
from bench.protocol.folds import Fold
from bench.protocol.normalise import normalise, panel_counts
from bench.protocol.panel import panel_columns
from bench.protocol.rules import PUBLISHED, STRICT

GENES = tuple(f"G{i}" for i in range(30))
SMALL_STRICT = STRICT.model_copy(update={"panel_size": 12, "heg_genes": 4})
SMALL_PUBLISHED = PUBLISHED.model_copy(update={"heg_genes": 4})
STRICT_FOLD = Fold(index=0, train=("A1", "A2"), validation=("B1",), test=("C1", "C2"))
PUBLISHED_FOLD = Fold(index=0, train=("A1", "A2", "B1", "C2"), validation=(), test=("C1",))
LISTED = ("G7", "G2", "NOWHERE", "G29", "G11", "G0")


@pytest.fixture
def sections(make_section, tmp_path):
    rng = np.random.default_rng(3)
    mean = rng.permutation(np.geomspace(0.5, 20, len(GENES)))
    image = tmp_path / "image.png"
    return {
        name: make_section(
            name,
            name[0],
            rng.negative_binomial(2, 2 / (2 + mean), (40 + 5 * i, len(GENES))),
            image=image,
            image_hash=f"sha256:{name}",
        )
        for i, name in enumerate(("A1", "A2", "B1", "C1", "C2"))
    }


def build(protocol, sections):
    if protocol.panel == "published":
        return fold_data(PUBLISHED_FOLD, sections, protocol, LISTED)
    return fold_data(STRICT_FOLD, sections, protocol)


BOTH = pytest.mark.parametrize("protocol", [SMALL_STRICT, SMALL_PUBLISHED], ids=lambda p: p.name)


def reachable(value, depth=0):
    """Everything that can be reached from a value through fields, containers and bases."""
    assert depth < 12
    yield value
    if dataclasses.is_dataclass(value):
        children = [getattr(value, field.name) for field in dataclasses.fields(value)]
        children += list(vars(value).values())
    elif isinstance(value, dict):
        children = [*value, *value.values()]
    elif isinstance(value, tuple | list | set):
        children = list(value)
    elif isinstance(value, np.ndarray):
        children = [] if value.base is None else [value.base]
    else:
        children = []
    for child in children:
        yield from reachable(child, depth + 1)


@BOTH
def test_a_slide_leads_to_no_expression(sections, protocol):
    data = build(protocol, sections)
    for slide, truth in zip(data.slides, data.truth, strict=True):
        assert slide.name == truth.section
        section = sections[slide.name]
        allowed = [section.spatial, section.array_xy]
        arrays = 0
        for value in reachable(slide):
            assert type(value).__module__.partition(".")[0] in {
                "builtins",
                "numpy",
                "bench",
                "pathlib",
            }, type(value)
            assert type(value).__name__ not in {"AnnData", "Section", "Truth"}
            if isinstance(value, np.ndarray):
                arrays += 1
                # Coordinates and nothing else; a base may hold them column by column.
                assert any(np.array_equal(value, a) or np.array_equal(value.T, a) for a in allowed)
                assert not np.shares_memory(value, truth.expression)
        assert arrays >= 2
        assert not hasattr(slide, "expression")
        assert not hasattr(slide, "target")
        assert not hasattr(slide, "counts")


@BOTH
def test_training_data_leads_to_no_test_section(sections, protocol):
    data = build(protocol, sections)
    tested = {truth.section for truth in data.truth}
    assert tested.isdisjoint(section.name for section in data.training.sections)
    for value in reachable(data.training):
        if isinstance(value, np.ndarray):
            for truth in data.truth:
                assert not np.shares_memory(value, truth.expression)
                assert value.shape != truth.expression.shape


def test_scrambling_the_test_sections_changes_nothing_that_a_method_sees(sections, make_section):
    before = fold_data(STRICT_FOLD, sections, SMALL_STRICT)
    rng = np.random.default_rng(11)
    scrambled = dict(sections)
    for name in STRICT_FOLD.test:
        old = sections[name]
        counts = rng.permuted(old.adata.X.toarray().ravel()).reshape(old.adata.shape) * 3 + 1
        scrambled[name] = make_section(
            name, name[0], counts, image=old.image, image_hash=old.image_hash
        )
    after = fold_data(STRICT_FOLD, scrambled, SMALL_STRICT)
    assert not np.array_equal(before.truth[0].expression, after.truth[0].expression)
    assert before.training.panel == after.training.panel
    assert same(before.training, after.training)
    assert same(before.slides, after.slides)
    assert all(same(a.heg, b.heg) for a, b in zip(before.truth, after.truth, strict=True))


def same(first, second):
    """Equality of nested dataclasses, tuples and arrays."""
    if isinstance(first, np.ndarray):
        return np.array_equal(first, second) and first.dtype == second.dtype
    if sp.issparse(first):
        return first.shape == second.shape and (first != second).nnz == 0
    if dataclasses.is_dataclass(first):
        names = [field.name for field in dataclasses.fields(first)]
        return type(first) is type(second) and all(
            same(getattr(first, name), getattr(second, name)) for name in names
        )
    if isinstance(first, tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def test_the_comparison_of_these_tests_sees_a_difference(sections):
    data = fold_data(STRICT_FOLD, sections, SMALL_STRICT)
    first = data.training.train[0]
    moved = dataclasses.replace(first, target=first.target + 1e-3)
    assert not same(first, moved)
    assert same(first, dataclasses.replace(first))


@BOTH
def test_what_a_method_writes_into_its_arrays_does_not_reach_the_truth(sections, protocol):
    data = build(protocol, sections)
    wanted = build(protocol, sections).truth
    wanted = [
        dataclasses.replace(t, spatial=t.spatial.copy(), array_xy=t.array_xy.copy()) for t in wanted
    ]
    for holder in (*data.slides, *data.training.sections):
        for value in reachable(holder):
            if isinstance(value, np.ndarray) and value.flags.writeable:
                value[...] = 0
    for truth, kept in zip(data.truth, wanted, strict=True):
        assert same(truth, kept)


def test_strict_scales_by_the_spot_over_all_genes_with_natural_log(sections):
    data = fold_data(STRICT_FOLD, sections, SMALL_STRICT)
    first, section = data.training.train[0], sections["A1"]
    counts = section.adata.X.toarray().astype(float)
    columns = [GENES.index(gene) for gene in data.training.panel]
    wanted = np.log1p(1e4 * counts[:, columns] / counts.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(first.target, wanted, rtol=1e-6)
    np.testing.assert_array_equal(first.expression, first.target)
    np.testing.assert_array_equal(first.counts, counts[:, columns])
    assert {a.dtype for a in (first.target, first.expression, first.counts)} == {
        np.dtype("float32")
    }
    truth = sections["C1"].adata.X.toarray().astype(float)
    np.testing.assert_allclose(
        data.truth[0].expression,
        np.log1p(1e4 * truth[:, columns] / truth.sum(axis=1, keepdims=True)),
    )
    np.testing.assert_array_equal(data.truth[0].totals, truth.sum(axis=1))
    assert data.truth[0].expression.dtype == np.float64


def test_published_input_and_target_have_their_own_scales(sections):
    data = fold_data(PUBLISHED_FOLD, sections, SMALL_PUBLISHED, LISTED)
    assert data.training.panel == LISTED
    measured = [GENES.index(gene) for gene in LISTED if gene != "NOWHERE"]
    kept = [i for i, gene in enumerate(LISTED) if gene != "NOWHERE"]
    for training in data.training.train:
        counts = sections[training.name].adata.X.toarray()[:, measured].astype(float)
        per_spot = np.log10(1 + 1e4 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1))
        per_gene = np.log10(1 + 1e4 * counts / counts.sum(axis=0, keepdims=True))
        np.testing.assert_allclose(training.expression[:, kept], per_spot, rtol=1e-6)
        np.testing.assert_allclose(training.target[:, kept], per_gene, rtol=1e-6)
        assert not np.allclose(training.expression, training.target)
    counts = sections["C1"].adata.X.toarray()[:, measured].astype(float)
    np.testing.assert_allclose(
        data.truth[0].expression[:, kept],
        np.log10(1 + 1e4 * counts / counts.sum(axis=0, keepdims=True)),
    )


def test_published_genes_that_were_not_measured_are_zero_and_named(sections):
    sections = {name: replace(s, dropped_spots=int(name == "C1")) for name, s in sections.items()}
    data = fold_data(PUBLISHED_FOLD, sections, SMALL_PUBLISHED, LISTED)
    assert data.dropped_spots == {"C1": 1}
    assert data.unmeasured_genes == {"C1": 1}
    column = LISTED.index("NOWHERE")
    assert (data.truth[0].expression[:, column] == 0).all()
    for training in data.training.train:
        assert (training.target[:, column] == 0).all()
        assert (training.expression[:, column] == 0).all()
        assert (training.counts[:, column] == 0).all()


def test_strict_heg_are_the_highest_means_over_all_training_spots(sections):
    data = fold_data(STRICT_FOLD, sections, SMALL_STRICT)
    spots = np.concatenate([section.target for section in data.training.sections])
    highest_four = set(np.argsort(spots.mean(axis=0))[-4:])
    for truth in data.truth:
        assert set(np.flatnonzero(truth.heg)) == highest_four


def test_published_heg_are_the_highest_means_of_the_test_sections_own_truth(sections):
    data = fold_data(PUBLISHED_FOLD, sections, SMALL_PUBLISHED, LISTED)
    (truth,) = data.truth
    assert set(np.flatnonzero(truth.heg)) == set(np.argsort(truth.expression.mean(axis=0))[-4:])


def test_highest_gives_ties_to_the_earlier_gene():
    assert highest(np.array([1.0, 3.0, 3.0, 3.0, 2.0]), 2).tolist() == [
        False,
        True,
        True,
        False,
        False,
    ]
    assert highest(np.array([1.0, 2.0]), 50).all()


@BOTH
def test_sections_come_in_the_order_of_the_fold_with_their_facts(sections, protocol):
    data = build(protocol, sections)
    fold = PUBLISHED_FOLD if protocol.panel == "published" else STRICT_FOLD
    assert tuple(s.name for s in data.training.train) == fold.train
    assert tuple(s.name for s in data.training.validation) == fold.validation
    assert tuple(s.name for s in data.slides) == fold.test
    for training in data.training.sections:
        section = sections[training.name]
        assert training.patient == section.patient
        assert len(training) == len(training.target) == section.adata.n_obs
        assert training.patch_source.image_hash == section.image_hash
    for slide, truth in zip(data.slides, data.truth, strict=True):
        np.testing.assert_array_equal(slide.spatial, truth.spatial)
        assert truth.spot_names == tuple(sections[slide.name].adata.obs_names)


def test_a_panel_without_a_measured_gene_is_refused(sections):
    with pytest.raises(DataError, match="section A1: no gene of the panel was measured"):
        fold_data(PUBLISHED_FOLD, sections, SMALL_PUBLISHED, ("X", "Y"))


def test_a_test_section_that_measured_no_panel_gene_is_refused(sections, make_section):
    counts = np.ones((50, 3), dtype=int)
    sections["C2"] = make_section("C2", "C", counts, genes=["x", "y", "z"])
    with pytest.raises(DataError, match="section C2: no gene of the panel was measured"):
        fold_data(STRICT_FOLD, sections, SMALL_STRICT)


def test_the_published_protocol_needs_a_published_panel(sections):
    with pytest.raises(DataError, match="needs a gene list"):
        fold_data(PUBLISHED_FOLD, sections, SMALL_PUBLISHED)


def test_a_slide_without_an_image_refuses_to_give_patches(make_section):
    counts = np.random.default_rng(0).poisson(2, (40, 5))
    pair = {name: make_section(name, name[0], counts) for name in ("A1", "B1")}
    fold = Fold(index=0, train=("A1",), validation=(), test=("B1",))
    data = fold_data(fold, pair, SMALL_STRICT)
    with pytest.raises(DataError, match="section B1: no image"):
        data.slides[0].patches(16)


def test_truth_is_what_normalise_gives_for_the_panel(sections):
    data = fold_data(STRICT_FOLD, sections, SMALL_STRICT)
    counts = sections["C2"].adata.X
    columns = panel_columns(sections["C2"], data.training.panel)
    assert panel_counts(counts, columns).shape == data.truth[1].expression.shape
    np.testing.assert_array_equal(
        data.truth[1].expression, normalise(counts, columns, SMALL_STRICT.target)
    )


@pytest.mark.parametrize("panel", [(), ("G0",)])
def test_training_data_without_a_gene_or_a_spot_is_refused(panel):
    with pytest.raises(DataError, match="no training spot"):
        TrainingData(panel, (), ())
