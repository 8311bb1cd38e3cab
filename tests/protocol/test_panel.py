import hashlib
import io
import os
import pickle
import socket
import subprocess
import sys
import warnings

import anndata
import numpy as np
import pytest
import scanpy

from bench.data.card import PanelCard
from bench.errors import BenchError, DataError, UnknownNameError
from bench.protocol.fold_data import fold_data
from bench.protocol.folds import Fold
from bench.protocol.panel import choose_panel, panel_columns, read_panel, read_string_array
from bench.protocol.rules import STRICT
from bench.registry import dataset_card

SMALL = STRICT.model_copy(update={"hvg_genes": 15, "heg_genes": 5})
SYMBOLS = ["FASN", "ACTB", "HLA-A", "GNAS"]
DIGEST = hashlib.sha256("\n".join(SYMBOLS).encode()).hexdigest()


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
    protocol = SMALL.model_copy(update={"hvg_genes": genes})
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
    protocol = SMALL.model_copy(update={"hvg_genes": 1000})
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
def panel_card(make_card):
    """Card with a panel of SYMBOLS, its fields changed as asked."""

    def make(**changes):
        panel = {
            "genes": len(SYMBOLS),
            "symbols_sha256": DIGEST,
            "text": "panels/small.txt",
            "file": {"path": "panels/small.npy"},
            **changes,
        }
        return make_card(panels={"small": panel}, published_panel="small")

    return make


def put(folder, name, content):
    path = folder / "panels" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def npy(array, **options):
    buffer = io.BytesIO()
    np.save(buffer, array, **options)
    return buffer.getvalue()


TEXT = "\n".join(SYMBOLS).encode()
OBJECTS = npy(np.array(SYMBOLS, dtype=object), allow_pickle=True)


def header_of(content):
    return content[: content.index(b"\n") + 1]


def pickled(value, protocol=pickle.DEFAULT_PROTOCOL):
    """A file that says it is an object array and holds the pickle of any value."""
    return header_of(OBJECTS) + pickle.dumps(value, protocol)


OBJECTS_OF_NUMPY_1 = pickled(np.array(SYMBOLS, dtype=object), 3).replace(
    b"numpy._core.multiarray", b"numpy.core.multiarray"
)


@pytest.mark.parametrize(
    "content", [TEXT, TEXT + b"\n", TEXT.replace(b"\n", b"\r\n") + b"\r\n\r\n"]
)
def test_a_panel_is_read_from_text(tmp_path, panel_card, content):
    put(tmp_path, "small.txt", content)
    assert read_panel(panel_card(), "small", tmp_path) == tuple(SYMBOLS)


def test_a_panel_is_read_from_text_beside_the_data_folder(tmp_path, panel_card):
    put(tmp_path, "small.txt", TEXT)
    assert read_panel(panel_card(), "small", tmp_path / "data") == tuple(SYMBOLS)


@pytest.mark.parametrize(
    "content",
    [
        OBJECTS,
        npy(np.array(SYMBOLS)),
        npy(np.array(SYMBOLS, dtype="<U32")),
        OBJECTS_OF_NUMPY_1,
    ],
    ids=["objects", "fixed width", "wide", "objects of numpy 1"],
)
def test_a_panel_is_read_from_a_numpy_array(tmp_path, panel_card, content):
    put(tmp_path, "small.npy", content)
    assert read_panel(panel_card(), "small", tmp_path) == tuple(SYMBOLS)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_an_object_array_of_every_pickle_protocol_is_read(tmp_path, protocol):
    content = pickled(np.array(SYMBOLS, dtype=object), protocol)
    assert read_string_array(put(tmp_path, "small.npy", content)) == SYMBOLS


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("small.txt", TEXT.replace(b"ACTB", b"ACTC")),
        ("small.txt", TEXT.replace(b"FASN\nACTB", b"ACTB\nFASN")),
        ("small.txt", TEXT + b"\nEXTRA"),
        ("small.txt", b""),
        ("small.txt", b"\xef\xbb\xbf" + TEXT),
        ("small.npy", npy(np.array(SYMBOLS[::-1], dtype=object), allow_pickle=True)),
    ],
)
def test_other_symbols_than_those_of_the_card_are_refused(tmp_path, panel_card, name, content):
    path = put(tmp_path, name, content)
    with pytest.raises(DataError, match="the card says 4 hashing to") as caught:
        read_panel(panel_card(), "small", tmp_path)
    assert str(path) in str(caught.value)


