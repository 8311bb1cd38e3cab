"""Seeds, datasets and training patients that cannot be run: refused in one line."""

from __future__ import annotations

import pytest

from tests.cli.tiny_dataset import (
    assert_nothing_half_written,
    assert_refused,
    write_tiny_dataset,
)
from tests.cli.variants.made import make_other


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--seeds", "a-b"), ("--seeds 'a-b'", "0-4 or 0,1,7")),
        (("--seeds", "4-0"), ("4-0 ends before it begins",)),
        (("--seeds", "0-999999"), ("1,000,000 seeds", "at most 1,000")),
        (("--seeds", "0-999999999999999999"), ("seeds are asked for",)),
        (("--seeds", "-1"), ("--seeds '-1'",)),
        (("--seeds", "0,-3"), ("--seeds '0,-3'",)),
        (("--seeds", ""), ("--seeds ''",)),
        (("--seeds", "1.5"), ("--seeds '1.5'",)),
        (("--seeds", "٣"), ("write seeds",)),
        (("--seeds", "0-1", "--seed", "3"), ("--seed is one seed and --seeds are several",)),
        (("--train-patients", "0"), ("--train-patients '0'", "numbers from 1 on")),
        (("--train-patients", "-2"), ("--train-patients '-2'",)),
        (("--train-patients", "1,two"), ("1,2,4,all",)),
        (("--train-patients", ""), ("--train-patients ''",)),
        (("--train-patients", "7"), ("have 1 training patients", "or all")),
        (("--train-patients", "1", "--protocol", "by-section"), ("split by patient",)),
        (("--test-dataset", "nowhere"), ("unknown dataset 'nowhere'",)),
        (("--test-dataset", "hest"), ("hest stands for",)),
        (("--test-dataset", "demo", "--protocol", "published"), ("published cannot be tested",)),
        (("--test-dataset", "demo", "--protocol", "by-section"), ("by-section cannot be tested",)),
    ],
)
def test_what_cannot_be_run_is_refused_in_one_line(run, results, options, words):
    assert_refused(run(*options), *words)
    assert not list(results.glob("runs/*"))
    assert_nothing_half_written(results)


def test_the_training_dataset_is_no_test_dataset(run, tiny, results):
    refused = run("--test-dataset", tiny.card, "--test-data-root", tiny.root)
    assert_refused(refused, "--test-dataset tiny is the training dataset itself")
    assert not list(results.glob("runs/*"))


def test_datasets_that_share_patients_are_refused(run, tmp_path, results):
    known = make_other(tmp_path / "known")
    known.edit_card(shares_patients_with={"tiny": "patients X and A are one"})
    refused = run("--test-dataset", known.card, "--test-data-root", known.root)
    assert_refused(refused, "other holds patients of tiny: patients X and A are one")
    assert not list(results.glob("runs/*"))


def test_nothing_is_downloaded_for_datasets_that_share_patients(bench, results):
    call = ("run", "--dataset", "her2st", "--test-dataset", "stnet", "--method", "mean")
    assert_refused(bench(*call, "--results", results), "stnet holds patients of her2st")
    assert not results.exists()


def test_counts_that_both_hold_are_refused(run, tmp_path, results):
    same = write_tiny_dataset(tmp_path / "same", "same", ("X1", "Y1"))
    refused = run("--test-dataset", same.card, "--test-data-root", same.root)
    assert_refused(refused, "protocol strict-to-same forbids", "have the same counts on both sides")
    assert not list(results.glob("runs/*"))


def test_too_different_a_scale_is_refused(run, tmp_path, results):
    far = make_other(tmp_path / "far")
    far.edit_card(micrometres_per_pixel=0.25)
    where = ("--test-dataset", far.card, "--test-data-root", far.root)
    assert_refused(run(*where), "a section of other has 0.25 um a pixel", "beyond 4 times")
    assert not list(results.glob("runs/*"))


def test_tuning_and_released_weights_take_one_run(bench, tiny, results):
    for command in ("tune", "import-weights"):
        refused = bench(command, "--method", "mean", "--seeds", "0-1", *tiny.where)
        assert refused.status == 2
        assert f"unknown option --seeds of 'bench {command}'" in refused.stderr


def test_datasets_without_a_common_gene_are_refused(run, tmp_path, results):
    foreign = make_other(tmp_path / "foreign")
    for section in ("X1", "Y1"):
        heading, *rows = foreign.read_counts(section)
        foreign.write_counts(section, [[name.replace("GENE", "ENSG") for name in heading], *rows])
    refused = run("--test-dataset", foreign.card, "--test-data-root", foreign.root)
    assert_refused(refused, "tiny and other have no gene in common", "see --aliases")
    assert not list(results.glob("runs/*"))


def test_there_is_one_fold(on_other, results):
    assert_refused(on_other("--folds", "1"), "no fold 1; folds are 0 to 0")
    assert not list(results.glob("runs/*"))


def test_a_missing_test_folder_is_named(run, other, tmp_path, results):
    refused = run("--test-dataset", other.card, "--test-data-root", tmp_path / "nowhere")
    assert_refused(refused, "data folder", "nowhere of other is missing")
