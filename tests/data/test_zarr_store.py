"""Zarr stores as files of a card, and the check of their metadata. Stores are written by hand."""

import json
import os
from pathlib import Path

import pytest

from bench.data.card import FileCard
from bench.data.reading.zarr_store import check_store
from bench.data.stored_files import is_stored, stored_hash, stored_size, stored_state
from bench.errors import DataError
from bench.sources import content_hash

PICKLE = {"name": "numcodecs.pickle", "configuration": {"protocol": 5}}


def array(**changed):
    """Metadata of an array of version 3 as zarr-python writes it."""
    return {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [3, 8, 8],
        "data_type": "uint8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [3, 8, 8]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "fill_value": 0,
        "codecs": [{"name": "bytes"}, {"name": "zstd", "configuration": {"level": 0}}],
        "attributes": {},
        "storage_transformers": [],
        **changed,
    }


def old_array(**changed):
    """The same in version 2."""
    return {
        "zarr_format": 2,
        "shape": [3, 8, 8],
        "chunks": [3, 8, 8],
        "dtype": "|u1",
        "fill_value": 0,
        "order": "C",
        "filters": None,
        "compressor": {"id": "blosc", "cname": "lz4", "clevel": 5, "shuffle": 1},
        **changed,
    }


def pieces(*edges):
    return {"name": "regular", "configuration": {"chunk_shape": list(edges)}}


GROUP = {"zarr_format": 3, "node_type": "group", "attributes": {}}
SCALES = {"ome": {"multiscales": [{"datasets": [{"path": "s0"}]}]}}


def write(folder: Path, documents) -> Path:
    """A store ``a.zarr`` of JSON documents by name, and a piece of data."""
    store = folder / "a.zarr"
    for name, content in documents.items():
        path = store / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    piece = store / "tables" / "t" / "X" / "c" / "0"
    piece.parent.mkdir(parents=True, exist_ok=True)
    piece.write_bytes(b"piece")
    return store


def small(**changed):
    """Documents of a small store, one of them replaced or more added."""
    return {
        "zarr.json": GROUP,
        "images/zarr.json": GROUP,
        "images/he/zarr.json": {**GROUP, "attributes": SCALES},
        "images/he/s0/zarr.json": array(),
        "tables/t/X/zarr.json": array(shape=[4], chunk_grid=pieces(4), data_type="float32"),
        **changed,
    }


def test_groups_and_arrays_are_listed_with_their_shapes(tmp_path):
    nodes = check_store(write(tmp_path, small()))
    assert nodes["images/he/s0"].shape == (3, 8, 8)
    assert nodes["images/he"].attributes == SCALES
    assert nodes["images/he"].shape is None
    assert set(nodes) == {"", "images", "images/he", "images/he/s0", "tables/t/X"}


def test_a_store_of_version_2_is_listed(tmp_path):
    documents = {
        ".zgroup": {"zarr_format": 2},
        ".zattrs": {"a": 1},
        "images/he/.zgroup": {"zarr_format": 2},
        "images/he/.zattrs": SCALES["ome"],
        "images/he/s0/.zarray": old_array(),
        "t/names/.zarray": old_array(
            dtype="|O", filters=[{"id": "vlen-utf8"}], shape=[2], chunks=[2]
        ),
    }
    nodes = check_store(write(tmp_path, documents))
    assert nodes[""].attributes == {"a": 1}
    assert nodes["images/he/s0"].shape == (3, 8, 8)
    assert nodes["t/names"].shape == (2,)


