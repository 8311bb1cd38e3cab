"""Files of a dataset: fetched once, locked, listed, from archives; or one line each."""

import errno
import gzip
import hashlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.data.card import DatasetCard
from bench.data.dataset import local_card, open_dataset
from bench.data.lock import LOCK, LockedFile, locked, read_lock
from bench.errors import DataError, UnknownNameError
from bench.fetch.lock import entry_of, write_lock
from tests.fetch import broken_server as broken
from tests.fetch.downloads import CONTENT, OTHER, counts, get, left, sha256
from tests.fetch.test_archives import tar_of, zip_of


def test_files_of_a_dataset_are_fetched_once(card, root, server):
    for name in ("counts.tsv", "spots.tsv", "image.png"):
        server.give(name, broken.whole(name.encode()))
    outcome = get(card(), root)
    assert outcome.complete
    assert outcome.fetched == ["counts.tsv", "spots.tsv", "image.png"]
    assert (root / "spots.tsv").read_bytes() == b"spots.tsv"
    again = get(card(), root)
    assert again.complete
    assert again.fetched == []
    assert again.kept == outcome.fetched
    assert set(server.asked.values()) == {1}


def test_one_file_that_fails_leaves_the_others_alone(card, root, server):
    server.give("counts.tsv", broken.whole(CONTENT))
    server.give("image.png", broken.whole(b"png"))
    outcome = get(card(), root)
    assert list(outcome.failed) == ["spots.tsv"]
    assert "answers 404" in outcome.failed["spots.tsv"]
    assert left(root) == ["counts.tsv", "image.png"]
    server.give("spots.tsv", broken.whole(b"spots"))
    assert get(card(), root).fetched == ["spots.tsv"]


def test_a_server_that_cannot_be_reached_is_asked_patiently_once(card, root, server):
    for name in ("counts.tsv", "spots.tsv", "image.png"):
        server.give(name, broken.gone())
    assert len(get(card(), root).failed) == 3
    assert sorted(server.asked.values()) == [1, 1, 3]


def test_only_the_chosen_sections_are_fetched(card_fields, root, server):
    sections = [
        {"name": name, "patient": "P", "files": {"counts": {"path": f"{name}.tsv"}}}
        for name in ("S1", "S2")
    ]
    card = DatasetCard.model_validate(card_fields(base_url=server.url(), sections=sections))
    server.give("S2.tsv", broken.whole(CONTENT))
    assert get(card, root, sections=["S2"]).fetched == ["S2.tsv"]
    with pytest.raises(UnknownNameError, match="unknown section 'S3'"):
        get(card, root, sections=["S3"])


def test_a_wrong_file_is_replaced_by_force_alone(card, root, server):
    server.give("counts.tsv", broken.whole(CONTENT))
    small = card(counts(hash=sha256(CONTENT)))
    root.mkdir(parents=True)
    (root / "counts.tsv").write_bytes(b"mine")
    outcome = get(small, root)
    assert "--force" in outcome.failed["counts.tsv"]
    assert (root / "counts.tsv").read_bytes() == b"mine"
    assert server.asked == {}
    assert get(small, root, force=True).fetched == ["counts.tsv"]
    assert (root / "counts.tsv").read_bytes() == CONTENT


def test_force_keeps_the_wrong_file_where_the_server_gives_no_right_one(card, root, server):
    server.give("counts.tsv", broken.whole(OTHER))
    root.mkdir(parents=True)
    (root / "counts.tsv").write_bytes(b"mine")
    assert not get(card(counts(hash=sha256(CONTENT))), root, force=True).complete
    assert (root / "counts.tsv").read_bytes() == b"mine"
    assert left(root) == ["counts.tsv"]


def test_the_published_panel_is_fetched(card, root, server):
    url = server.give("list.npy", broken.whole(b"genes"))
    server.give("counts.tsv", broken.whole(CONTENT))
    panel = {"genes": 1, "symbols_sha256": "0" * 64, "file": {"path": "p/l.npy", "url": url}}
    small = card(counts(), panels={"list": panel}, published_panel="list")
    assert get(small, root).fetched == ["counts.tsv", "p/l.npy"]


