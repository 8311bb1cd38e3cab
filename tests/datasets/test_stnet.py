"""The layout of ST-Net's data, in its true form: names, separators, line ends, quirks."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import yaml
from PIL import Image

from bench.data.dataset import local_card, open_dataset
from bench.datasets.stnet import read
from bench.errors import DataError
from bench.registry import dataset_card

IDS = ("ENSG00000141510", "ENSG00000012048.23", "ENSG00000999999", "ENSG00000169429")
SYMBOLS = ["TP53", "BRCA1", "ENSG00000999999", "CXCL8"]
COUNTS = {
    "10x12": [3, 0, 1, 7],
    "10x13": [0, 2, 0, 1],
    "11x12": [5, 5, 5, 5],
    "2x31": [9, 9, 9, 9],  # not under tissue
    "11x13": [1, 0, 0, 4],
}
PLACES = {
    "11x13": (3200.5, 3790),
    "10x12": (2910, 3500.25),
    "11x12": (3201, 3500),
    "10x13": (2911, 3791),
}
TUMOUR = {"10x12": "tumor", "10x13": "non", "11x12": "tumor"}
HGNC = (
    "hgnc_id\tsymbol\tname\tensembl_gene_id\n"
    "HGNC:11998\tTP53\ttumor protein p53\tENSG00000141510\n"
    'HGNC:1100\tBRCA1\t"BRCA1 DNA repair associated"\tENSG00000012048\n'
    "HGNC:6025\tCXCL8\tC-X-C motif\tENSG00000169429\n"
    "HGNC:37133\tA1BG-AS1\tantisense\t\n"
)


def zipped(path, text):
    path.write_bytes(gzip.compress(text.encode()))
    return path


@pytest.fixture
def files(tmp_path):
    """Paths of one section by role; the array's other spots are in the counts alone."""
    rows = "".join(f"{n}\t" + "\t".join(map(str, c)) + "\n" for n, c in COUNTS.items())
    spots = "".join(f"{name},{x},{y}\n" for name, (x, y) in PLACES.items())
    marked = ""
    for name, label in TUMOUR.items():
        x, y = (float(part) for part in name.split("x"))
        marked += f"C1_{name.replace('x', '_')}\t{x + 0.08:.2f}\t{y - 0.11:.2f}\tL1\t{label}\r"
    symbols = tmp_path / "hgnc_complete_set.txt"
    symbols.write_text(HGNC)
    return {
        "counts": zipped(
            tmp_path / "BC23287_C1_stdata.tsv.gz", "\t" + "\t".join(IDS) + "\n" + rows
        ),
        "spots": zipped(tmp_path / "spots_BT23287_C1.csv.gz", ",X,Y\n" + spots),
        "labels": zipped(
            tmp_path / "BC23287_C1_Coords.tsv.gz", "xcoord\tycoord\tlab\ttumor\r" + marked
        ),
        "symbols": symbols,
    }


def test_spots_under_tissue_are_read_by_symbol(files):
    adata = read(files)
    assert list(adata.obs_names) == ["10x12", "10x13", "11x12", "11x13"]
    assert list(adata.var_names) == SYMBOLS
    assert list(adata.var["gene_id"]) == list(IDS)
    np.testing.assert_array_equal(adata.X.toarray(), [COUNTS[name] for name in adata.obs_names])
    np.testing.assert_array_equal(adata.obsm["spatial"], [PLACES[n] for n in adata.obs_names])
    assert list(adata.obs["array_col"]) == [10, 10, 11, 11]
    assert list(adata.obs["array_row"]) == [12, 13, 12, 13]
    assert list(adata.obs["label"]) == ["tumor", "non", "tumor", ""]


def replaced(path, old, new):
    text = gzip.decompress(path.read_bytes()).decode() if path.suffix == ".gz" else path.read_text()
    assert old in text
    changed = text.replace(old, new, 1)
    path.write_bytes(gzip.compress(changed.encode()) if path.suffix == ".gz" else changed.encode())


@pytest.mark.parametrize(
    ("role", "old", "new", "said"),
    [
        ("counts", "10x13", "10-13", "not a spot name"),
        ("counts", "10x13", "10x12", "more than once"),
        ("counts", "\t7\n", "\t7.5\n", "fractional"),
        ("spots", "10x13,2911", "10x12,2911", "more than once"),
        ("spots", "10x13,2911", "10x13,", "missing or not finite"),
        ("spots", ",X,Y", ",x,y", "needs comma-separated columns"),
        ("labels", "L1\ttumor", "L1", "is not name, x, y, line, label"),
        ("labels", "C1_10_13\t10.08", "C1_10_13\tten", "is not name, x, y, line, label"),
        ("labels", "10.08\t12.89", "10.08\t12.2", "two labels"),
        ("symbols", "symbol\tname", "Symbol\tname", "needs tab-separated columns"),
        ("symbols", "CXCL8", "TP53", "are both gene 'TP53'"),
    ],
)
def test_a_damaged_file_is_refused_by_name(files, role, old, new, said):
    replaced(files[role], old, new)
    with pytest.raises(DataError, match=said) as caught:
        read(files)
    assert files[role].name in str(caught.value) or files["counts"].name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_of_symbols_that_knows_no_gene_is_refused(files):
    files["symbols"].write_text("symbol\tensembl_gene_id\nACTB\tENSG00000075624\n")
    with pytest.raises(DataError, match="has none of the genes"):
        read(files)