HOSTILE = {
    "pickle": (array(codecs=[PICKLE]), "may run code"),
    "pickle by its name alone": (array(codecs=["numcodecs.pickle"]), "may run code"),
    "pickle in a shard": (
        array(
            codecs=[
                {
                    "name": "sharding_indexed",
                    "configuration": {"codecs": [PICKLE], "index_codecs": [{"name": "bytes"}]},
                }
            ]
        ),
        "may run code",
    ),
    "unknown codec": (array(codecs=[{"name": "bytes"}, {"name": "mine"}]), "may run code"),
    "no codecs": (array(codecs=[]), "names no codecs"),
    "codec that is a list": (array(codecs=[[1]]), "damaged"),
    "objects": (array(data_type="object"), "not read"),
    "records": (array(data_type={"name": "structured", "configuration": {}}), "not read"),
    "objects in records": (
        array(data_type={"name": "structured", "configuration": {"fields": [["a", "object"]]}}),
        "not read",
    ),
    "absurd text": (
        array(data_type={"name": "fixed_length_utf32", "configuration": {"length_bytes": 1 << 40}}),
        "more than",
    ),
    "absurd shape": (array(shape=[1 << 40] * 3, chunk_grid=pieces(3, 8, 8)), "more than"),
    "absurd piece": (array(chunk_grid=pieces(1 << 20, 1 << 20, 1)), "more than"),
    "too many dimensions": (array(shape=[1] * 64, chunk_grid=pieces(*[1] * 64)), "shape"),
    "negative": (array(shape=[-3, 8, 8]), "shape"),
    "no numbers": (array(shape=["3", 8, 8]), "shape"),
    "true for a number": (array(shape=[True, 8, 8]), "shape"),
    "empty pieces": (array(chunk_grid=pieces(3, 0, 8)), "do not fit"),
    "pieces of another form": (array(chunk_grid={"name": "rectangular"}), "unknown form"),
    "a transformer": (array(storage_transformers=[{"name": "remote"}]), "transformer"),
    "another version": (array(zarr_format=7), "version 3"),
    "no JSON": (b"{", "no JSON"),
    "no text": (b"\xff\xfe", "no JSON"),
    "deep": (b"[" * 100_000, "no JSON"),
    "a list": (b"[]", "damaged"),
    "nothing": (b"", "no JSON"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_hostile_array_is_refused_in_a_line(tmp_path, case):
    document, reason = HOSTILE[case]
    store = write(tmp_path, small(**{"tables/t/X/zarr.json": document}))
    with pytest.raises(DataError, match=reason) as refusal:
        check_store(store)
    assert str(refusal.value).startswith(str(store))
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < len(str(store)) + 200


OLD_HOSTILE = {
    "pickle": (old_array(dtype="|O", filters=[{"id": "pickle"}]), "may run code"),
    "pickle as compressor": (old_array(compressor={"id": "pickle"}), "may run code"),
    "objects": (old_array(dtype="|O"), "not read"),
    "objects in records": (old_array(dtype=[["a", "<i4"], ["b", "|O"]]), "not read"),
    "records of another form": (old_array(dtype=[["a", "<i4", [1 << 40]]]), "not read"),
    "absurd records": (old_array(dtype=[["a", "<i4"], ["b", "<U999999999"]]), "more than"),
    "absurd text": (old_array(dtype="<U999999999"), "more than"),
    "absurd shape": (old_array(shape=[1 << 30, 8, 8]), "more than"),
    "filters that are none": (old_array(filters="pickle"), "filters"),
}


@pytest.mark.parametrize("case", OLD_HOSTILE)
def test_a_hostile_array_of_version_2_is_refused(tmp_path, case):
    document, reason = OLD_HOSTILE[case]
    store = write(tmp_path, {".zgroup": {"zarr_format": 2}, "t/X/.zarray": document})
    with pytest.raises(DataError, match=reason):
        check_store(store)


def test_an_image_may_be_larger_than_a_table(tmp_path):
    large = array(shape=[3, 60_000, 60_000], chunk_grid=pieces(3, 1024, 1024))
    assert check_store(write(tmp_path, small(**{"images/he/s0/zarr.json": large})))
    with pytest.raises(DataError, match="more than"):
        check_store(write(tmp_path, small(**{"tables/t/X/zarr.json": large})))


def test_many_large_arrays_are_refused(tmp_path):
    large = array(shape=[2_000_000_000], chunk_grid=pieces(1_000_000))
    more = {f"tables/t/layers/{number}/zarr.json": large for number in range(5)}
    with pytest.raises(DataError, match="in all"):
        check_store(write(tmp_path, small(**more)))


@pytest.mark.parametrize("path", ["../../../elsewhere", "/etc", "s1", "file://x", 3, None])
def test_a_scale_that_is_no_array_of_its_image_is_refused(tmp_path, path):
    attributes = {"ome": {"multiscales": [{"datasets": [{"path": path}]}]}}
    image = {**GROUP, "attributes": attributes}
    with pytest.raises(DataError, match="scale"):
        check_store(write(tmp_path, small(**{"images/he/zarr.json": image})))


@pytest.mark.parametrize("scales", [3, [3], [{"datasets": 3}], [{}], "abc"])
def test_a_damaged_list_of_scales_is_refused(tmp_path, scales):
    image = {**GROUP, "attributes": {"ome": {"multiscales": scales}}}
    with pytest.raises(DataError, match="scales"):
        check_store(write(tmp_path, small(**{"images/he/zarr.json": image})))


def consolidated(metadata):
    summary = {"kind": "inline", "must_understand": False, "metadata": metadata}
    return {**GROUP, "consolidated_metadata": summary}


def test_consolidated_metadata_must_be_those_of_the_parts(tmp_path):
    true = {"tables/t/X": small()["tables/t/X/zarr.json"], "images": GROUP}
    assert check_store(write(tmp_path, small(**{"zarr.json": consolidated(true)})))
    for name, value in (("tables/t/X", array(codecs=[PICKLE])), ("more", GROUP), ("images", 3)):
        store = write(tmp_path, small(**{"zarr.json": consolidated({**true, name: value})}))
        with pytest.raises(DataError, match="differ from the store's list"):
            check_store(store)


@pytest.mark.parametrize("kind", ["file", "folder", "piece", "missing", "inner folder", "chain"])
def test_a_link_that_leads_out_of_the_store_is_refused(tmp_path, kind):
    store = write(tmp_path, small())
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "zarr.json").write_text(json.dumps(array()))
    place = store / "tables" / "t" / "linked"
    targets = {
        "file": elsewhere / "zarr.json",
        "folder": elsewhere,
        "piece": Path("/etc/hostname"),
        "missing": tmp_path / "nothing",
        "inner folder": store / "images",
        "chain": store / "chain",
    }
    if kind == "chain":
        (store / "chain").symlink_to(elsewhere / "zarr.json")
    place.symlink_to(targets[kind])
    for look in (check_store, stored_hash, stored_size, stored_state):
        with pytest.raises(DataError, match="is a link") as refusal:
            look(store)
        assert "\n" not in str(refusal.value)


def test_a_pipe_in_a_store_is_refused(tmp_path):
    store = write(tmp_path, small())
    os.mkfifo(store / "pipe")
    with pytest.raises(DataError, match="neither a file nor a folder"):
        stored_hash(store)


def test_no_store_is_refused(tmp_path):
    (tmp_path / "a.zarr").mkdir()
    with pytest.raises(DataError, match="no Zarr store"):
        check_store(tmp_path / "a.zarr")
    with pytest.raises(DataError, match="no folder"):
        check_store(tmp_path / "b.zarr")


def test_a_store_is_hashed_by_names_and_contents(tmp_path):
    store = write(tmp_path, small())
    before = stored_hash(store)
    assert before == content_hash(store)
    assert stored_size(store) == sum(p.stat().st_size for p in store.rglob("*") if p.is_file())
    moved = store.rename(tmp_path / "b.zarr")
    assert stored_hash(moved) == before
    (moved / "tables/t/X/c/0").rename(moved / "tables/t/X/c/1")
    renamed = stored_hash(moved)
    (moved / "tables/t/X/c/1").write_bytes(b"Piece")
    assert len({before, renamed, stored_hash(moved)}) == 3
    with pytest.raises(DataError, match="sha256"):
        stored_hash(moved, "md5")


def test_a_link_inside_the_store_counts_with_its_content(tmp_path):
    store = write(tmp_path, small())
    (store / "tables/t/X/c/1").symlink_to("0")
    linked = stored_hash(store)
    (store / "tables/t/X/c/1").unlink()
    (store / "tables/t/X/c/1").write_bytes(b"piece")
    assert stored_hash(store) == linked


def test_a_card_names_a_store_as_a_file(tmp_path):
    store = write(tmp_path, small())
    file = FileCard(path="a.zarr", hash=f"sha256:{stored_hash(store)}", size=stored_size(store))
    assert file.verify(store) == file.hash
    (store / "tables/t/X/c/0").write_bytes(b"other")
    with pytest.raises(DataError, match="the card says"):
        file.verify(store)
    (store / "more").write_bytes(b"more")
    with pytest.raises(DataError, match="bytes, the card says"):
        file.verify(store)
    assert not is_stored(tmp_path)
    with pytest.raises(DataError, match="missing"):
        file.verify(tmp_path)


def test_the_state_of_a_store_tells_a_change(tmp_path):
    store = write(tmp_path, small())
    states = [stored_state(store)]
    (store / "more").write_bytes(b"")
    states.append(stored_state(store))
    os.utime(store / "tables/t/X/c/0", ns=(2**62, 2**62))
    states.append(stored_state(store))
    assert states[0] != states[1] != states[2]
    assert stored_state(store) == states[2]
