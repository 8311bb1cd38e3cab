"""Pieces of arrays that unpack to more than they declare; packed by libraries, read by ours."""

import bz2
import gzip
import io
import json
import lzma
import zlib

import numpy as np
import pyarrow as pa
import pytest

from bench.data.reading import zarr_pieces
from bench.data.reading.unpacking import PACKINGS, unpacks_beyond
from bench.data.reading.zarr_store import check_image_pieces, check_store
from bench.errors import DataError
from tests.data.test_zarr_store import GROUP, array, old_array, pieces

BOMB = bytes(3 << 20)
RANDOM = np.random.default_rng(0).bytes(200_000)


def zstd_of_unknown_size(content):
    sink = io.BytesIO()
    stream = pa.CompressedOutputStream(sink, "zstd")
    stream.write(content)
    stream.flush()
    packed = sink.getvalue()
    stream.close()
    return packed


PACK = {
    "zlib": zlib.compress,
    "gzip": gzip.compress,
    "two members of gzip": lambda b: gzip.compress(b[:100]) + gzip.compress(b[100:]),
    "bz2": bz2.compress,
    "two streams of bz2": lambda b: bz2.compress(b[:100]) + bz2.compress(b[100:]),
    "lzma": lzma.compress,
    "zstd": lambda b: pa.Codec("zstd").compress(b, asbytes=True),
    "two frames of zstd": lambda b: b"".join(
        pa.Codec("zstd").compress(part, asbytes=True) for part in (b[:100], b[100:])
    ),
    "skipped frame, zstd": lambda b: (
        b"\x50\x2a\x4d\x18\x03\0\0\0abc" + pa.Codec("zstd").compress(b, asbytes=True)
    ),
    "lz4": lambda b: len(b).to_bytes(4, "little") + pa.Codec("lz4_raw").compress(b, asbytes=True),
}


def form_of(name):
    return next(packing for packing in PACKINGS if packing in name)


