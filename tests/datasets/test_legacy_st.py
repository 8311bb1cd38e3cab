import gzip

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from bench.data.dataset import open_dataset
from bench.datasets.legacy_st import read
from bench.errors import BenchError, DataError
from bench.registry import dataset_card

GENES = ["ACTB", "FASN", "HLA-A"]
# Neither sorted by x nor by y: the order of this file is the order of the section.
COUNTS = pd.DataFrame(
    [[3, 0, 1], [0, 0, 0], [7, 2, 0], [1, 1, 1]], index=["9x13", "8x13", "10x2", "99x99"]
)
COUNTS.columns = GENES
SPOTS = pd.DataFrame(
    {
        "x": [10.04, 7.96, 9.02, 50],
        "y": [1.98, 13.01, 12.994, 50],
        "new_x": 0.5,
        "pixel_x": [100.25, 80.5, 90, 1],
        "pixel_y": [20.75, 130.5, 131, 1],
        "selected": 1,
    }
)
LABELS = pd.DataFrame(
    {
        "Row.names": ["a", "b", "c", "d"],
        "x": [9.01, np.nan, 10.2, 70],
        "y": [12.9, 5, 2.1, 70],
        "label": ["invasive cancer", "lost", "fat", "elsewhere"],
    }
)


@pytest.fixture
def files(tmp_path, write_legacy):
    return write_legacy(tmp_path, COUNTS, SPOTS, LABELS)


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("zipped", [False, True])
def test_spots_of_both_files_are_joined_in_the_order_of_the_counts(
    tmp_path, write_legacy, zipped, newline
):
    files = write_legacy(tmp_path, COUNTS, SPOTS, LABELS, zipped=zipped, newline=newline)
    adata = read(files)
    assert list(adata.obs_names) == ["9x13", "8x13", "10x2"]
    assert list(adata.var_names) == GENES
    assert sp.issparse(adata.X)
    assert adata.X.format == "csr"
    np.testing.assert_array_equal(adata.X.toarray(), COUNTS.to_numpy()[:3])
    assert list(adata.obs["array_col"]) == [9, 8, 10]
    assert list(adata.obs["array_row"]) == [13, 13, 2]
    np.testing.assert_array_equal(
        adata.obsm["spatial"], [[90, 131], [80.5, 130.5], [100.25, 20.75]]
    )
    assert adata.obsm["spatial"].dtype == np.float64
    assert list(adata.obs["label"]) == ["invasive cancer", "", "fat"]
    assert (adata.obs["in_tissue"] == 1).all()


@pytest.mark.parametrize("kind", [int, float, bool])
def test_spots_that_are_not_selected_are_left_out_and_counted(tmp_path, write_legacy, kind):
    selected = pd.Series([1, 0, 1, 1]).astype(kind)
    adata = read(write_legacy(tmp_path, COUNTS, SPOTS.assign(selected=selected)))
    assert list(adata.obs_names) == ["9x13", "10x2"]
    assert adata.uns["left_out"]["spots not selected"] == 1


def test_labels_are_empty_without_a_label_file(files):
    del files["labels"]
    assert list(read(files).obs["label"]) == ["", "", ""]


def test_a_label_file_with_a_header_alone_labels_nothing(files):
    files["labels"].write_text("Row.names\tx\ty\tlabel\n")
    assert list(read(files).obs["label"]) == ["", "", ""]


def test_counts_up_to_the_largest_int32_are_kept(files):
    files["counts"].write_text("\tA\tB\n9x13\t2147483647\t1.0\n8x13\t0\t1e3\n")
    adata = read(files)
    np.testing.assert_array_equal(adata.X.toarray(), [[2147483647, 1], [0, 1000]])


def test_a_last_line_without_line_end_is_read(files):
    files["counts"].write_text("\tA\n9x13\t4\n8x13\t5")
    assert read(files).X.toarray().ravel().tolist() == [4, 5]


