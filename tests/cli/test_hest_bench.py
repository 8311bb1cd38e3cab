"""HEST-Benchmark: a made task folder gives the numbers of a plain scikit-learn script."""

from __future__ import annotations

import csv
import functools
import json

import anndata
import h5py
import numpy as np
import pytest
from scipy.stats import pearsonr
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from bench.blocks.features import FrozenEncoder
from bench.data.images.stored_patches import stored_patches
from bench.data.inputs import Slide
from bench.files import file_hash
from bench.methods.ridge import Ridge as RidgeMethod
from bench.registry import dataset_card
from bench.stored_runs import stored_runs
from tests.cli.tiny_dataset import assert_nothing_half_written, assert_refused
from tests.datasets.hest_task import EDGE, GENES, SAMPLES, write_patients, write_split, write_task

ENCODER = {"encoder": "test_resnet", "weights": "none", "input_size": 64}


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    """A made task folder; not to be changed."""
    return write_task(tmp_path_factory.mktemp("hest") / "MADE")


@pytest.fixture
def add(tmp_path, monkeypatch, bench):
    """Adds a task folder as dataset ``made``."""
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "own"))

    def call(folder, *options):
        table = write_patients(tmp_path / "patients.csv")
        return bench("data", "add", folder, "--name", "made", "--patients", table, *options)

    return call


def run(bench, results, *options):
    settings = [f"--set=ridge.{name}={value}" for name, value in ENCODER.items()]
    return bench(
        *("run", "--dataset", "made", "--method", "ridge", "--device", "cpu"),
        *("--precision", "float32"),
        *("--results", results, "--tracking", "none", *settings, *options),
    )


@functools.cache
def features_of(folder, sample):
    """Features of the patches in the order of the file."""
    path = folder / "patches" / f"{sample}.h5"
    with h5py.File(path) as file:
        number = len(file["img"])
    source = stored_patches(path, file_hash(path), np.zeros((number, 2)), np.arange(number))
    slide = Slide(sample, np.zeros((number, 2), int), np.zeros((number, 2)), EDGE, source)
    config = RidgeMethod.configure("any", "authors", ENCODER)
    # In double precision, so that the script rounds less than what it is compared with.
    return FrozenEncoder(config, 0, "cpu").encode([slide])[0].astype(np.float64)


def target_of(folder, sample):
    """ln(1 + raw count) of the task's genes for the barcodes of the patches."""
    genes = json.loads((folder / "var_50genes.json").read_text())["genes"]
    with h5py.File(folder / "patches" / f"{sample}.h5") as file:
        barcodes = [code.decode() for code in file["barcode"][:, 0]]
    adata = anndata.read_h5ad(folder / "adata" / f"{sample}.h5ad")[barcodes, genes]
    return np.log1p(adata.X.toarray().astype(np.float64))


def script(folder, pca, tol):
    """PCC of each fold, as the code of HEST-Benchmark computes it."""
    scores = []
    for index in range(len(SAMPLES)):
        sides = []
        for side in ("train", "test"):
            with open(folder / "splits" / f"{side}_{index}.csv") as stream:
                names = [row["sample_id"] for row in csv.DictReader(stream)]
            sides.append(np.concatenate([features_of(folder, name) for name in names]))
            sides.append(np.concatenate([target_of(folder, name) for name in names]))
        train_x, train_y, test_x, test_y = sides
        scaler = StandardScaler().fit(train_x)
        train_x, test_x = scaler.transform(train_x), scaler.transform(test_x)
        if pca is not None:
            train_x, test_x = pca.fit(train_x).transform(train_x), pca.transform(test_x)
        alpha = 100 / (train_x.shape[1] * train_y.shape[1])
        ridge = Ridge(
            solver="lsqr", alpha=alpha, fit_intercept=False, max_iter=1000, random_state=1, tol=tol
        )
        predicted = ridge.fit(train_x, train_y).predict(test_x)
        scores.append(
            np.mean([pearsonr(test_y[:, g], predicted[:, g])[0] for g in range(len(GENES))])
        )
    return np.array(scores)


def pooled(results, protocol):
    """Pooled PCC of each fold of the one run under a protocol."""
    (found,) = stored_runs(results, "made", protocol)
    scores = found.scores()
    chosen = scores[scores["score"] == "pooled_pcc_acg"].sort_values("fold")
    return chosen["value"].to_numpy()


def randomized(components):
    # The solver that scikit-learn takes by itself at the size of the benchmark.
    return PCA(components, svd_solver="randomized", random_state=1)


