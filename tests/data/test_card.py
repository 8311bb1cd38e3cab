import copy
import csv
import hashlib
import shutil
import subprocess
import sys

import pandas as pd
import pytest
import yaml
from pydantic import ValidationError

from bench.data.card import FileCard, read_card
from bench.data.dataset import open_dataset
from bench.errors import BenchError, DataError, UnknownNameError
from bench.registry import dataset_card, find_datasets

PUBLISHED_SECTIONS = [
    f"{patient}{number}"
    for patient, numbers in {
        "A": range(2, 7),
        "B": range(1, 7),
        "C": range(1, 7),
        "D": range(1, 7),
        "E": range(1, 4),
        "F": range(1, 4),
        "G": range(1, 4),
    }.items()
    for number in numbers
]


def written(folder, fields):
    path = folder / "card.yaml"
    path.write_text(yaml.safe_dump(fields), encoding="utf-8")
    return path


def refused(path, match=None):
    with pytest.raises(DataError, match=match) as caught:
        read_card(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_a_card_with_all_required_fields_is_read(tmp_path, card_fields):
    card = read_card(written(tmp_path, card_fields()))
    assert card.patients == ("P1",)
    assert card.section("S1").files["counts"].path == "counts.tsv"
    with pytest.raises(UnknownNameError, match="S1"):
        card.section("S2")


@pytest.mark.parametrize(
    "path",
    [
        "/etc/passwd",
        "//server/share",
        "../counts.tsv",
        "a/../../counts.tsv",
        "a/..",
        "a\\..\\counts.tsv",
        "\\\\server\\share",
        "C:/counts.tsv",
        "C:counts.tsv",
        "",
        ".",
    ],
)
def test_a_path_that_leaves_the_data_folder_is_refused(path):
    with pytest.raises(ValidationError, match="relative path inside the data folder"):
        FileCard(path=path)


def test_the_refused_path_is_named_with_its_place(tmp_path, card_fields):
    fields = card_fields()
    fields["sections"][0]["files"]["counts"]["path"] = "../counts.tsv"
    message = refused(written(tmp_path, fields), "relative path")
    assert "section S1: files.counts.path" in message


@pytest.mark.parametrize("text", ["panels/../../x", "/panels/x"])
def test_a_panel_text_outside_the_data_folder_is_refused(tmp_path, card_fields, text):
    panel = {"genes": 1, "symbols_sha256": "0" * 64, "text": text}
    refused(written(tmp_path, card_fields(panels={"p": panel})), "relative path")


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"colour": "red"}, "colour"),
        ({"name": "../small"}, "name"),
        ({"layout": "os;system"}, "layout"),
        ({"published_order": ["S1", "S9"]}, "S9"),
        ({"published_order": ["S1", "S1"]}, "twice"),
        ({"published_panel": "none"}, "not among the panels"),
        ({"sections": []}, "sections"),
        ({"sections": "S1"}, "sections"),
        ({"patch_pixels": 0}, "patch_pixels"),
        ({"patch_pixels": 5000}, "patch_pixels"),
        ({"micrometres_per_pixel": 0}, "micrometres_per_pixel"),
        ({"micrometres_per_pixel": -1}, "micrometres_per_pixel"),
        ({"micrometres_per_pixel": float("nan")}, "micrometres_per_pixel"),
        ({"micrometres_per_pixel": float("inf")}, "micrometres_per_pixel"),
        ({"spot_diameter_micrometres": float("inf")}, "spot_diameter_micrometres"),
        ({"max_image_pixels": "many"}, "max_image_pixels"),
        ({"title": ["a", "b"]}, "title"),
    ],
)
def test_a_field_that_breaks_the_schema_is_named(tmp_path, card_fields, changes, match):
    refused(written(tmp_path, card_fields(**changes)), match)


def test_a_missing_field_is_named(tmp_path, card_fields):
    fields = card_fields()
    del fields["licence"]
    refused(written(tmp_path, fields), "licence")