def test_counts_by_symbol_are_not_of_this_layout(files):
    zipped(files["counts"], "\tTP53\n10x12\t1\n10x13\t2\n11x12\t3\n")
    with pytest.raises(DataError, match="no column is named by an Ensembl gene id"):
        read(files)


COLUMNS = "type,patient,replicate,count_matrix,histology_image,spot_coordinates,tumor_annotation\n"
LINE = (
    "HER2_luminal,BC23287,{},BC23287_{}_stdata.tsv.gz,HE_BC23287_{}.jpg,spots_BC23287_{}.csv.gz,"
    "BC23287_{}_Coords.tsv.gz\n"
)


@pytest.fixture
def card(tmp_path):
    """The dataset's own card, cut down to two sections of a patient."""
    whole = dataset_card("stnet")
    two = tuple(s for s in whole.sections if s.name in {"BC23287_C1", "BC23287_C2"})
    return whole.model_copy(update={"sections": two, "listing": None})


def write_metadata(folder, text):
    (folder / "metadata.csv").write_text(text)


def metadata():
    return COLUMNS + "".join(LINE.replace("{}", name) for name in ("C1", "C2"))


def test_the_card_lists_the_published_patients_and_sections():
    card = dataset_card("stnet")
    assert (len(card.sections), len(card.patients)) == (68, 23)
    assert all(s.name.startswith(f"{s.patient}_") for s in card.sections)


def test_files_go_by_the_names_that_the_metadata_gives(tmp_path, files, card):
    write_metadata(tmp_path, metadata())
    files["spots"].rename(tmp_path / "spots_BC23287_C1.csv.gz")
    files["symbols"].rename(tmp_path / card.sections[0].files["symbols"].path)
    Image.new("RGB", (4000, 4200)).save(tmp_path / "HE_BC23287_C1.jpg")
    dataset = open_dataset(card, tmp_path)
    assert set(dataset.hashes) == {"BC23287_C1"}
    assert dataset.left_out == {"BC23287_C2": "BC23287_C2_stdata.tsv.gz is missing"}
    section = dataset.section("BC23287_C1")
    assert section.image == tmp_path / "HE_BC23287_C1.jpg"
    assert section.micrometres_per_pixel == pytest.approx(200 / 290.5, rel=0.01)


def test_another_release_of_the_symbols_is_another_dataset(tmp_path, files, card):
    write_metadata(tmp_path, metadata())
    files["spots"].rename(tmp_path / "spots_BC23287_C1.csv.gz")
    symbols = files["symbols"].rename(tmp_path / card.sections[0].files["symbols"].path)
    before = open_dataset(card, tmp_path, images=False).hash
    symbols.write_text(HGNC + "HGNC:0\tNEW\tx\tENSG00000999999\n")
    after = open_dataset(card, tmp_path, images=False)
    assert after.hash != before
    assert "NEW" in after.section("BC23287_C1").adata.var_names


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (COLUMNS + LINE.replace("{}", "C1"), "section BC23287_C2 is not in it"),
        (metadata() + LINE.replace("{}", "C1"), "more than once"),
        (metadata().replace("HE_BC23287_C1.jpg", "../../etc/passwd"), "inside the data folder"),
        (metadata().replace("HE_BC23287_C1.jpg", "/etc/passwd"), "inside the data folder"),
        (metadata().replace("count_matrix", "counts"), "needs comma-separated columns"),
        (metadata().replace(",BC23287,C2", ",BC23288,C2"), "section BC23287_C2 is not in it"),
        ("", "needs comma-separated columns"),
    ],
)
def test_metadata_that_cannot_be_right_is_refused(tmp_path, card, text, said):
    write_metadata(tmp_path, text)
    with pytest.raises(DataError, match=said) as caught:
        local_card(card, tmp_path)
    assert "metadata.csv" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_metadata_its_absence_is_said(tmp_path, card):
    with pytest.raises(DataError, match=r"metadata\.csv: file is missing.*bench data get stnet"):
        open_dataset(card, tmp_path)


def test_shared_patients_are_said_on_both_sides():
    for one, other in (("stnet", "her2st"), ("her2st", "stnet")):
        assert other in dataset_card(one).shares_patients_with


def test_every_card_names_a_source_of_every_file():
    for name in ("her2st", "cscc", "stnet", "alex10x"):
        card = dataset_card(name)
        for section in card.sections:
            for role, file in section.files.items():
                got = card.url(file) or file.archive or card.listing or file.by_hand
                assert got, f"{name} {section.name} {role}"
        yaml.safe_dump(card.model_dump(mode="json"))
