"""Whatever a file may hold: one line says what is wrong, and nothing is written."""

from __future__ import annotations

import io
import json
import stat
import warnings
import zipfile

import h5py
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.sharing.archive import INDEX
from tests.cli.tiny_dataset import assert_refused, call
from tests.sharing.archives import edited, members, record, rekeyed, sealed, written

NAME = "bad.spotbench.zip"


def refused(path, results, *words):
    answer = call("import", path, "--results", results)
    line = assert_refused(answer, *words)
    assert not (results / "runs").exists()
    assert not (results / "imports").exists()
    return line


@pytest.fixture
def results(tmp_path):
    return tmp_path / "results"


def name_of(content, ending):
    return next(name for name in content if name.endswith(ending))


@pytest.mark.parametrize("ending", ["run.json", "scores.parquet", "manifest.json", "fold.json"])
def test_a_changed_byte(archive, tmp_path, results, ending):
    content = members(archive)
    name = name_of(content, ending)
    text = bytearray(content[name])
    text[len(text) // 2] ^= 1
    path = written(tmp_path / NAME, {**content, name: bytes(text)})
    refused(path, results, name, "changed")


def test_a_changed_byte_of_the_zip_file(archive, tmp_path, results):
    text = bytearray(archive.read_bytes())
    text[len(text) // 3] ^= 0x55
    path = tmp_path / NAME
    path.write_bytes(text)
    refused(path, results, str(path))


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_truncated_file(archive, tmp_path, results, share):
    text = archive.read_bytes()
    path = tmp_path / NAME
    path.write_bytes(text[: int(share * len(text))])
    refused(path, results, "is no complete zip file")


def test_an_empty_zip_file_and_other_kinds(tmp_path, results):
    refused(written(tmp_path / NAME, {}), results, "empty zip file")
    refused(written(tmp_path / NAME, {"a.txt": b"x"}), results, "another zip file")
    refused(written(tmp_path / NAME, {"bundle.json": b"{}"}), results, "a model bundle")
    refused(written(tmp_path / NAME, {INDEX: b"[1]"}), results, "no JSON object")
    refused(written(tmp_path / NAME, {INDEX: b"[" * 10_000}), results, "not JSON")
    refused(tmp_path, results, "cannot be read")
    refused(tmp_path / "none.spotbench.zip", results, "no such file")


def test_an_archive_of_another_format(archive, tmp_path, results):
    content = members(archive)
    index = {**json.loads(content[INDEX]), "format": 2}
    path = written(tmp_path / NAME, {**content, INDEX: json.dumps(index).encode()})
    refused(path, results, "of format 2", "reads")


@pytest.mark.parametrize(
    "name", ["../evil.json", "/tmp/evil.json", "runs/../../evil.json", "runs\\..\\evil.json"]
)
def test_a_path_outside(archive, tmp_path, results, name):
    content = members(archive)
    refused(sealed(tmp_path / NAME, {**content, name: b"{}"}), results, "outside of the archive")
    assert not list(tmp_path.rglob("evil.json"))


@pytest.mark.parametrize("name", ["evil.py", "runs/tiny/patients/x-1/model.pkl", "runs/a/run.json"])
def test_a_member_that_does_not_belong(archive, tmp_path, results, name):
    path = sealed(tmp_path / NAME, {**members(archive), name: b"{}"})
    refused(path, results, "does not belong to results")
    path = written(tmp_path / NAME, {**members(archive), name: b"{}"})
    refused(path, results, "is not in its index")


@pytest.mark.parametrize(
    "given", [{}, {"label": " "}, {"label": 3}, {"label": "x" * 121}, {"label": "x", "more": 1}]
)
def test_a_name_of_a_row_that_is_none(archive, tmp_path, results, given):
    content = members(archive)
    name = name_of(content, "run.json").replace("run.json", "label.json")
    path = sealed(tmp_path / NAME, {**content, name: record(given)})
    refused(path, results, "label.json")


def special(path, content, change):
    """The archive with the header of its last member changed."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in content.items():
            entry = zipfile.ZipInfo(name)
            if name == list(content)[-1]:
                change(entry)
            archive.writestr(entry, text)
    return path


def test_a_link_and_a_folder(archive, tmp_path, results):
    def link(entry):
        entry.external_attr = (stat.S_IFLNK | 0o777) << 16

    def folder(entry):
        entry.filename += "/"

    for change in (link, folder):
        refused(special(tmp_path / NAME, members(archive), change), results, "no regular file")


def test_a_member_that_is_there_twice(archive, tmp_path, results):
    content = members(archive)
    with warnings.catch_warnings(), zipfile.ZipFile(tmp_path / NAME, "w") as made:
        warnings.simplefilter("ignore")
        for name, text in [*content.items(), *list(content.items())[-1:]]:
            made.writestr(name, text)
    refused(tmp_path / NAME, results, "is there twice")


def test_bombs(archive, tmp_path, results):
    content = members(archive)
    name = name_of(content, "run.json")
    refused(sealed(tmp_path / NAME, {**content, name: b" " * (65 << 20)}), results, "too many")
    zeros = b" " * (30 << 20)
    refused(sealed(tmp_path / NAME, {**content, name: zeros}), results, "times its size")
    path = written(tmp_path / NAME, {INDEX: zeros})
    refused(path, results, "times its size")
    # A table of one value, sixty million times.
    many = pa.table({"fold": pa.array(np.zeros(60_000_000, np.int8))})
    writer = io.BytesIO()
    pq.write_table(many, writer, compression="zstd")
    assert len(writer.getvalue()) < 1 << 20
    bomb = {**content, name_of(content, "scores.parquet"): writer.getvalue()}
    refused(sealed(tmp_path / NAME, bomb), results, "scores.parquet", "rows")


def test_sizes_in_the_directory_that_are_not_true(archive, tmp_path, results):
    content = members(archive)
    name = name_of(content, "run.json")
    index = json.loads(content[INDEX])
    index["files"][name]["size"] += 1
    path = written(tmp_path / NAME, {**content, INDEX: json.dumps(index).encode()})
    refused(path, results, name, "its size differs")


# --------------------------------------------------------------------------- what records say


def test_other_folds_under_the_same_name(archive, own_results, tmp_path):
    content = members(archive)
    (place,) = [name for name in content if name.startswith("folds/")]
    folds = json.loads(content[place])
    folds["folds"][0]["test"] = ["B1"]
    refused(sealed(tmp_path / NAME, {**content, place: json.dumps(folds).encode()}),
            tmp_path / "results", "does not match the hash in its name")  # fmt: skip

    swapped = with_other_folds(content, place)
    path = sealed(tmp_path / NAME, swapped)
    forged = call("import", path, "--results", own_results, "--other-data")
    assert_refused(forged, "has the key of a run here", "another folds hash")
    path = sealed(tmp_path / NAME, rekeyed(swapped))
    before = sorted(own_results.rglob("*"))
    line = assert_refused(call("import", path, "--results", own_results), "its folds", "those of")
    assert "--other-data" in line
    assert sorted(own_results.rglob("*")) == before
    assert not list(own_results.glob(".*"))
    answer = call("import", path, "--results", own_results, "--other-data", "--name", "Lab D")
    assert answer.status == 0, answer.stderr
    assert "are not those of the runs here" in answer.stderr
    shown = call("tables", "--dataset", "tiny", "--results", own_results).stdout
    assert "fold hash" in shown
    assert "Rows with different folds" in shown


def with_other_folds(content, place):
    """The archive as of a laboratory that numbers the folds the other way round."""
    from bench.files import canonical_hash

    folds = json.loads(content[place])
    folds["folds"] = [
        {**fold, "index": number} for number, fold in enumerate(reversed(folds["folds"]))
    ]
    changed = {}
    new = canonical_hash(folds)
    for name, text in content.items():
        if name == place:
            changed[f"{place.rpartition('/')[0]}/folds-{new[:12]}.json"] = json.dumps(
                folds
            ).encode()
            continue
        number = name.split("fold-")[1][0] if "fold-" in name and "runs/" in name else ""
        if number:
            other = 2 - int(number)
            name = name.replace(f"fold-{number}", f"fold-{other}")
            if name.endswith(("fold.json", "manifest.json")):
                value = {**json.loads(text), "fold": other}
                text = record(value) if "sha256" in value else json.dumps(value).encode()
            elif name.endswith(("scores.parquet", "genes.parquet")):
                table = pd.read_parquet(io.BytesIO(text)).assign(fold=other)
                text = table.to_parquet(index=False)
        elif name.endswith("run.json"):
            text = record({**json.loads(text), "folds_hash": new})
        changed[name] = text
    return changed


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("label", "x" * 400, "label"),
        ("label", "", "label"),
        ("kind", "winner", "kind"),
        ("dataset", "../..", "dataset"),
        ("dataset", "other", "another run than its folder"),
        ("protocol", "A b", "protocol"),
        ("n_folds", 10**9, "n_folds"),
        ("n_folds", "3", "n_folds"),
        ("seed", None, "seed"),
        ("key", "abc", "key"),
        ("key", "0" * 64, "another run than its folder"),
        ("folds_hash", "0" * 64, "is missing"),
        ("audit", [1], "audit"),
        ("audit", [{"kind": "x", "message": 3, "folds": [], "forbidden": False}], "message"),
        ("left_out", {"A1": 3}, "left_out"),
        ("footnotes", "x", "footnotes"),
        ("checkpoint", {"file": 3}, "checkpoint"),
    ],
)
def test_fields_of_a_run_that_are_not_what_they_should_be(
    archive, tmp_path, results, field, value, word
):
    path = edited(archive, tmp_path / NAME, "run.json", lambda facts: {**facts, field: value})
    refused(path, results, "run.json" if field != "folds_hash" else "folds-", word)


@pytest.mark.parametrize(
    ("field", "value", "word"),
    [
        ("test", ["A1"], "its sections are not those"),
        ("panel", 3, "panel"),
        ("timings", {"fit_seconds": "long"}, "timings"),
        ("images", {"A1": {"file": "../../x.jpg", "scale": 1.0}}, "relative path"),
        ("notes", [["x"]], "notes"),
        ("machine", {"python": [1]}, "machine"),
        ("dropped_spots", {"A1": [1]}, "dropped_spots"),
        ("peak_memory_mb", "much", "peak_memory_mb"),
    ],
)
def test_fields_of_a_fold_that_are_not_what_they_should_be(
    archive, tmp_path, results, field, value, word
):
    path = edited(archive, tmp_path / NAME, "fold.json", lambda facts: {**facts, field: value})
    refused(path, results, "fold.json", word)


def test_numbers_that_json_has_not(archive, tmp_path, results):
    content = members(archive)
    name = name_of(content, "fold.json")
    text = content[name].replace(b'"fold": 0', b'"x": NaN, "fold": 0')
    refused(sealed(tmp_path / NAME, {**content, name: text}), results, "NaN is no number of JSON")


def test_a_record_whose_own_hash_is_wrong(archive, tmp_path, results):
    content = members(archive)
    name = name_of(content, "run.json")
    text = json.dumps({**json.loads(content[name]), "seed": 3}).encode()
    refused(sealed(tmp_path / NAME, {**content, name: text}), results, "does not match the hash")


def test_missing_members(archive, tmp_path, results):
    content = members(archive)
    for ending in ("scores.parquet", "fold.json", "run.json"):
        left = {name: text for name, text in content.items() if not name.endswith(ending)}
        refused(sealed(tmp_path / NAME, left), results, "is missing")
    left = {name: text for name, text in content.items() if not name.startswith("folds/")}
    refused(sealed(tmp_path / NAME, left), results, "folds-", "is missing")
    name = name_of(content, "scores.parquet")
    left = {other: text for other, text in content.items() if other != name}
    refused(written(tmp_path / NAME, left), results, name, "is missing")


def test_tables_that_are_not_of_the_fold(archive, tmp_path, results):
    content = members(archive)
    name = name_of(content, "scores.parquet")
    scores = pd.read_parquet(io.BytesIO(content[name]))

    def with_scores(table):
        return sealed(tmp_path / NAME, {**content, name: table.to_parquet(index=False)})

    refused(with_scores(scores.assign(section="Z9")), results, "not of the test sections")
    refused(with_scores(scores.assign(patient="Q")), results, "not of the test sections")
    refused(with_scores(scores.assign(fold=7)), results, "not of the test sections")
    refused(with_scores(scores[scores["section"] == ""]), results, "a test section is missing")
    refused(with_scores(scores.drop(columns="value")), results, "no column 'value'")
    refused(with_scores(scores.assign(value="high")), results, "column 'value' is of type")
    path = sealed(tmp_path / NAME, {**content, name: b"PAR1 no table PAR1"})
    refused(path, results, "scores.parquet")


def test_predictions_that_point_into_another_file(shared_results, tmp_path, results):
    out = tmp_path / "whole.spotbench.zip"
    call("export", "--results", shared_results, "--with-predictions", "--out", out)
    content = members(out)
    name = name_of(content, "predictions.h5ad")
    with h5py.File(tmp_path / "x.h5ad", "w") as file:
        file["X"] = h5py.ExternalLink("/etc/passwd", "/")
    text = (tmp_path / "x.h5ad").read_bytes()
    refused(sealed(tmp_path / NAME, {**content, name: text}), results, "predictions.h5ad")


def test_names_that_are_no_names(archive, results, tmp_path):
    for name in ("x" * 61, "   "):
        answer = call("import", archive, "--results", results, "--name", name)
        if name.strip():
            assert_refused(answer, "--name")
    hostile = "<script>\x1b[31m"
    answer = call("import", archive, "--results", results, "--name", hostile)
    assert answer.status == 0
    assert "\x1b" not in answer.stdout


def test_a_results_folder_that_cannot_be_written(archive, tmp_path):
    (tmp_path / "file").write_text("x")
    answer = call("import", archive, "--results", tmp_path / "file" / "results")
    assert_refused(answer, "cannot be written")