def test_two_sections_of_one_name_are_refused(tmp_path, card_fields):
    fields = card_fields()
    fields["sections"].append(copy.deepcopy(fields["sections"][0]))
    refused(written(tmp_path, fields), "same name")


@pytest.mark.parametrize("name", ["", "..", "a/b", "a b", "-a", "a\n", "ä"])
def test_a_section_name_that_is_no_file_name_is_refused(tmp_path, card_fields, name):
    fields = card_fields()
    fields["sections"][0]["name"] = name
    refused(written(tmp_path, fields), "section number 1: name")


@pytest.mark.parametrize(
    "value",
    [
        "0" * 40,
        "sha1:" + "0" * 40,
        "git-blob:" + "0" * 39,
        "git-blob:" + "G" * 40,
        "sha256:" + "A" * 64,
        "sha256:" + "0" * 64 + "\n",
        "md5:",
        "",
    ],
)
def test_a_hash_of_unknown_form_is_refused(value):
    with pytest.raises(ValidationError, match="is not git-blob"):
        FileCard(path="x", hash=value)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"just a sentence",
        b"- a\n- list\n",
        b"name: [unclosed",
        b"name: 'unclosed",
        b"\tname: tab",
        b"name: \x00",
        b"name: \xff\xfe",
        b"? [a, b]\n: c\n",
        b"? {a: b}\n: c\n",
        b"1: 2\n",
        b"null: null\n",
        b"name: *nowhere\n",
        b"a: &a [*a]\n",
        b"<<: 3\n",
        b"name: 2020-99-99\n",
        b"name: !!int abc\n",
        b"name: !!float abc\n",
        b"name: !!binary '*'\n",
        b"name: !unknown x\n",
        b"name: " + b"1" * 5000 + b"\n",
        b"%YAML 9.9\n---\nname: x\n",
        b"---\nname: a\n---\nname: b\n",
    ],
)
def test_what_is_no_card_is_refused_in_one_line(tmp_path, content):
    path = tmp_path / "card.yaml"
    path.write_bytes(content)
    refused(path)


@pytest.mark.parametrize("made", ["missing", "folder"])
def test_a_card_that_cannot_be_opened_is_refused_in_one_line(tmp_path, made):
    path = tmp_path / "card.yaml"
    if made == "folder":
        path.mkdir()
    refused(path, "missing|not a readable|cannot be read")


def test_aliases_that_expand_to_billions_are_refused_at_once(tmp_path):
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 30)]
    path = tmp_path / "card.yaml"
    path.write_text("\n".join([*levels, "name: *a29", ""]))
    assert len(refused(path)) < 1000