BAD_COUNTS = {
    "empty": b"",
    "header without line end": b"\tA\tB",
    "header only": b"\tA\tB\n",
    "header and blank lines": b"\tA\tB\n\n\n",
    "negative": b"\tA\tB\n9x13\t1\t-1\n",
    "fractional": b"\tA\tB\n9x13\t1\t0.5\n",
    "NaN": b"\tA\tB\n9x13\t1\tNaN\n",
    "nothing between tabs": b"\tA\tB\n9x13\t\t1\n",
    "a word": b"\tA\tB\n9x13\tmany\t1\n",
    "a truth value": b"\tA\tB\n9x13\ttrue\t1\n",
    "a date": b"\tA\tB\n9x13\t2020-01-01\t1\n",
    "infinite": b"\tA\tB\n9x13\tinf\t1\n",
    "minus infinite": b"\tA\tB\n9x13\t-inf\t1\n",
    "beyond int32": b"\tA\tB\n9x13\t2147483648\t1\n",
    "beyond int64": b"\tA\tB\n9x13\t9223372036854775808\t1\n",
    "beyond float64": b"\tA\tB\n9x13\t1e400\t1\n",
    "short row": b"\tA\tB\n9x13\t1\t2\n8x13\t1\n",
    "long row": b"\tA\tB\n9x13\t1\t2\n8x13\t1\t2\t3\n",
    "gene twice": b"\tA\tA\n9x13\t1\t2\n",
    "spot twice": b"\tA\tB\n9x13\t1\t2\n9x13\t3\t4\n",
    "spot twice, written differently": b"\tA\tB\n9x13\t1\t2\n09x13\t3\t4\n",
    "spot without x": b"\tA\tB\n913\t1\t2\n",
    "spot with three parts": b"\tA\tB\n9x13x1\t1\t2\n",
    "spot negative": b"\tA\tB\n-9x13\t1\t2\n",
    "spot fractional": b"\tA\tB\n9.5x13\t1\t2\n",
    "spot nameless": b"\tA\tB\n\t1\t2\n",
    "spot beyond int64": b"\tA\tB\n99999999999999999999x13\t1\t2\n",
    "spot of 5000 digits": b"\tA\tB\n" + b"9" * 5000 + b"x13\t1\t2\n",
    "nameless gene": b"\tA\t\n9x13\t1\t2\n",
    "header not UTF-8": b"\tA\xff\tB\n9x13\t1\t2\n",
    "body not UTF-8": b"\tA\tB\n9x13\xff\t1\t2\n",
    "NUL bytes": b"\tA\tB\n9x13\x00\t1\t2\n",
    "UTF-16": "\tA\tB\n9x13\t1\t2\n".encode("utf-16"),
    "commas": b",A,B\n9x13,1,2\n",
    "gzip garbage": b"\x1f\x8b" + bytes(range(200)),
    "gzip of nothing": gzip.compress(b""),
    "gzip cut": gzip.compress(b"\tA\tB\n" + b"9x13\t1\t2\n" * 50)[:-12],
    "gzip with a wrong checksum": gzip.compress(b"\tA\tB\n9x13\t1\t2\n")[:-8] + bytes(8),
    "genes by spots": b"\t9x13\t8x13\nA\t1\t2\nB\t1\t2\n",
}


@pytest.mark.parametrize("content", BAD_COUNTS.values(), ids=BAD_COUNTS.keys())
def test_a_counts_file_that_cannot_be_counts_is_refused_by_name(files, content):
    files["counts"].write_bytes(content)
    refused(files, files["counts"])


def row(x="9", y="13", pixel_x="5", pixel_y="6"):
    return f"{x}\t{y}\t{pixel_x}\t{pixel_y}\n".encode()