def test_what_a_person_must_get_is_told(card, root, server):
    server.give("counts.tsv", broken.whole(CONTENT))
    by_hand = {"path": "tissue/image.tif", "by_hand": "click on the portal"}
    files = {**counts(), "image": by_hand, "labels": {"path": "l.tsv", "by_hand": "write"}}
    outcome = get(card(files), root)
    assert not outcome.failed
    assert not outcome.complete
    image, labels = outcome.by_hand
    assert (image.how, image.put) == ("click on the portal", str(root / "tissue/image.tif"))
    assert (image.needed, labels.needed) == (True, False)
    (root / "tissue").mkdir()
    (root / "tissue/image.tif").write_bytes(b"tif")
    outcome = get(card(files), root)
    assert outcome.complete
    assert [file.path for file in outcome.by_hand] == ["l.tsv"]


def test_a_file_without_any_address_is_told(card, root):
    outcome = get(card(counts()).model_copy(update={"base_url": None}), root)
    assert "names no address" in outcome.failed["counts.tsv"]


def test_a_disk_that_is_too_small_is_told_before_anything_is_asked(card, root, server):
    with pytest.raises(DataError, match=r"the disk has .* free"):
        get(card(counts(size=1 << 60)), root)
    assert server.asked == {}


def test_a_data_folder_that_cannot_be_made_is_one_line(card, tmp_path, server):
    (tmp_path / "file").write_text("mine")
    for root in (tmp_path / "file" / "data", Path("/proc/nowhere")):
        with pytest.raises(DataError, match="--data-root") as caught:
            get(card(counts()), root)
        assert str(root) in str(caught.value)


def test_a_folder_that_may_not_be_written_is_one_line(card, root, server, monkeypatch):
    server.give("sub/counts.tsv", broken.whole(CONTENT))
    server.give("spots.tsv", broken.whole(b"spots"))

    def refuse(self, *arguments, **options):
        if self.name == "sub":
            raise PermissionError(errno.EACCES, "Permission denied", str(self))
        return mkdir(self, *arguments, **options)

    mkdir = Path.mkdir
    monkeypatch.setattr(Path, "mkdir", refuse)
    outcome = get(card({**counts(path="sub/counts.tsv"), "spots": {"path": "spots.tsv"}}), root)
    assert "Permission denied" in outcome.failed["sub/counts.tsv"]
    assert left(root) == ["spots.tsv"]


def test_what_a_killed_download_left_is_removed(card, root, server):
    server.give("counts.tsv", broken.whole(CONTENT))
    root.mkdir(parents=True)
    (root / f".counts-{'a' * 32}.tsv").write_bytes(CONTENT[:100])
    (root / ".counts-mine.tsv").write_bytes(b"mine")
    get(card(counts()), root)
    assert left(root) == [".counts-mine.tsv", "counts.tsv"]


def test_two_at_once_fetch_each_file_once(card, root, server):
    names = [f"{number}.tsv" for number in range(6)]
    for name in names:
        server.give(name, broken.whole(CONTENT))
    files = {**counts(path=names[0]), **{name: {"path": name} for name in names[1:]}}
    start = threading.Barrier(3)

    def together(_):
        start.wait()
        return get(card(files), root)

    with ThreadPoolExecutor(3) as pool:
        outcomes = list(pool.map(together, range(3)))
    assert all(outcome.complete for outcome in outcomes)
    assert sorted(len(outcome.fetched) for outcome in outcomes) == [0, 0, 6]
    assert set(server.asked.values()) == {1}
    assert left(root) == names
    assert set(read_lock(root)) == set(names)


def test_the_first_download_is_locked_and_later_ones_must_match(card, root, server):
    url = server.give("counts.tsv", broken.whole(CONTENT), broken.whole(OTHER))
    get(card(counts()), root)
    assert json.loads((root / LOCK).read_text()) == {
        "counts.tsv": {"sha256": sha256(CONTENT)[7:], "size": len(CONTENT), "url": url}
    }
    (root / "counts.tsv").unlink()
    outcome = get(card(counts()), root)
    for part in (sha256(CONTENT), sha256(OTHER), LOCK, "delete the entry counts.tsv"):
        assert part in outcome.failed["counts.tsv"]
    assert left(root) == []
    (root / LOCK).unlink()
    assert get(card(counts()), root).complete