def test_a_card_nested_deeper_than_the_stack_is_refused_without_a_crash(tmp_path):
    path = tmp_path / "card.yaml"
    path.write_bytes(b"name: " + b"[" * 100_000)
    # In a process of its own: the parser must not take the interpreter down with it.
    program = (
        "import sys; from pathlib import Path; from bench.data.card import read_card\n"
        "from bench.errors import DataError\n"
        "try: read_card(Path(sys.argv[1]))\n"
        "except DataError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-500:]
    assert "card.yaml" in done.stdout


@pytest.mark.parametrize(
    "value",
    [
        "!!python/object/apply:os.system ['echo ran > {proof}']",
        "!!python/object/apply:builtins.eval ['open({proof!r}, \"w\")']",
        "!!python/object/new:subprocess.Popen [['touch', '{proof}']]",
        "!!python/name:os.system",
    ],
)
def test_a_python_object_in_a_card_is_refused_and_not_made(tmp_path, value):
    proof = tmp_path / "proof"
    path = tmp_path / "card.yaml"
    path.write_text("name: " + value.replace("{proof!r}", repr(str(proof))).format(proof=proof))
    refused(path, "not a readable YAML file")
    assert not proof.exists()


def test_every_card_of_the_package_is_read():
    cards = {name: dataset_card(name) for name in find_datasets()}
    assert {"demo", "her2st"} <= set(cards)
    assert all(card.name == name for name, card in cards.items())


def test_a_dataset_of_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean her2st"):
        dataset_card("her2")


def test_the_her2st_card_lists_the_published_sections():
    card = dataset_card("her2st")
    assert len(card.sections) == 36
    assert card.patients == tuple("ABCDEFGH")
    assert list(card.published_order) == PUBLISHED_SECTIONS
    assert len(PUBLISHED_SECTIONS) == 32
    for section in card.sections:
        assert section.patient == section.name[0]
        assert {"counts", "spots", "image"} <= set(section.files)
        assert all(file.hash.startswith("git-blob:") for file in section.files.values())


def test_the_her2st_card_agrees_with_the_list_of_the_source_repository(shared_folder):
    with open(shared_folder / "data" / "her2st" / "FILES.tsv", newline="") as stream:
        listed = {row["path"]: row for row in csv.DictReader(stream, delimiter="\t")}
    files = [file for s in dataset_card("her2st").sections for file in s.files.values()]
    assert len({file.path for file in files}) == len(files)
    for file in files:
        row = listed[file.path]
        assert file.hash == f"git-blob:{row['git_blob_sha1']}"
        if file.size is not None:
            assert file.size == int(row["bytes"])


def test_the_her2st_panel_hash_is_that_of_the_published_list(shared_folder):
    panel = dataset_card("her2st").panels["her2st_785"]
    symbols = (shared_folder / "data" / "panels" / "her2st_785.txt").read_text().split()
    assert len(symbols) == panel.genes
    assert hashlib.sha256("\n".join(symbols).encode()).hexdigest() == panel.symbols_sha256


def test_verify_refuses_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"x\.tsv: file is missing"):
        FileCard(path="x.tsv").verify(tmp_path / "x.tsv")
    with pytest.raises(DataError, match="missing"):
        FileCard(path="x.tsv").verify(tmp_path)


def test_verify_refuses_another_size(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_bytes(b"12345")
    with pytest.raises(DataError, match=r"x\.tsv: 5 bytes, the card says 6"):
        FileCard(path="x.tsv", size=6).verify(path)


@pytest.mark.parametrize("algorithm", ["sha256", "md5", "git-blob"])
def test_verify_refuses_another_content_and_accepts_the_right_one(tmp_path, algorithm):
    path = tmp_path / "x.tsv"
    path.write_bytes(b"12345")
    digest = {
        "sha256": hashlib.sha256(b"12345"),
        "md5": hashlib.md5(b"12345"),
        "git-blob": hashlib.sha1(b"blob 5\x0012345"),
    }[algorithm].hexdigest()
    card = FileCard(path="x.tsv", hash=f"{algorithm}:{digest}", size=5)
    assert card.verify(path) == f"{algorithm}:{digest}"
    path.write_bytes(b"12346")
    with pytest.raises(DataError, match=r"x\.tsv: hash"):
        card.verify(path)


def test_verify_without_a_hash_in_the_card_gives_sha256(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_bytes(b"12345")
    assert FileCard(path="x.tsv").verify(path) == f"sha256:{hashlib.sha256(b'12345').hexdigest()}"


@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("content", [b"", b"12345\r\n", bytes(range(256)) * 8200])
def test_git_blob_is_the_name_that_git_gives(tmp_path, content):
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    named = subprocess.run(
        ["git", "hash-object", "--no-filters", str(path)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    ).stdout.strip()
    card = FileCard(path="x.bin", hash=f"git-blob:{named}")
    assert card.verify(path) == f"git-blob:{named}"


@pytest.mark.parametrize("layout", ["no_such_layout", "demo"])
def test_a_card_whose_layout_does_not_exist_is_refused_in_one_line(
    tmp_path, make_card, layout, write_legacy, own_cache
):
    spots = pd.DataFrame({"x": [1], "y": [2], "pixel_x": [5.0], "pixel_y": [6.0]})
    write_legacy(tmp_path, pd.DataFrame({"A": [1]}, index=["1x2"]), spots)
    card = make_card(layout=layout)
    with pytest.raises(BenchError, match=f"unknown layout '{layout}'.*legacy_st"):
        open_dataset(card, tmp_path, images=False).section("S1")