HEADER = b"x\ty\tpixel_x\tpixel_y\n"
BAD_SPOTS = {
    "empty": b"",
    "header only": HEADER,
    "without pixel_y": b"x\ty\tpixel_x\n9\t13\t5\n",
    "commas": b"x,y,pixel_x,pixel_y\n9,13,5,6\n",
    "x is a word": HEADER + row(x="left"),
    "pixel_x is a word": HEADER + row(pixel_x="left"),
    "x is missing": HEADER + row(x=""),
    "pixel_y is missing": HEADER + row(pixel_y=""),
    "pixel_x is infinite": HEADER + row(pixel_x="inf"),
    "x is infinite": HEADER + row() + row(x="inf"),
    "x beyond int64": HEADER + row() + row(x="1e300"),
    "x of 5000 digits": HEADER + row() + row(x="9" * 5000),
    "pixel_x is a truth value": HEADER + row(pixel_x="True"),
    "two spots at one place": HEADER + row(x="9.1") + row(x="8.9"),
    "no spot in common": HEADER + row(x="1"),
    "short row": HEADER + row() + b"8\t13\t5\n",
    "long row": HEADER + b"9\t13\t5\t6\t7\n",
    "long second row": HEADER + row() + b"8\t13\t5\t6\t7\n",
    # A reader that takes the surplus field for row names would shift every column by one.
    "long row beside other columns": b"n\tx\ty\tpixel_x\tpixel_y\n13\t9\t13\t5\t6\t7\n",
    "long row that still matches": b"n\tx\ty\tpixel_x\tpixel_y\n7\t7\t9\t13\t5\t6\n",
    "not UTF-8": HEADER + b"\xff\t1\t2\t3\n",
    "header not UTF-8": b"x\ty\tpixel_x\tpixel_y\t\xff\n9\t13\t5\t6\t7\n",
    "open quote": HEADER + b'"9\t13\t5\t6\n',
    "NUL bytes": b"\x00" * 64,
}


@pytest.mark.parametrize("content", BAD_SPOTS.values(), ids=BAD_SPOTS.keys())
def test_a_spot_file_that_cannot_be_positions_is_refused_by_name(files, content):
    files["spots"].write_bytes(content)
    refused(files, files["spots"])


BAD_LABELS = {
    "empty": b"",
    "without label": b"x\ty\n9\t13\n",
    "x is a word": b"x\ty\tlabel\nleft\t13\tfat\n",
    "two labels at one place": b"x\ty\tlabel\n9.1\t13\tfat\n8.9\t13\tduct\n",
    "not UTF-8": b"x\ty\tlabel\n9\t13\t\xff\n",
    "long row": b"x\ty\tlabel\n9\t13\tfat\t7\n",
}


@pytest.mark.parametrize("content", BAD_LABELS.values(), ids=BAD_LABELS.keys())
def test_a_label_file_that_cannot_be_labels_is_refused_by_name(files, content):
    files["labels"].write_bytes(content)
    refused(files, files["labels"])


@pytest.mark.parametrize("role", ["counts", "spots", "labels"])
@pytest.mark.parametrize("instead", ["nothing", "folder"])
def test_a_file_that_is_not_there_is_refused_by_name(files, role, instead):
    files[role].unlink()
    if instead == "folder":
        files[role].mkdir()
    refused(files, files[role])