def test_a_file_whose_card_names_a_hash_is_not_locked(card, root, server):
    server.give("counts.tsv", broken.whole(CONTENT))
    get(card(counts(hash=sha256(CONTENT))), root)
    assert not (root / LOCK).exists()


def test_a_locked_file_that_has_changed_is_refused_when_it_is_read(card, root, server):
    server.give("counts.tsv", broken.whole(CONTENT))
    small = card(counts())
    get(small, root)
    assert open_dataset(small, root, images=False).hashes == {"S1": {"counts": sha256(CONTENT)}}
    (root / "counts.tsv").write_bytes(OTHER)
    with pytest.raises(DataError, match=LOCK):
        open_dataset(small, root, images=False)
    (root / "counts.tsv").write_bytes(CONTENT + b"x")
    with pytest.raises(DataError, match=f"{LOCK} says {len(CONTENT)}"):
        open_dataset(small, root, images=False)


def test_the_lock_fills_in_what_the_card_leaves_out(card, tmp_path):
    (tmp_path / "x").write_bytes(CONTENT)
    entry = entry_of(tmp_path / "x")
    write_lock(tmp_path, {"counts.tsv": entry, "spots.tsv": entry, "index.csv": entry})
    files = {**counts(), "spots": {"path": "spots.tsv", "hash": "md5:" + "0" * 32}}
    panel = {"genes": 1, "symbols_sha256": "0" * 64, "file": {"path": "x.npy"}}
    small = card(files, index={"path": "index.csv"}, panels={"p": panel})
    found = locked(small, tmp_path)
    of = found.sections[0].files
    assert isinstance(of["counts"], LockedFile)
    assert (of["counts"].hash, of["counts"].size) == (sha256(CONTENT), len(CONTENT))
    assert of["spots"] == small.sections[0].files["spots"]
    assert found.index is not None
    assert found.index.hash == sha256(CONTENT)
    assert found.panels["p"].file == small.panels["p"].file
    assert locked(small, tmp_path / "nowhere") is small


BROKEN_LOCKS = [
    b"",
    b"{",
    b"[]",
    b"[" * 100_000,
    b"\xff",
    b'{"a": 1}',
    b'{"a": {"sha256": "12", "size": 1}}',
    b'{"a": {"sha256": "%s", "size": -1}}' % (b"0" * 64),
    b'{"a": {"sha256": "%s", "size": "1"}}' % (b"0" * 64),
    b'{"a": {"sha256": "%s", "size": 1, "more": 1}}' % (b"0" * 64),
    b'{"../a": {"sha256": "%s", "size": 1}}' % (b"0" * 64),
]


@pytest.mark.parametrize("content", BROKEN_LOCKS, ids=range(len(BROKEN_LOCKS)))
def test_a_broken_lock_file_is_one_line(card, root, server, content):
    root.mkdir(parents=True)
    (root / LOCK).write_bytes(content)
    for attempt in (lambda: get(card(counts()), root), lambda: open_dataset(card(counts()), root)):
        with pytest.raises(DataError, match="not a lock file") as caught:
            attempt()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 500
    assert (root / LOCK).read_bytes() == content
    assert left(root) == []


def listed(server, name, content, **changes):
    details = {
        "sha256_hash": hashlib.sha256(content).hexdigest(),
        "size": len(content),
        "download_url": server.give(f"files/{name}", broken.whole(content)),
        **changes,
    }
    return {"filename": name, "id": "x", "content_details": details}


