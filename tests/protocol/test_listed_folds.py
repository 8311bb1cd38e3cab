"""Folds that a dataset ships, and the protocols of HEST-Benchmark that take them."""

import numpy as np
import pytest
import scipy.sparse as sp

from bench.errors import BenchError, DataError, LeakError
from bench.methods.ridge import Ridge
from bench.protocol.folds import SectionFacts, make_folds
from bench.protocol.listed_folds import read_listed_folds
from bench.protocol.normalise import normalise
from bench.protocol.rules import HEST, HEST_PAPER, STRICT, Scale, find_protocol
from tests.datasets.hest_task import write_split

NAMES = ("A", "B", "C")


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "splits").mkdir()
    for index, test in enumerate(NAMES):
        write_split(tmp_path, "test", index, [test])
        write_split(tmp_path, "train", index, [name for name in NAMES if name != test])
    return tmp_path


def read(folder, usable=NAMES, left_out=None):
    return read_listed_folds(folder / "splits", usable, left_out)


def folds_of(listed, patients="PQR", hashes=(None, None, None), rules=HEST):
    facts = [
        SectionFacts(name, patient, image_hash=image)
        for name, patient, image in zip(NAMES, patients, hashes, strict=True)
    ]
    return make_folds("d", facts, rules, listed)


def test_folds_are_those_of_the_files_in_the_order_of_their_numbers(folder):
    folds = read(folder)
    assert [fold.index for fold in folds] == [0, 1, 2]
    assert [fold.test for fold in folds] == [("A",), ("B",), ("C",)]
    assert folds[1].train == ("A", "C")
    assert folds[1].validation == ()
    assert folds_of(folds).folds == folds


def test_numbers_are_not_ordered_as_text(tmp_path):
    (tmp_path / "splits").mkdir()
    names = [f"S{index}" for index in range(11)]
    for index, test in enumerate(names):
        write_split(tmp_path, "test", index, [test])
        write_split(tmp_path, "train", index, [name for name in names if name != test])
    assert [fold.test[0] for fold in read(tmp_path, names)] == names


@pytest.mark.parametrize("gone", ["test_1.csv", "train_0.csv"])
def test_a_missing_file_is_named(folder, gone):
    (folder / "splits" / gone).unlink()
    with pytest.raises(DataError, match=rf"{gone}: file is missing"):
        read(folder)


def test_a_gap_in_the_numbers_is_a_missing_file(folder):
    for side in ("train", "test"):
        (folder / "splits" / f"{side}_1.csv").unlink()
    with pytest.raises(DataError, match=r"train_1\.csv: file is missing"):
        read(folder)


def test_a_folder_without_folds_is_refused(tmp_path):
    with pytest.raises(DataError, match="list the folds"):
        read(tmp_path)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"", "column 'sample_id'"),
        (b"id\nA\n", "column 'sample_id'"),
        (b"sample_id,patches_path\n", "lists no section"),
        (b"sample_id\nA\nA\n", "'A' occurs more than once"),
        (b"sample_id,x\n,patches/A.h5\n", "line 2 names no section"),
        (b"sample_id\nZ\n", "section Z cannot be used"),
        (b"sample_id\n\xff\xfe\n", "not UTF-8"),
    ],
)
def test_damaged_tables_are_refused_in_one_line(folder, content, match):
    (folder / "splits" / "test_0.csv").write_bytes(content)
    with pytest.raises(DataError, match=match) as caught:
        read(folder)
    assert "test_0.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_reason_for_which_a_section_cannot_be_used_is_given(folder):
    with pytest.raises(DataError, match=r"section A cannot be used: adata/A\.h5ad is missing"):
        read(folder, "BC", {"A": "adata/A.h5ad is missing"})


def test_a_section_on_both_sides_is_refused(folder):
    write_split(folder, "train", 0, NAMES)
    with pytest.raises(LeakError, match="fold 0: a section is on two sides"):
        folds_of(read(folder))


def test_a_section_tested_twice_is_refused(folder):
    write_split(folder, "test", 1, ["A"])
    write_split(folder, "train", 1, ["B", "C"])
    with pytest.raises(LeakError, match="section A is tested in two folds"):
        folds_of(read(folder))


def test_sections_may_stay_untested(folder):
    for side in ("train", "test"):
        (folder / "splits" / f"{side}_2.csv").unlink()
    assert len(folds_of(read(folder)).folds) == 2


def test_the_same_patches_on_both_sides_are_refused(folder):
    with pytest.raises(LeakError, match="the same image on both sides"):
        folds_of(read(folder), hashes=("x", "x", None))


def test_a_dataset_without_folds_is_refused():
    with pytest.raises(BenchError, match="takes the folds that a dataset ships"):
        folds_of(None)


def test_the_scale_without_a_total_is_the_logarithm_of_the_raw_count():
    counts = sp.csr_matrix(np.array([[0.0, 3.0, 100.0], [7.0, 0.0, 1.0]]))
    panel = np.array([1, -1, 0])
    raw = np.array([[3.0, 0.0, 0.0], [0.0, 0.0, 7.0]])
    np.testing.assert_array_equal(normalise(counts, panel, Scale(total="none")), np.log1p(raw))
    np.testing.assert_allclose(
        normalise(counts, panel, Scale(total="none", log="log10")), np.log10(1 + raw)
    )


def test_rules_added_later_are_no_part_of_the_hash_where_they_change_nothing():
    assert "headline" in STRICT.model_dump()
    plain = STRICT.model_copy(update={"headline": "section", "method_settings": {}})
    assert plain.hash == STRICT.hash
    assert STRICT.model_copy(update={"headline": "fold"}).hash != STRICT.hash
    hashes = {STRICT.hash, HEST.hash, HEST_PAPER.hash}
    assert len(hashes) == 3


def test_both_protocols_are_found_by_name():
    assert find_protocol("hest").method_settings["ridge"]["pca"] == 256
    assert find_protocol("hest-paper").method_settings["ridge"]["pca"] is None


@pytest.mark.parametrize("protocol", [HEST, HEST_PAPER])
def test_the_settings_are_settings_of_the_method(protocol):
    for encoder in ("resnet50-layer3", "conch"):
        chosen = {"encoder": encoder, **protocol.method_settings["ridge"]}
        config = Ridge.configure("any", "authors", chosen)
        # Whatever an encoder was trained on: larger patches are not there.
        assert config.patch_size == "112um"
        assert (config.alpha, config.clip) == ("hest", None)