def test_the_file_of_a_panel_must_have_the_hash_of_the_card(tmp_path, panel_card):
    put(tmp_path, "small.npy", npy(np.array(SYMBOLS)))
    card = panel_card(file={"path": "panels/small.npy", "hash": "sha256:" + "0" * 64})
    with pytest.raises(DataError, match=r"small\.npy: hash sha256"):
        read_panel(card, "small", tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("small.txt", b"\xff\xfe\x00"),
        ("small.npy", b""),
        ("small.npy", b"\x93NUMPY"),
        ("small.npy", OBJECTS[:40]),
        ("small.npy", OBJECTS[:-10]),
        ("small.npy", header_of(OBJECTS)),
        ("small.npy", npy(np.array(SYMBOLS))[:-3]),
        ("small.npy", npy(np.arange(4))),
        ("small.npy", npy(np.array([SYMBOLS]))),
        ("small.npy", npy(np.array(["A", 1, None, b"x"], dtype=object), allow_pickle=True)),
        ("small.npy", pickled(SYMBOLS)),
        ("small.npy", TEXT),
        ("small.npy", b"PK\x03\x04" + bytes(100)),
        ("small.npy", b"\x93NUMPY\x01\x00" + b"\xa1\x0f" + b"-" * 4000 + b"1"),
        ("small.npy", b"\x93NUMPY\x01\x00" + b"\xa1\x0f" + b"(" * 4001),
        ("small.npy", b"\x93NUMPY\x01\x00" + b"\x0e\x00" + b"{'descr': 'x'}"),
        ("small.npy", b"\x93NUMPY\x09\x09" + bytes(64)),
    ],
)
def test_a_panel_file_that_is_damaged_is_refused_by_name(tmp_path, panel_card, name, content):
    path = put(tmp_path, name, content)
    with pytest.raises(DataError) as caught:
        read_panel(panel_card(), "small", tmp_path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_object_array_is_refused_or_read_as_strings(tmp_path, seed):
    pytest.importorskip("resource")
    path = tmp_path / "small.npy"
    # In a process of its own, for a damaged pickle must not crash the interpreter either.
    program = """if True:
        import resource, sys
        from pathlib import Path
        import numpy as np
        from bench.errors import DataError
        from bench.protocol.panel import read_string_array
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
        path, rng = Path(sys.argv[1]), np.random.default_rng(int(sys.argv[2]))
        whole = path.read_bytes()
        start = whole.index(b"\\n") + 1
        for attempt in range(200):
            damaged = bytearray(whole)
            for place in rng.integers(start, len(whole), size=attempt % 3 + 1):
                damaged[place] = rng.integers(256)
            path.write_bytes(bytes(damaged))
            try:
                symbols = read_string_array(path)
            except DataError:
                continue
            assert all(type(symbol) is str for symbol in symbols), damaged
        print("done")
    """
    path.write_bytes(OBJECTS)
    done = subprocess.run(
        [sys.executable, "-c", program, str(path), str(seed)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "done\n", f"{done.returncode}: {done.stderr[-800:]}"


class Runs:
    """Pickles as a call of `function`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def hostile_calls(proof):
    return {
        "os.system": (os.system, f"echo ran > {proof}"),
        "eval": (eval, f"open({str(proof)!r}, 'w').close()"),
        "exec": (exec, f"open({str(proof)!r}, 'w').close()"),
        "open": (open, str(proof), "w"),
        "Popen": (subprocess.Popen, ["touch", str(proof)]),
        "getattr": (getattr, "FASN", "lower"),
        "numpy.load": (np.load, str(proof)),
        "numpy.memmap": (np.memmap, str(proof), "uint8", "w+", 0, (8,)),
        "numpy.fromfile": (np.fromfile, str(proof)),
    }


@pytest.mark.parametrize("name", hostile_calls(""))
@pytest.mark.parametrize("wrapped", [False, True], ids=["bare", "inside an object array"])
def test_a_pickle_that_would_run_code_is_refused_and_nothing_runs(tmp_path, name, wrapped):
    proof = tmp_path / "proof"
    call = Runs(*hostile_calls(proof)[name])
    if wrapped:
        array = np.empty(2, dtype=object)
        array[:] = ["FASN", call]
        content = npy(array, allow_pickle=True)
    else:
        content = pickled(call)
    path = put(tmp_path, "small.npy", content)
    with pytest.raises(DataError, match=r"is not allowed|damaged|not a numpy array") as caught:
        read_string_array(path)
    assert str(path) in str(caught.value)
    assert not proof.exists()


def forged_arrays():
    """Object arrays whose pointers are bytes of the file, by the two ways numpy lets one make."""
    by_buffer = Runs(np.ndarray, (1,), "O", b"A" * 8)

    class Dtype:
        def __reduce__(self):
            fields = {"a": (np.dtype("O"), 0)}
            # The flags say that there is no object inside.
            return np.dtype, ("V8", False, True), (3, "|", None, ("a",), fields, 8, 1, 0)

    class Array:
        def __reduce__(self):
            start = np.empty(0, "b").__reduce__()
            return start[0], start[1], (1, (1,), Dtype(), False, b"A" * 8)

    return {"buffer": by_buffer, "structured type": Array()}


@pytest.mark.parametrize("name", forged_arrays())
def test_a_pickle_that_forges_pointers_is_refused_without_a_crash(tmp_path, name):
    content = pickled(forged_arrays()[name])
    path = put(tmp_path, "small.npy", content)
    program = (
        "import sys; from pathlib import Path\n"
        "from bench.errors import DataError\n"
        "from bench.protocol.panel import read_string_array\n"
        "try: print(read_string_array(Path(sys.argv[1])))\n"
        "except DataError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"exit {done.returncode}: {done.stderr[-500:]}"
    assert "small.npy" in done.stdout


def test_a_panel_of_unknown_name_is_refused(tmp_path, panel_card):
    with pytest.raises(UnknownNameError, match="did you mean small"):
        read_panel(panel_card(), "smal", tmp_path)


def test_a_panel_that_is_nowhere_says_where_to_put_it(tmp_path, panel_card):
    with pytest.raises(DataError, match=r"panel small not found; put it at .*small\.txt"):
        read_panel(panel_card(), "small", tmp_path)


@pytest.mark.parametrize(
    "error", [OSError("no route"), socket.gaierror("no name"), ValueError("hash differs")]
)
def test_a_download_that_fails_is_told_in_one_line(
    tmp_path, panel_card, own_cache, monkeypatch, error
):
    import pooch

    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(pooch, "retrieve", fail)
    file = {"path": "panels/small.npy", "url": "https://example.org/small.npy"}
    with pytest.raises(DataError, match="small") as caught:
        read_panel(panel_card(file=file), "small", tmp_path)
    assert "\n" not in str(caught.value)
    assert "https://example.org/small.npy" in str(caught.value)
    assert not [path for path in own_cache.rglob("*") if path.is_file()]


def test_a_download_is_kept_and_used_again(tmp_path, panel_card, own_cache, monkeypatch):
    import pooch

    calls = []

    def fetch(url, known_hash, fname, path):
        calls.append(url)
        (path / fname).write_bytes(OBJECTS)

    monkeypatch.setattr(pooch, "retrieve", fetch)
    file = {"path": "panels/small.npy", "url": "https://example.org/small.npy"}
    for _ in range(2):
        assert read_panel(panel_card(file=file), "small", tmp_path) == tuple(SYMBOLS)
    assert calls == ["https://example.org/small.npy"]


def test_the_published_her2st_panel_is_read_from_beside_the_data(shared_folder):
    card = dataset_card("her2st")
    panel = read_panel(card, "her2st_785", shared_folder / "data" / "her2st")
    text = (shared_folder / "data" / "panels" / "her2st_785.txt").read_text().split()
    assert panel == tuple(text)
    assert isinstance(card.panels["her2st_785"], PanelCard)