@pytest.mark.parametrize("under_files", [False, True])
def test_addresses_and_hashes_come_from_a_list(card, root, server, under_files):
    zipped = gzip.compress(CONTENT)
    items = [
        listed(server, "counts.tsv", CONTENT),
        listed(server, "image.png.gz", zipped),
        listed(server, "../../evil", b"evil"),
    ]
    url = server.give("list", broken.as_json({"files": items} if under_files else items))
    files = {**counts(path="sub/counts.tsv"), "image": {"path": "image.png", "unpack": "gzip"}}
    outcome = get(card(files, listing=url), root)
    assert outcome.fetched == ["sub/counts.tsv", "image.png"]
    assert (root / "image.png").read_bytes() == CONTENT
    assert server.asked == {"/list": 1, "/files/counts.tsv": 1, "/files/image.png.gz": 1}
    assert set(read_lock(root)) == {"sub/counts.tsv", "image.png"}


def test_an_error_in_place_of_a_listed_file_is_tried_again(card, root, server):
    url = server.give("list", broken.as_json([listed(server, "counts.tsv", CONTENT)]))
    page = broken.as_json({"message": "error"})
    server.give("files/counts.tsv", page, broken.whole(CONTENT))
    assert get(card(counts(), listing=url), root).complete
    (root / "counts.tsv").unlink()
    server.give("files/counts.tsv", broken.whole(OTHER))
    outcome = get(card(counts(), listing=url), root)
    assert "its list says" in outcome.failed["counts.tsv"]
    assert left(root) == []


def test_a_file_that_the_list_lacks_is_told_with_the_nearest(card, root, server):
    items = [listed(server, "counts_1.tsv", CONTENT)]
    url = server.give("list", broken.as_json(items))
    outcome = get(card(counts(), listing=url), root)
    assert "lists no file 'counts.tsv'; nearest are counts_1.tsv" in outcome.failed["counts.tsv"]
    twice = [listed(server, "counts.tsv", CONTENT), listed(server, "counts.tsv", OTHER)]
    url = server.give("list", broken.as_json(twice))
    outcome = get(card(counts(), listing=url), root)
    assert "different files" in outcome.failed["counts.tsv"]


def test_a_broken_list_is_one_line(card, root, server):
    good = listed(server, "counts.tsv", CONTENT)
    broken_items = [
        {**good, "content_details": None},
        {**good, "filename": 1},
        listed(server, "counts.tsv", CONTENT, download_url="file:///etc/passwd"),
        listed(server, "counts.tsv", CONTENT, sha256_hash="12"),
        listed(server, "counts.tsv", CONTENT, size=-1),
    ]
    answers = [broken.as_json([item]) for item in broken_items]
    answers += [broken.as_json({"message": "no"}), broken.whole(b"<html>"), broken.status(404)]
    answers += [broken.whole(b"[" * 100_000), broken.endless(b"[" * (1 << 20))]
    for answer in answers:
        url = server.give("list", answer)
        outcome = get(card({**counts(), "spots": {"path": "spots.tsv"}}, listing=url), root)
        assert list(outcome.failed) == [url]
        assert not outcome.failed[url].startswith(url)
        assert "2 files are to be looked up there" in outcome.failed[url]
    assert left(root) == []
    url = server.give("list", broken.as_json({"message": "no"}), broken.as_json([good]))
    assert get(card(counts(), listing=url), root).complete


def test_an_index_is_fetched_first_and_names_the_files(card, root, server, monkeypatch):
    class Reader:
        ROLES = ("counts",)
        read = None

        @staticmethod
        def resolve(card, root):
            (section,) = card.sections
            path = (root / "index.csv").read_text().strip()
            files = {"counts": section.files["counts"].model_copy(update={"path": path})}
            return card.model_copy(
                update={"sections": (section.model_copy(update={"files": files}),)}
            )

    monkeypatch.setattr("bench.data.layouts.load_reader", lambda name: Reader)
    small = card(counts(path="placeholder"), index={"path": "index.csv"})
    outcome = get(small, root)
    assert list(outcome.failed) == ["index.csv"]
    with pytest.raises(DataError, match=r"index\.csv: file is missing; it states"):
        local_card(small, root)
    server.give("index.csv", broken.whole(b"real.tsv\n"))
    server.give("real.tsv", broken.whole(CONTENT))
    outcome = get(small, root)
    assert outcome.fetched == ["index.csv", "real.tsv"]
    here = local_card(small, root)
    assert here.sections[0].files["counts"].path == "real.tsv"
    assert here.sections[0].files["counts"].hash == sha256(CONTENT)
    (root / "index.csv").write_bytes(b"fake.tsv\n")
    with pytest.raises(DataError, match=LOCK):
        local_card(small, root)