@pytest.mark.slow
@pytest.mark.parametrize("components", [20, 256])
def test_the_probe_of_the_readme_gives_the_numbers_of_the_script(
    bench, add, task, results, components
):
    assert add(task).status == 0
    options = ("--no-oracles", "--protocol", "hest", f"--set=ridge.pca={components}")
    done = run(bench, results, *options)
    assert done.status == 0, done.stderr
    ours = pooled(results, "hest")
    features = features_of(task, SAMPLES[0]).shape[1]
    pca = randomized(min(components, features))
    np.testing.assert_allclose(ours, script(task, pca, tol=1e-12), rtol=0, atol=1e-6)
    if components < features:
        # Where small components remain, the default tolerance of lsqr ends its search early.
        np.testing.assert_allclose(ours, script(task, pca, tol=1e-4), rtol=0, atol=1e-3)


@pytest.mark.slow
def test_exact_algebra_agrees_to_three_decimals(bench, add, task, results):
    assert add(task).status == 0
    options = ("--no-oracles", "--protocol", "hest", "--set=ridge.pca_solver=exact")
    assert run(bench, results, *options).status == 0
    wanted = script(task, randomized(features_of(task, SAMPLES[0]).shape[1]), tol=1e-12)
    np.testing.assert_allclose(pooled(results, "hest"), wanted, rtol=0, atol=5e-4)


@pytest.mark.slow
def test_the_papers_probe_has_no_pca(bench, add, task, results):
    assert add(task).status == 0
    assert run(bench, results, "--no-oracles", "--protocol", "hest-paper").status == 0
    ours = pooled(results, "hest-paper")
    np.testing.assert_allclose(ours, script(task, None, tol=1e-12), rtol=0, atol=1e-6)


def test_settings_of_the_user_come_before_those_of_the_protocol(bench, add, task, results):
    assert add(task).status == 0
    done = run(bench, results, "--no-oracles", "--protocol", "hest", "--set", "pca=3", "--json")
    assert done.status == 0, done.stderr
    (found,) = stored_runs(results, "made", "hest")
    assert found.facts["config"]["pca"] == 3
    assert found.facts["config"]["alpha"] == "hest"
    assert found.facts["config"]["clip"] is None


def test_what_was_read_is_said(add, task):
    added = add(task, "--json")
    assert added.status == 0, added.stderr
    content = json.loads(added.stdout)
    assert [line["section"] for line in content["sections"]] == list(SAMPLES)
    assert {line["spots"] for line in content["sections"]} == {58}
    assert {line["um/px"] for line in content["sections"]} == {0.5}
    assert content["left_out"]["MADE1"] == {"control probes": 1, "spots without a patch": 2}


def test_the_audit_names_the_gene_choice(bench, add, task):
    assert add(task).status == 0
    done = bench("audit", "--dataset", "made", "--protocol", "hest")
    assert done.status == 0, done.stdout + done.stderr
    assert "the gene list was chosen over all samples of the task" in done.stdout


def test_the_ceiling_and_the_depth_oracle_come_out(bench, add, task, results):
    assert add(task).status == 0
    assert bench("ceiling", "--dataset", "made", "--protocol", "hest").status == 0
    done = run(bench, results, "--protocol", "hest", "--json")
    assert done.status == 0, done.stderr
    # A row with another encoder than the method's own names it.
    rows = {row["method"].partition("[")[0]: row for row in json.loads(done.stdout)["rows"]}
    assert rows["depth"]["pooled_pcc_acg"] > 0
    assert 0 < rows["ridge"]["ceiling_acg"] <= 1
    for name in ("pcc_acg_given_depth", "pcc_acg_low", "pcc_acg_high"):
        assert np.isfinite(rows["ridge"][name]), name


@pytest.fixture
def broken(tmp_path):
    """A task folder that the test may damage."""
    return write_task(tmp_path / "BROKEN", SAMPLES[:2])


def edit_patches(folder, change):
    with h5py.File(folder / "patches" / "MADE1.h5", "r+") as file:
        change(file)


def another_barcode(file):
    file["barcode"][3] = b"zzz"


def repeated_barcode(file):
    file["barcode"][3] = file["barcode"][4]


def another_count(file):
    images = file["img"][:-1]
    del file["img"]
    file.create_dataset("img", data=images)


def no_scale(file):
    for name in ("img", "coords"):
        del file[name].attrs["patch_size_src"]


def no_barcodes(file):
    del file["barcode"]


