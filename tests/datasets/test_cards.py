"""The published layouts in their true form: the files of each card, small, read by its reader."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
from PIL import Image

from bench.data.dataset import open_dataset
from bench.registry import dataset_card
from tests.datasets import layouts

SIDE = 3600


def only(card, *sections):
    """The card cut down to some sections."""
    kept = tuple(section for section in card.sections if section.name in sections)
    return card.model_copy(
        update={"sections": kept, "published_order": tuple(s.name for s in kept)}
    )


def blank(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIDE, SIDE), "white").save(path)


def test_the_published_sections_of_the_cards_are_the_papers():
    cscc, alex = dataset_card("cscc"), dataset_card("alex10x")
    assert cscc.published_order[:4] == ("P2_ST_rep1", "P2_ST_rep2", "P2_ST_rep3", "P5_ST_rep1")
    assert sum(section.spots for section in cscc.sections) == 8671
    assert cscc.patients == ("P2", "P5", "P9", "P10")
    assert alex.published_order[-3:] == ("block1", "block2", "FFPE")
    assert sum(section.spots for section in alex.sections) == 25914
    assert alex.section("block1").patient == alex.section("block2").patient


@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_cscc_is_read_as_geo_gives_it(tmp_path, line_end):
    """Flat folder, accession numbers before the names, tables gzip-compressed, inner join."""
    card = only(dataset_card("cscc"), "P2_ST_rep1", "P10_ST_rep3")
    for number, section in enumerate(card.sections):
        rows = [["", "TP53", "KRT5", "KRT14"]]
        rows += [[f"{x}x{y}", number, x, y] for x in range(3, 9) for y in range(4, 10)]
        rows += [["50x60", 9, 9, 9]]  # counted, but with no place
        text = line_end.join("\t".join(map(str, row)) for row in rows) + line_end
        (tmp_path / section.files["counts"].path).write_bytes(gzip.compress(text.encode()))
        places = [["x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected"]]
        places += [
            [x, y, x + 0.03, y - 0.02, 250 * x + 10.5, 250 * y, 1]
            for y in range(4, 11)  # the last row has places, but no counts
            for x in range(3, 9)
        ]
        text = line_end.join("\t".join(map(str, row)) for row in places) + line_end
        (tmp_path / section.files["spots"].path).write_bytes(gzip.compress(text.encode()))
        blank(tmp_path / section.files["image"].path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names[0] == "GSM4284316_P2_ST_rep1.jpg"
    assert "GSM4284327_spot_data-selection-P10_ST_rep3.tsv.gz" in names
    for number, section in enumerate(open_dataset(card, tmp_path)):
        adata = section.adata
        assert adata.n_obs == 36
        assert set(adata.X.toarray()[:, 0]) == {number}
        np.testing.assert_array_equal(adata.X.toarray()[:, 1], adata.obs["array_col"])
        np.testing.assert_array_equal(adata.X.toarray()[:, 2], adata.obs["array_row"])
        np.testing.assert_allclose(section.spatial, 250 * section.array_xy + [10.5, 0])
        assert section.micrometres_per_pixel == pytest.approx(150 / 250)


def test_a_visium_section_of_wu_is_read_as_zenodo_gives_it(tmp_path):
    """Symbols alone in features.tsv.gz, header-less positions, labels of R's metadata, a TIFF."""
    card = only(dataset_card("alex10x"), "CID4290")
    files = card.sections[0].files
    folder = tmp_path / "CID4290"
    folder.mkdir()
    written = layouts.write_matrix_market(folder, zipped=True, columns=1)
    assert {f"CID4290/{path.name}" for path in written.values()} == {
        files[role].path for role in ("counts", "barcodes", "features")
    }
    layouts.write_positions(folder)
    layouts.write_barcode_labels(folder)
    blank(tmp_path / files["image"].path)
    (section,) = open_dataset(card, tmp_path)
    truth = layouts.SmallSection()
    assert tuple(section.adata.obs_names) == truth.names
    np.testing.assert_array_equal(section.adata.X.toarray(), truth.counts)
    np.testing.assert_array_equal(section.spatial, truth.pixels)
    assert tuple(section.adata.obs["label"]) == truth.labels
    assert section.image.suffix == ".tif"


def test_a_visium_section_of_10x_is_read_as_their_pages_give_it(tmp_path):
    card = only(dataset_card("alex10x"), "FFPE")
    files = card.sections[0].files
    folder = tmp_path / "FFPE"
    folder.mkdir()
    layouts.write_10x_h5(tmp_path / files["counts"].path)
    layouts.write_positions(folder)
    blank(tmp_path / files["image"].path)
    (section,) = open_dataset(card, tmp_path)
    np.testing.assert_array_equal(section.adata.X.toarray(), layouts.SmallSection().counts)
    np.testing.assert_array_equal(section.spatial, layouts.SmallSection().pixels)


def test_a_visium_section_without_its_image_is_left_out_by_name(tmp_path):
    card = only(dataset_card("alex10x"), "CID4290", "FFPE")
    for name in ("CID4290", "FFPE"):
        (tmp_path / name).mkdir()
        layouts.write_positions(tmp_path / name)
    layouts.write_matrix_market(tmp_path / "CID4290", zipped=True, columns=1)
    layouts.write_10x_h5(tmp_path / "FFPE" / "filtered_feature_bc_matrix.h5")
    blank(tmp_path / "FFPE" / "image.tif")
    dataset = open_dataset(card, tmp_path)
    assert set(dataset.hashes) == {"FFPE"}
    assert dataset.left_out == {"CID4290": "image CID4290/image.tif is missing"}