def test_an_index_without_a_reader_for_it_is_refused(card, root):
    root.mkdir(parents=True)
    (root / "index.csv").write_text("x")
    with pytest.raises(DataError, match="has no 'resolve'"):
        local_card(card(counts(), index={"path": "index.csv"}), root)


def packed(server, content, name="all.tar.gz", **known):
    return {"all": {"path": name, "url": server.give(name, broken.whole(content)), **known}}


MEMBERS = {
    "counts": {"path": "c.tsv", "archive": "all", "member": "x/c.tsv"},
    "spots": {"path": "s.tsv", "archive": "all", "member": "x/s.tsv"},
}


@pytest.mark.parametrize("pack", [lambda *m: tar_of(*m, compress=gzip.compress), zip_of])
def test_members_of_an_archive_are_fetched_with_it_once(card, root, server, pack):
    content = pack(("x/c.tsv", CONTENT), ("x/s.tsv", b"spots"), ("x/big", bytes(5000)))
    archives = packed(server, content, hash=sha256(content))
    small = card(MEMBERS, archives=archives)
    assert get(small, root).fetched == ["c.tsv", "s.tsv"]
    assert left(root) == ["c.tsv", "s.tsv"]
    assert set(read_lock(root)) == {"c.tsv", "s.tsv"}
    assert get(small, root).kept == ["c.tsv", "s.tsv"]
    assert server.asked == {"/all.tar.gz": 1}
    (root / "s.tsv").unlink()
    assert get(small, root, keep_archives=True).fetched == ["s.tsv"]
    assert left(root) == [".downloads/all.tar.gz", "c.tsv", "s.tsv"]
    (root / "s.tsv").unlink()
    assert get(small, root, keep_archives=True).fetched == ["s.tsv"]
    assert server.asked == {"/all.tar.gz": 2}


def test_an_archive_that_a_person_put_there_is_used_and_stays(card, root):
    content = tar_of(("x/c.tsv", CONTENT), ("x/s.tsv", b"spots"))
    archive = {"path": "all.tar", "hash": sha256(content), "by_hand": "click"}
    small = card(MEMBERS, archives={"all": archive})
    outcome = get(small, root)
    assert [(file.path, file.needed) for file in outcome.by_hand] == [("all.tar", True)]
    (root / "all.tar").write_bytes(content[:-1])
    assert "get it again by hand" in get(small, root).failed["all.tar"]
    (root / "all.tar").write_bytes(content)
    assert get(small, root).complete
    assert left(root) == ["all.tar", "c.tsv", "s.tsv"]


def test_an_archive_that_fails_is_told_once(card, root, server):
    cut = tar_of(("skip", os.urandom(5000)), ("x/c.tsv", CONTENT), compress=gzip.compress)[:900]
    for content in (CONTENT, cut):
        outcome = get(card(MEMBERS, archives=packed(server, content)), root)
        assert list(outcome.failed) == ["all.tar.gz"]
        assert "damaged archive" in outcome.failed["all.tar.gz"]
        assert "2 files of it are missing" in outcome.failed["all.tar.gz"]
        assert left(root) == []
    outcome = get(card(MEMBERS, archives=packed(server, CONTENT, hash=sha256(OTHER))), root)
    assert "the card says" in outcome.failed["all.tar.gz"]
    assert "2 files" in outcome.failed["all.tar.gz"]


def test_members_that_are_wrong_or_missing_are_told_each(card, root, server):
    content = zip_of(("x/c.tsv", CONTENT), ("y/s.tsv", b"spots"))
    files = {**MEMBERS, "counts": {**MEMBERS["counts"], "hash": sha256(OTHER)}}
    outcome = get(card(files, archives=packed(server, content)), root)
    assert sha256(OTHER) in outcome.failed["c.tsv"]
    assert "nearest are y/s.tsv" in outcome.failed["s.tsv"]
    assert left(root) == []
