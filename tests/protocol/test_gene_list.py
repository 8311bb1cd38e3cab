import hashlib
import io
import os
import pickle
import subprocess
import sys
import types

import numpy as np
import pytest

from bench.data.card import PanelCard
from bench.errors import DataError, UnknownNameError
from bench.protocol.gene_list import read_panel, read_string_array
from bench.registry import dataset_card
from tests.fetch.broken_server import serving, status, whole

SYMBOLS = ["FASN", "ACTB", "HLA-A", "GNAS"]
DIGEST = hashlib.sha256("\n".join(SYMBOLS).encode()).hexdigest()


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
        from bench.protocol.gene_list import read_string_array
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
        "from bench.protocol.gene_list import read_string_array\n"
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


@pytest.mark.parametrize("answer", [status(404), whole(b"not the list"), whole(b"")])
def test_a_download_that_fails_is_told_in_one_line(tmp_path, panel_card, own_cache, answer):
    with serving() as server:
        file = {"path": "panels/small.npy", "url": server.give("small.npy", answer)}
        with pytest.raises(DataError, match="small") as caught:
            read_panel(panel_card(file=file), "small", tmp_path)
    assert "\n" not in str(caught.value)


def test_a_panel_of_another_hash_is_not_kept(tmp_path, panel_card, own_cache):
    with serving() as server:
        file = {
            "path": "panels/small.npy",
            "url": server.give("small.npy", whole(b"something else")),
            "hash": f"sha256:{hashlib.sha256(OBJECTS).hexdigest()}",
        }
        with pytest.raises(DataError, match="put the list as"):
            read_panel(panel_card(file=file), "small", tmp_path)
    assert not [path for path in own_cache.rglob("*") if path.is_file()]


def test_a_download_is_kept_and_used_again(tmp_path, panel_card, own_cache):
    with serving() as server:
        file = {"path": "panels/small.npy", "url": server.give("small.npy", whole(OBJECTS))}
        for _ in range(2):
            assert read_panel(panel_card(file=file), "small", tmp_path) == tuple(SYMBOLS)
        assert server.asked == {"/small.npy": 1}


def test_the_published_her2st_panel_is_read_from_beside_the_data(shared_folder):
    card = dataset_card("her2st")
    panel = read_panel(card, "her2st_785", shared_folder / "data" / "her2st")
    text = (shared_folder / "data" / "panels" / "her2st_785.txt").read_text().split()
    assert panel == tuple(text)
    assert isinstance(card.panels["her2st_785"], PanelCard)


def pickled_index(symbols):
    """An index as an older pandas pickled it: an array of objects inside."""

    class Index:
        def __init__(self, array):
            self.array = array

        def __reduce__(self):
            return _new_Index, (Index, {"data": self.array, "name": None})

    def _new_Index(cls, content):
        return cls(content["data"])

    module = types.ModuleType("pandas.core.indexes.base")
    for thing in (Index, _new_Index):
        thing.__module__, thing.__qualname__ = module.__name__, thing.__name__
        setattr(module, thing.__name__, thing)
    real = sys.modules["pandas.core.indexes.base"]
    sys.modules["pandas.core.indexes.base"] = module
    try:
        return pickle.dumps(Index(np.array(symbols, dtype=object)), 4)
    finally:
        sys.modules["pandas.core.indexes.base"] = real


def test_a_pickled_index_of_pandas_is_read_without_pandas(tmp_path):
    path = tmp_path / "genes.pkl"
    path.write_bytes(pickled_index(SYMBOLS))
    assert read_string_array(path) == SYMBOLS


@pytest.mark.parametrize("content", [pickle.dumps({"a": 1}), pickle.dumps(SYMBOLS), b"", b"junk"])
def test_another_pickle_is_no_list_of_genes(tmp_path, content):
    path = tmp_path / "genes.pkl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"genes\.pkl"):
        read_string_array(path)