def no_images(file):
    del file["img"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (another_barcode, ["MADE1.h5", "barcode 'zzz' is no spot of"]),
        (repeated_barcode, ["MADE1.h5", "occurs more than once"]),
        (another_count, ["MADE1.h5", "57 patches for 58 barcodes"]),
        (no_scale, ["MADE1.h5", "patch_size_src"]),
        (no_barcodes, ["MADE1.h5", "barcode"]),
        (no_images, ["MADE1.h5", "img"]),
    ],
)
def test_damaged_patches_are_refused(bench, add, broken, tmp_path, change, words):
    edit_patches(broken, change)
    table = write_patients(tmp_path / "two.csv", SAMPLES[:2])
    add(broken)
    done = bench("data", "add", broken, "--name", "other", "--patients", table)
    assert_refused(done, *words)
    assert not (tmp_path / "own" / "cards" / "other.yaml").exists()


@pytest.mark.parametrize(
    ("genes", "words"),
    [
        ('{"genes": ["GENE1", NaN]}', ["var_50genes.json", "gene 2 is 'nan'"]),
        ('{"genes": []}', ["var_50genes.json", "at least one"]),
        ('{"genes": ["GENE1", "GENE1"]}', ["var_50genes.json", "more than once"]),
        ("[", ["var_50genes.json", "not a JSON file"]),
        (None, ["var_50genes.json", "file is missing"]),
    ],
)
def test_a_damaged_gene_list_is_refused(bench, add, broken, tmp_path, genes, words):
    path = broken / "var_50genes.json"
    path.unlink() if genes is None else path.write_text(genes)
    add(broken)
    table = write_patients(tmp_path / "two.csv", SAMPLES[:2])
    assert_refused(bench("data", "add", broken, "--name", "other", "--patients", table), *words)


def test_missing_files_are_refused(bench, add, broken, tmp_path, results):
    table = write_patients(tmp_path / "two.csv", SAMPLES[:2])
    add(broken)
    (broken / "splits" / "test_1.csv").unlink()
    assert bench("data", "add", broken, "--name", "made", "--patients", table).status == 0
    done = run(bench, results, "--protocol", "hest")
    assert_refused(done, "test_1.csv: file is missing", lines=None)
    (broken / "patches" / "MADE2.h5").unlink()
    done = bench("data", "add", broken, "--name", "other", "--patients", table)
    assert_refused(done, "MADE2.h5: file is missing")
    assert_nothing_half_written(results)


def test_a_section_of_no_sample_is_refused(bench, add, broken, tmp_path, results):
    table = write_patients(tmp_path / "two.csv", SAMPLES[:2])
    add(broken)
    assert bench("data", "add", broken, "--name", "made", "--patients", table).status == 0
    write_split(broken, "test", 0, ["TENX95"])
    done = run(bench, results, "--protocol", "hest")
    assert_refused(done, "test_0.csv: section TENX95 cannot be used", lines=None)


def test_larger_patches_than_the_stored_ones_are_refused(bench, add, task, results):
    assert add(task).status == 0
    done = run(bench, results, "--no-oracles", "--protocol", "hest", "--set=ridge.patch_size=300")
    assert done.status == 2
    assert "ask for 224 px or fewer" in done.stderr.splitlines()[-1]
    assert_nothing_half_written(results)


def test_two_tasks_are_not_taken_for_one(bench, add, broken, tmp_path):
    (tmp_path / "both").mkdir()
    broken.rename(tmp_path / "both" / "A")
    write_task(tmp_path / "both" / "B", SAMPLES[2:])
    assert_refused(add(tmp_path / "both"), "holds 2 tasks of HEST-Benchmark")


def test_folds_are_needed(bench, tiny, results):
    done = bench("run", *tiny.where, "-m", "mean", "-p", "hest", "--results", results)
    assert_refused(done, "tiny", lines=None)


def test_patients_of_the_benchmarks_own_samples_are_known(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "own"))
    folder = write_task(tmp_path / "IDC", ("TENX95", "NCBI783"))
    added = bench("data", "add", folder, "--name", "mine", "--json")
    assert added.status == 0, added.stderr
    patients = [line["patient"] for line in json.loads(added.stdout)["sections"]]
    card = dataset_card("hest-idc")
    assert sorted(patients) == sorted(card.section(n).patient for n in ("TENX95", "NCBI783"))


@pytest.mark.parametrize("samples", [("TENX128", "TENX155"), ("TENX155", "TENX118")])
def test_two_names_of_one_sample_are_named(bench, tmp_path, monkeypatch, samples):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "own"))
    folder, table = write_task(tmp_path / "T", samples), tmp_path / "patients.csv"
    write_patients(table, samples)
    assert bench("data", "add", folder, "--name", "mine", "--patients", table).status == 0
    audited = bench("audit", "--dataset", "mine", "--protocol", "hest")
    assert audited.status == 0, audited.stderr
    assert "TENX128 and TENX155 are the same sample" in audited.stdout