@pytest.mark.parametrize("name", PACK)
@pytest.mark.parametrize("content", [b"a", BOMB, RANDOM], ids=["small", "zeros", "random"])
def test_the_size_of_what_libraries_pack_is_found(name, content):
    packed = PACK[name](content)
    assert not unpacks_beyond(packed, form_of(name), len(content))
    if len(content) > 1000:  # far more than a tenth may be refused by its length alone
        assert unpacks_beyond(packed, form_of(name), len(content) // 10)


def test_blocks_bound_a_frame_of_zstd_that_states_no_size():
    packed = zstd_of_unknown_size(BOMB)
    assert not unpacks_beyond(packed, "zstd", 2 * len(BOMB))
    assert unpacks_beyond(packed, "zstd", len(BOMB) // 10)


def test_a_dictionary_of_4_gib_is_too_much():
    packed = bytearray(lzma.compress(b"a"))
    # The size of the dictionary is the property byte of the filter: 40 is 4 GiB.
    packed[16] = 40
    packed[20:24] = zlib.crc32(bytes(packed[12:20])).to_bytes(4, "little")
    assert unpacks_beyond(bytes(packed), "lzma", 1 << 20)


@pytest.mark.parametrize("name", PACK)
def test_damaged_pieces_count_up_to_their_damage(name):
    packed = PACK[name](RANDOM)
    for damaged in (b"", packed[:3], packed[:50], b"\xff" * 3, packed[: len(packed) // 2]):
        assert not unpacks_beyond(damaged, form_of(name), 1 << 25)


def write(folder, documents, content):
    store = folder / "a.zarr"
    for name, document in documents.items():
        (store / name).parent.mkdir(parents=True, exist_ok=True)
        (store / name).write_text(json.dumps(document))
    (store / "tables/t/X/c").mkdir(parents=True)
    (store / "tables/t/X/c/0").write_bytes(content)
    return store


def table(packings, **changed):
    codecs = [{"name": "bytes"}, *packings]
    values = {"shape": [4], "chunk_grid": pieces(4), "data_type": "float32", "codecs": codecs}
    return {"zarr.json": GROUP, "tables/t/X/zarr.json": array(**{**values, **changed})}


ZSTD = {"name": "zstd", "configuration": {"level": 0}}


@pytest.fixture
def low_floor(monkeypatch):
    monkeypatch.setattr(zarr_pieces, "_FLOOR", 1 << 16)


@pytest.mark.parametrize(
    "codec", [ZSTD, {"name": "gzip"}, "numcodecs.zlib", {"name": "numcodecs.bz2"}]
)
def test_a_piece_that_unpacks_to_more_is_refused(tmp_path, low_floor, codec):
    name = codec if isinstance(codec, str) else codec["name"]
    pack = PACK[name.removeprefix("numcodecs.")]
    store = write(tmp_path / "true", table([codec]), pack(bytes(16)))
    assert check_store(store)["tables/t/X"].item_size == 4
    store = write(tmp_path / "bomb", table([codec]), pack(BOMB))
    with pytest.raises(DataError, match="tables/t/X: a piece unpacks to more") as refusal:
        check_store(store)
    assert "\n" not in str(refusal.value)


def test_a_piece_of_version_2_that_unpacks_to_more_is_refused(tmp_path, low_floor):
    document = old_array(compressor={"id": "zlib", "level": 1}, shape=[4], chunks=[4])
    documents = {".zgroup": {"zarr_format": 2}, "tables/t/X/.zarray": document}
    check_store(write(tmp_path / "true", documents, zlib.compress(bytes(4))))
    with pytest.raises(DataError, match="unpacks to more"):
        check_store(write(tmp_path / "bomb", documents, zlib.compress(BOMB)))


def test_a_long_piece_is_refused_before_it_is_read(tmp_path, low_floor):
    with pytest.raises(DataError, match="larger than it declares"):
        check_store(write(tmp_path, table([ZSTD]), BOMB))


def test_pieces_that_are_packed_twice_are_refused(tmp_path):
    with pytest.raises(DataError, match="packed twice"):
        check_store(write(tmp_path, table([ZSTD, {"name": "gzip"}]), b""))


def shard(content, *, where="end", index_codecs=("bytes", "crc32c"), **changed):
    """A shard of two parts, of which the second is missing, and the array's codec."""
    packed = PACK["zstd"](content)
    check = bytes(4 * (len(index_codecs) - 1))
    size = 32 + len(check)
    start = size if where == "start" else 0
    index = np.array([start, len(packed), 2**64 - 1, 2**64 - 1], "<u8").tobytes() + check
    codec = {
        "name": "sharding_indexed",
        "configuration": {
            "chunk_shape": [2],
            "codecs": [{"name": "bytes"}, ZSTD],
            "index_codecs": [{"name": name} for name in index_codecs],
            "index_location": where,
            **changed,
        },
    }
    return [codec], index + packed if where == "start" else packed + index


@pytest.mark.parametrize("where", ["start", "end"])
@pytest.mark.parametrize("index_codecs", [("bytes", "crc32c"), ("bytes",)])
def test_parts_of_a_shard_are_checked(tmp_path, low_floor, where, index_codecs):
    for content, name in ((bytes(8), "true"), (BOMB, "bomb")):
        codecs, piece = shard(content, where=where, index_codecs=index_codecs)
        store = write(tmp_path / name, table([], codecs=codecs), piece)
        if name == "true":
            check_store(store)
        else:
            with pytest.raises(DataError, match="unpacks to more"):
                check_store(store)


@pytest.mark.parametrize(
    "changed",
    [{"chunk_shape": [2, 2]}, {"chunk_shape": [0]}, {"chunk_shape": None}, {"chunk_shape": ["2"]}],
)
def test_shards_of_an_unknown_form_are_refused(tmp_path, changed):
    codecs, piece = shard(bytes(8), **changed)
    with pytest.raises(DataError, match="index of a shard"):
        check_store(write(tmp_path, table([], codecs=codecs), piece))


@pytest.mark.parametrize("length", [0, 10])
def test_a_shard_shorter_than_its_index_is_refused(tmp_path, length):
    codecs, piece = shard(bytes(8))
    with pytest.raises(DataError, match="index of a shard"):
        check_store(write(tmp_path, table([], codecs=codecs), piece[:length]))


def test_pieces_of_an_image_are_checked_when_it_is_read(tmp_path, low_floor):
    documents = {"zarr.json": GROUP, "images/he/s0/zarr.json": array()}
    store = write(tmp_path, documents, b"")
    (store / "images/he/s0/c/0/0").mkdir(parents=True)
    (store / "images/he/s0/c/0/0/0").write_bytes(PACK["zstd"](BOMB))
    nodes = check_store(store)
    with pytest.raises(DataError, match="images/he/s0: a piece unpacks to more"):
        check_image_pieces(store, "images/he", nodes)
