"""Members of archives: what is named is read, and what is hostile is refused."""

import bz2
import gzip
import hashlib
import io
import lzma
import os
import tarfile
import tracemalloc
import zipfile

import pytest

from bench.data.card import FileCard
from bench.errors import DataError
from bench.fetch.archives import Limits, extract

CONTENT = b"\tA\tB\n1x1\t1\t2\n"


def tar_of(*members, compress=bytes, **options):
    """Bytes of a tar file of (name or TarInfo, content) pairs."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", **options) as opened:
        for name, content in members:
            member = name if isinstance(name, tarfile.TarInfo) else tarfile.TarInfo(name)
            member.size = len(content)
            opened.addfile(member, io.BytesIO(content))
    return compress(stream.getvalue())


def zip_of(*members, compression=zipfile.ZIP_DEFLATED):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as opened:
        for name, content in members:
            opened.writestr(name, content)
    return stream.getvalue()


def special(name, kind, target=""):
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


KINDS = {
    "tar": tar_of,
    "tar.gz": lambda *m: tar_of(*m, compress=gzip.compress),
    "tar.xz": lambda *m: tar_of(*m, compress=lzma.compress),
    "tar.bz2": lambda *m: tar_of(*m, compress=bz2.compress),
    "pax": lambda *m: tar_of(*m, format=tarfile.PAX_FORMAT),
    "zip": zip_of,
}
every_kind = pytest.mark.parametrize("pack", KINDS.values(), ids=KINDS)


def card(member="a.tsv", path="out/a.tsv", **known):
    return FileCard(path=path, archive="all", member=member, **known)


@pytest.fixture
def take(tmp_path):
    """Takes files out of an archive of the given bytes; gives faults by path."""
    root = tmp_path / "root"
    root.mkdir()

    def take(content, *files, limits=None):
        archive = tmp_path / "archive"
        archive.write_bytes(content)
        told = {}
        extract(
            archive,
            files,
            root,
            lambda file, fault: told.__setitem__(file.path, fault),
            limits or Limits(),
        )
        for path, fault in told.items():
            assert (root / path).is_file() == (fault is None)
            assert fault is None or "\n" not in fault
        assert not (tmp_path / "evil").exists()
        return told

    take.root = root
    take.left = lambda: sorted(p.relative_to(root).as_posix() for p in root.rglob("*.*"))
    return take


@every_kind
def test_named_members_land_where_the_card_says(take, pack):
    content = pack(("x/skip", bytes(700)), ("x/a.tsv", CONTENT), ("b", b""), ("c", b"other"))
    digest = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    files = card("x/a.tsv", hash=digest, size=len(CONTENT)), card("b", "b.tsv")
    assert take(content, *files) == {"out/a.tsv": None, "b.tsv": None}
    assert (take.root / "out/a.tsv").read_bytes() == CONTENT
    assert take.left() == ["b.tsv", "out/a.tsv"]


@every_kind
def test_a_member_may_be_wanted_twice(take, pack):
    told = take(pack(("a", CONTENT)), card("a", "1.tsv"), card("a", "2.tsv"))
    assert told == {"1.tsv": None, "2.tsv": None}
    assert (take.root / "2.tsv").read_bytes() == CONTENT


@every_kind
def test_a_gzip_member_is_unpacked(take, pack):
    content = pack(("a.gz", gzip.compress(CONTENT)), ("z", b"1"))
    assert take(content, card("a.gz", unpack="gzip"), card("z", "z.tsv"))["out/a.tsv"] is None
    assert (take.root / "out/a.tsv").read_bytes() == CONTENT


@every_kind
def test_one_bad_member_leaves_the_others_alone(take, pack):
    content = pack(("a", b"not gzip"), ("b", b"changed"), ("c", CONTENT), ("d", b"long one"))
    told = take(
        content,
        card("a", "a.tsv", unpack="gzip"),
        card("b", "b.tsv", hash="md5:" + "0" * 32),
        card("c", "c.tsv"),
        card("d", "d.tsv", size=3),
        card("cc", "e.tsv"),
    )
    assert told["c.tsv"] is None
    assert "damaged" in told["a.tsv"]
    assert "the card says md5:000" in told["b.tsv"]
    assert "more than the expected 3 bytes" in told["d.tsv"]
    assert "no member 'cc'; nearest are c" in told["e.tsv"]
    assert take.left() == ["c.tsv"]


def test_names_below_the_folder_that_was_packed_are_found(take):
    assert take(tar_of(("./a.tsv", CONTENT)), card()) == {"out/a.tsv": None}


@every_kind
@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "../out/a.tsv"])
def test_a_name_that_leads_outside_is_never_followed(take, pack, tmp_path, name):
    told = take(pack((name, b"evil"), ("b", b"1")), card(), card("b", "b.tsv"))
    assert "no member 'a.tsv'" in told["out/a.tsv"]
    assert told["b.tsv"] is None
    assert take.left() == ["b.tsv"]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.DIRTYPE]
)
def test_a_member_of_a_tar_file_that_is_no_file_is_refused(take, kind):
    content = tar_of(("b", b"1"), (special("a.tsv", kind, "b"), b""))
    assert "no regular file" in take(content, card())["out/a.tsv"]
    outside = tar_of((special("a.tsv", kind, "/etc/passwd"), b""))
    assert "no regular file" in take(outside, card())["out/a.tsv"]
    assert take.left() == []


def test_a_sparse_member_is_refused(take):
    sparse = tarfile.TarInfo("a.tsv")
    sparse.pax_headers = {
        "GNU.sparse.major": "0", "GNU.sparse.minor": "1", "GNU.sparse.size": str(1 << 40),
        "GNU.sparse.map": f"{(1 << 40) - 1},1", "GNU.sparse.name": "a.tsv",
    }  # fmt: skip
    content = tar_of((sparse, b"1"), format=tarfile.PAX_FORMAT)
    assert "no regular file" in take(content, card())["out/a.tsv"]


def test_members_of_a_zip_file_that_are_no_files_are_refused(take):
    link = zipfile.ZipInfo("a.tsv")
    link.external_attr = 0o120777 << 16
    link.create_system = 3
    assert "no regular file" in take(zip_of((link, b"/etc/passwd")), card())["out/a.tsv"]
    assert "no member" in take(zip_of(("a.tsv/", b"")), card())["out/a.tsv"]
    encrypted = bytearray(zip_of(("a.tsv", CONTENT)))
    for mark, place in ((b"PK\3\4", 6), (b"PK\1\2", 8)):
        encrypted[encrypted.index(mark) + place] |= 1
    assert "encrypted" in take(bytes(encrypted), card())["out/a.tsv"]
    with pytest.warns(UserWarning, match="Duplicate"):
        twice = zip_of(("a.tsv", b"1"), ("a.tsv", b"2"))
    assert "two members 'a.tsv'" in take(twice, card())["out/a.tsv"]


BOMB = bytes(16 << 20)
TIGHT = Limits(free=1 << 20)


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "tar.bz2", "zip"])
def test_a_bomb_is_refused_before_it_is_unpacked(take, kind):
    content = KINDS[kind](("a.tsv", BOMB), ("b", b"1"))
    assert len(BOMB) > 900 * len(content)
    try:
        told = take(content, card(), limits=TIGHT)
    except DataError as error:
        told = {"out/a.tsv": str(error)}
    assert "times its size" in told["out/a.tsv"]
    assert take.left() == []


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz"])
def test_a_bomb_that_nobody_asked_for_is_not_read_past(take, kind):
    with pytest.raises(DataError, match="times its size"):
        take(KINDS[kind](("bomb", BOMB), ("a.tsv", CONTENT)), card(), limits=TIGHT)
    assert take.left() == []


def test_a_gzip_bomb_inside_an_archive_is_refused(take):
    content = tar_of(("a.gz", gzip.compress(BOMB)))
    told = take(content, card("a.gz", unpack="gzip"), limits=TIGHT)
    assert "times its size" in told["out/a.tsv"]


def test_a_table_as_compressible_as_real_ones_is_no_bomb(take):
    table = b"".join(b"%dx%d" % (i, i) + b"\t0" * 400 + b"\t%d\n" % i for i in range(9000))
    content = tar_of(("a.tsv", table), compress=gzip.compress)
    assert len(table) > 30 * len(content)
    assert take(content, card(), limits=TIGHT) == {"out/a.tsv": None}


@every_kind
def test_too_many_members_are_refused(take, pack):
    content = pack(*((f"n{number}", b"") for number in range(101)))
    with pytest.raises(DataError, match="more than 100 members"):
        take(content, card(), limits=Limits(members=100))


@every_kind
def test_members_that_are_too_large_are_refused(take, pack):
    content = pack(("a.tsv", os.urandom(4000)), ("b", os.urandom(4000)))
    assert "too large" in take(content, card(), limits=Limits(size=3000))["out/a.tsv"]
    files = card("a.tsv", "1.tsv"), card("b", "2.tsv")
    try:
        told = take(content, *files, limits=Limits(total=6000))
    except DataError as error:
        told = {"2.tsv": str(error)}
    assert "too large" in told["2.tsv"] or "more than 6,000" in told["2.tsv"]
    assert "2.tsv" not in take.left()


def test_a_header_that_claims_to_be_huge_does_not_fill_the_memory(take):
    header = tarfile.TarInfo("pax")
    header.type, header.size = tarfile.XHDTYPE, 1 << 36
    tracemalloc.start()
    try:
        with pytest.raises(DataError, match="header"):
            take(header.tobuf() + bytes(1 << 20), card())
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


@every_kind
def test_a_damaged_archive_is_one_line_and_leaves_no_file(take, pack):
    members = [(f"m{number}", os.urandom(3000)) for number in range(8)]
    content = pack(*members)
    digest = f"sha256:{hashlib.sha256(members[5][1]).hexdigest()}"
    outcomes, faults = set(), []
    for number in range(60):
        damaged = bytearray(content)
        if number % 2:
            place = (number * len(content)) // 60
            damaged[place : place + 64] = os.urandom(64)
        else:
            del damaged[(number * len(content)) // 60 :]
        try:
            told = take(bytes(damaged), card("m5", hash=digest))
        except DataError as error:
            outcomes.add("archive")
            faults.append(str(error))
            assert take.left() == []
        else:
            outcomes.add("member" if told["out/a.tsv"] else "whole")
            (take.root / "out/a.tsv").unlink(missing_ok=True)
    assert outcomes >= {"archive"}
    assert not [fault for fault in faults if "\n" in fault or len(fault) > 400]


def test_a_disk_that_is_full_is_told_of_the_member(take, monkeypatch):
    def full(descriptor):
        raise OSError(28, "No space left on device")

    content = tar_of(("a.tsv", CONTENT), ("b", b"1"))
    monkeypatch.setattr("bench.files.os.fsync", full)
    told = take(content, card(), card("b", "b.tsv"))
    assert set(told.values()) == {"No space left on device"}
    assert take.left() == []