@pytest.mark.parametrize("role", ["spots", "labels"])
def test_a_zipped_table_that_is_cut_is_refused_by_name(files, role):
    whole = gzip.compress(files[role].read_bytes())
    files[role] = files[role].with_suffix(".tsv.gz")
    files[role].write_bytes(whole)
    assert read(files).n_obs == 3
    for length in (len(whole) - 4, len(whole) // 2, 12):
        files[role].write_bytes(whole[:length])
        refused(files, files[role])


def refused(files, named):
    with pytest.raises(DataError) as caught:
        read(files)
    message = str(caught.value)
    assert str(named) in message
    assert "\n" not in message
    assert len(message) < 600


@pytest.mark.parametrize(
    ("counts", "match"),
    [
        (COUNTS * 0, "every count is zero"),
        (COUNTS[[]], "empty, 3 spots x 0"),
        (COUNTS[:2], "2 spots, but a correlation"),
    ],
)
def test_a_section_without_a_single_count_is_refused_when_it_is_loaded(
    tmp_path, write_legacy, make_card, counts, match
):
    files = write_legacy(tmp_path, counts, SPOTS)
    dataset = open_dataset(make_card(), tmp_path, images=False)
    with pytest.raises(DataError, match=match) as caught:
        dataset.section("S1")
    assert str(files["counts"]) in str(caught.value)


def mutated(rng, content):
    """Content after one kind of damage, drawn from `rng`."""
    kind = rng.integers(6)
    data = bytearray(content)
    if kind == 0:  # a few bytes changed
        for place in rng.integers(len(data), size=rng.integers(1, 6)):
            data[place] = rng.integers(256)
    elif kind == 1:  # cut
        del data[rng.integers(len(data)) :]
    elif kind == 2:  # a piece twice, or gone
        start, end = sorted(rng.integers(len(data), size=2))
        piece = data[start:end] * int(rng.integers(2)) * 2
        data[start:end] = piece
    elif kind == 3:  # columns swapped
        lines = [line.split(b"\t") for line in bytes(data).split(b"\n")]
        a, b = rng.integers(len(lines[0]), size=2)
        for line in lines:
            if len(line) > max(a, b):
                line[a], line[b] = line[b], line[a]
        data = bytearray(b"\n".join(b"\t".join(line) for line in lines))
    elif kind == 4:  # a cell replaced
        lines = [line.split(b"\t") for line in bytes(data).split(b"\n")]
        line = lines[rng.integers(len(lines))]
        values = [b"", b"-1", b"1e99", b"nan", b"9x13", b'"', b"0x1F", b"1,5", b"\r", b"-0.0"]
        line[rng.integers(len(line))] = values[rng.integers(len(values))]
        data = bytearray(b"\n".join(b"\t".join(line) for line in lines))
    else:  # lines in another order, header included
        lines = bytes(data).split(b"\n")
        rng.shuffle(lines)
        data = bytearray(b"\n".join(lines))
    return bytes(data)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.filterwarnings("error")
def test_a_damaged_file_is_refused_or_read_as_whole_counts(files, seed):
    whole = {role: path.read_bytes() for role, path in files.items()}
    rng = np.random.default_rng(seed)
    read_whole, refusals = 0, []
    for attempt in range(150):
        role = ["counts", "spots", "labels"][rng.integers(3)]
        damaged = mutated(rng, whole[role])
        if role == "counts" and attempt % 3 == 0:
            damaged = mutated(rng, gzip.compress(whole[role], mtime=0))
        files[role].write_bytes(damaged)
        try:
            adata = read(files)
        except BenchError as error:
            refusals.append(str(error))
        except Exception as error:
            raise AssertionError(f"{role} {damaged!r} gave {error!r}") from error
        else:
            values = adata.X.toarray()
            assert np.issubdtype(values.dtype, np.integer), damaged
            assert (values >= 0).all(), damaged
            assert np.isfinite(adata.obsm["spatial"]).all(), damaged
            assert adata.obs_names.is_unique, damaged
            read_whole += 1
        files[role].write_bytes(whole[role])
    assert min(read_whole, len(refusals)) > 10
    assert not [message for message in refusals if "\n" in message]


def test_section_b4_of_her2st_reads_as_an_independent_reader_reads_it(shared_folder):
    root = shared_folder / "data" / "her2st"
    section = open_dataset(dataset_card("her2st"), root, images=False, names=["B4"]).section("B4")
    counts = pd.read_csv(root / "data/ST-cnts/B4.tsv.gz", sep="\t", index_col=0)
    spots = pd.read_csv(root / "data/ST-spotfiles/B4_selection.tsv", sep="\t")
    spots.index = [f"{x:.0f}x{y:.0f}" for x, y in zip(spots["x"], spots["y"], strict=True)]
    counts = counts.loc[counts.index.isin(spots.index)]

    assert section.adata.n_obs == 283
    assert list(section.adata.obs_names) == list(counts.index)
    assert list(section.adata.var_names) == list(counts.columns)
    totals = np.asarray(section.adata.X.sum(axis=1)).ravel()
    np.testing.assert_array_equal(totals, counts.sum(axis=1))
    per_gene = np.asarray(section.adata.X.sum(axis=0)).ravel()
    np.testing.assert_array_equal(per_gene, counts.sum(axis=0))
    np.testing.assert_array_equal(
        section.spatial, spots.loc[counts.index, ["pixel_x", "pixel_y"]].to_numpy()
    )


def test_usable_sections_of_her2st_have_the_spots_that_the_card_says(shared_folder):
    card = dataset_card("her2st")
    names = ["A1", "C2", "G3"]
    dataset = open_dataset(card, shared_folder / "data" / "her2st", images=False, names=names)
    for section in dataset:
        assert section.adata.n_obs == card.section(section.name).spots
        assert section.patient == section.name[0]
