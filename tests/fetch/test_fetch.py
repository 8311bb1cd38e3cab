"""Downloads from a server that fails in every way: success, or one line and no file."""

import errno
import gzip
import hashlib
import io
import json
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from bench import __version__
from bench.data.card import DatasetCard, FileCard
from bench.data.dataset import local_card, open_dataset
from bench.data.lock import LOCK, LockedFile, locked, read_lock
from bench.errors import DataError, UnknownNameError
from bench.fetch.archives import Limits
from bench.fetch.download import Downloader, RetryPolicy, Source, Watcher
from bench.fetch.fetch import fetch_dataset
from bench.fetch.lock import entry_of, write_lock
from tests.cli import tiny_dataset
from tests.fetch import broken_server as broken
from tests.fetch.test_archives import tar_of, zip_of

QUICK = RetryPolicy(connect=2, read=0.25, slowest=1000, attempts=3, pause=0)
CONTENT = b"\tGENE\n" + b"1x1\t1\n" * 3000
OTHER = CONTENT[:-2] + b"2\n"


def sha256(content):
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def left(root):
    """Files in a data folder, but for those of the locks."""
    found = (p for p in root.rglob("*") if p.is_file())
    names = sorted(p.relative_to(root).as_posix() for p in found)
    return [name for name in names if not name.startswith((".spotbench-", LOCK))]


@pytest.fixture
def server():
    with broken.serving() as running:
        yield running


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data" / "small"


@pytest.fixture
def card(card_fields, server):
    """Makes a card whose section S1 has the given files; the server is its base address."""

    def make(files=None, **changes):
        fields = card_fields(base_url=server.url(), **changes)
        if files is not None:
            fields["sections"] = [{"name": "S1", "patient": "P1", "files": files}]
        return DatasetCard.model_validate(fields)

    return make


def counts(**known):
    return {"counts": {"path": "counts.tsv", **known}}


def get(card, root, **options):
    outcome = fetch_dataset(card, root, policy=options.pop("policy", QUICK), **options)
    for fault in outcome.failed.values():
        assert "\n" not in fault
        assert len(fault) < 700
    return outcome


# ----------------------------------------------------------------------------- one file


@pytest.fixture
def fetch(server, tmp_path):
    """Fetches ``/file`` with the given answers; the target, and an error where there was one."""
    target = tmp_path / "data" / "file.tsv"

    def fetch(*answers, limits=None, policy=QUICK, watcher=None, source=None, **known):
        url = server.give("file", *answers) if answers else ""
        file = FileCard(path="file.tsv", **known)
        downloader = Downloader(policy, limits or Limits(), watcher)
        try:
            downloader.fetch(source or Source(url), file, target)
        except DataError as error:
            fault = str(error)
        else:
            assert [path.name for path in target.parent.iterdir()] == ["file.tsv"]
            return target.read_bytes()
        assert not target.parent.exists() or not list(target.parent.iterdir())
        assert "\n" not in fault
        return fault

    return fetch


def test_a_file_is_fetched_by_a_named_client_as_it_is(fetch, server):
    assert fetch(broken.whole(CONTENT), hash=sha256(CONTENT), size=len(CONTENT)) == CONTENT
    (headers,) = server.headers_seen
    assert headers["User-Agent"] == f"spotbench/{__version__}"
    assert headers["Accept-Encoding"] == "identity"


PASSING = {
    "500": broken.status(500),
    "502": broken.status(502),
    "503": broken.status(503),
    "429": broken.status(429),
    "cut": broken.cut(CONTENT, 500),
    "cut to nothing": broken.cut(CONTENT, 0),
    "closed without a word": broken.gone(),
    "chunks without an end": broken.chunked(CONTENT[:900], end=False),
    "stalled": broken.stalled(CONTENT[:900]),
    "silent": broken.silent(),
    "another content": broken.whole(OTHER),
    "short, without length": broken.without_length(CONTENT[:900]),
    "an error as JSON": broken.as_json({"message": "try later"}),
    "a long page": broken.whole(CONTENT * 2),
}


@pytest.mark.parametrize("answer", PASSING.values(), ids=PASSING)
def test_what_passes_is_tried_again(fetch, server, answer):
    good = broken.whole(CONTENT)
    assert fetch(answer, good, hash=sha256(CONTENT), size=len(CONTENT)) == CONTENT
    assert server.asked["/file"] == 2


@pytest.mark.parametrize(
    ("kind", "attempts", "told"),
    [
        ("500", 3, "answers 500"),
        ("429", 3, "answers 429"),
        ("cut", 3, "broke off"),
        ("closed without a word", 3, "cannot be reached"),
        ("chunks without an end", 3, "broke off"),
        ("stalled", 3, "broke off"),
        ("silent", 3, "does not answer in time"),
        ("short, without length", 3, "sent 900 of 18,006 bytes"),
        ("another content", 2, "the card says sha256:"),
        ("a long page", 2, "announces 36,012 bytes, not at most 18,006"),
    ],
)
def test_what_does_not_pass_is_given_up(fetch, server, kind, attempts, told):
    error = fetch(PASSING[kind], hash=sha256(CONTENT), size=len(CONTENT))
    assert told in error
    assert server.url("file") in error
    assert ("tried 3 times" in error) == (attempts == 3)
    assert server.asked["/file"] == attempts


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 416, 204, 206, 304])
def test_a_plain_refusal_is_not_tried_again(fetch, server, code):
    assert f"answers {code}" in fetch(broken.status(code, b""))
    assert server.asked["/file"] == 1


def test_a_server_that_drips_counts_as_stalled(fetch, server):
    error = fetch(broken.dripping(CONTENT), policy=RetryPolicy(read=0.3, attempts=1, slowest=1000))
    assert "stalls" in error


def test_a_slow_server_is_waited_for(fetch):
    policy = RetryPolicy(read=0.2, attempts=1, slowest=5)
    assert fetch(broken.dripping(b"0123456789"), policy=policy) == b"0123456789"


@pytest.mark.parametrize("content", [broken.endless(), broken.chunked(bytes(5000))])
@pytest.mark.parametrize("known", [{"size": 4000}, {}])
def test_more_than_expected_is_refused_while_it_comes(fetch, server, content, known):
    error = fetch(content, limits=Limits(size=4000), **known)
    assert "more than the expected 4,000 bytes" in error
    assert server.asked["/file"] == 1


def test_what_follows_the_announced_length_is_never_taken(fetch):
    answer = fetch(broken.surplus(CONTENT, b"more"), hash=sha256(CONTENT))
    assert answer == CONTENT or "more than the expected" in answer


def test_a_compression_that_nobody_asked_for_is_refused(fetch):
    error = fetch(broken.whole(gzip.compress(CONTENT), Content_Encoding="gzip"))
    assert "compressed" in error


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(fetch, server, code):
    server.give("else/where", broken.whole(CONTENT))
    assert fetch(broken.redirect("/else/where", code)) == CONTENT


def test_a_redirect_to_no_web_address_is_refused(fetch, server, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("mine")
    for target in (f"file://{secret}", "ftp://127.0.0.1/x", "data:,x", "http://["):
        error = fetch(broken.redirect(target))
        assert "no address of http" in error, target
    assert set(server.asked) == {"/file"}


def test_a_redirect_from_https_to_http_is_refused(tmp_path, monkeypatch):
    answer = requests.Response()
    answer.status_code, answer.headers["Location"] = 302, "http://example.org/file"
    answer.raw = io.BytesIO()
    monkeypatch.setattr(requests.Session, "get", lambda *_, **__: answer)
    with pytest.raises(DataError, match="not encrypted"):
        Downloader().fetch(Source("https://example.org/file"), FileCard(path="f"), tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_redirects_end(fetch, server):
    assert "redirects more than 10 times" in fetch(broken.redirect(server.url("file")))
    assert server.asked["/file"] == 11


def test_the_body_of_a_redirect_is_not_read(fetch, server):
    def answer(handler):
        handler.begin(302, Location="/there", Content_Length=1 << 40)
        handler.server.stopping.wait(5)

    server.give("there", broken.whole(CONTENT))
    assert fetch(answer, policy=RetryPolicy(read=1, attempts=1)) == CONTENT


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://x/y", "/etc/passwd", "http://", "http://[", "", "http:a"]
)
def test_an_address_of_another_kind_is_refused(fetch, url):
    assert "no address of http or https" in fetch(source=Source(url))


def test_a_server_that_is_not_there_is_one_line(fetch):
    with broken.serving() as gone:
        url = gone.url("x")
    error = fetch(source=Source(url))
    assert "cannot be reached" in error
    assert "refused" in error.lower()


class Counting(Watcher):
    def __init__(self):
        self.bytes = 0

    def received(self, size):
        self.bytes += size


def test_bytes_of_failed_attempts_are_taken_back(fetch):
    watcher = Counting()
    fetch(broken.cut(CONTENT, 500), broken.whole(CONTENT), watcher=watcher)
    assert watcher.bytes == len(CONTENT)


def test_pauses_grow(fetch, monkeypatch):
    pauses = []
    monkeypatch.setattr("tenacity.nap.time.sleep", pauses.append)
    fetch(broken.status(503), policy=RetryPolicy(attempts=5, pause=1, longest_pause=6))
    assert pauses == [1, 2, 4, 6]


class Interrupted(BaseException):
    """As a signal would, in the middle of anything."""


def test_an_interruption_leaves_nothing(server, tmp_path):
    class Interrupting(Watcher):
        def received(self, size):
            if size > 0:
                raise Interrupted

    target = tmp_path / "data" / "file.tsv"
    url = server.give("file", broken.whole(CONTENT))
    with pytest.raises(Interrupted):
        Downloader(QUICK, watcher=Interrupting()).fetch(Source(url), FileCard(path="f"), target)
    assert list(target.parent.iterdir()) == []


def test_a_full_disk_is_one_line(fetch, server, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("bench.fetch.download.copy_bounded", full)
    assert "No space left on device" in fetch(broken.whole(CONTENT))
    assert server.asked["/file"] == 1


@pytest.mark.parametrize("parts", [1, 3])
def test_a_zipped_file_is_unpacked_on_the_way(fetch, parts):
    step = len(CONTENT) // parts + 1
    zipped = b"".join(
        gzip.compress(CONTENT[i * step : (i + 1) * step], mtime=0) for i in range(parts)
    )
    known = {"hash": sha256(CONTENT), "size": len(CONTENT), "unpack": "gzip"}
    assert fetch(broken.whole(zipped + bytes(512)), **known) == CONTENT
    assert fetch(broken.chunked(zipped), **known) == CONTENT


def test_damaged_gzip_data_are_tried_twice(fetch, server):
    zipped = gzip.compress(CONTENT)
    for damaged in (zipped[:-6], b"<html>", zipped[:40] + bytes(9) + zipped[49:], CONTENT):
        server.asked.clear()
        assert "damaged gzip" in fetch(broken.without_length(damaged), unpack="gzip")
        assert server.asked["/file"] == 2
    assert fetch(broken.whole(b"<html>"), broken.whole(zipped), unpack="gzip") == CONTENT


def test_a_gzip_bomb_is_refused(fetch, server):
    zipped = gzip.compress(bytes(48 << 20))
    assert "200 times its size" in fetch(broken.whole(zipped), unpack="gzip")
    assert server.asked["/file"] == 1
    error = fetch(broken.whole(gzip.compress(CONTENT)), unpack="gzip", size=100)
    assert "more than the expected 100 bytes" in error


def test_the_hash_of_a_list_is_that_of_what_is_sent(fetch, server, tmp_path):
    zipped = gzip.compress(CONTENT, mtime=0)
    url = server.give("file", broken.whole(zipped))
    digest = hashlib.sha256(zipped).hexdigest()
    assert fetch(source=Source(url, digest, len(zipped)), unpack="gzip") == CONTENT
    again = tmp_path / "again"
    for sha, size, told in (
        ("0" * 64, len(zipped), "its list says sha256:000"),
        (digest, len(zipped) + 5, f"sent {len(zipped)} of {len(zipped) + 5} bytes"),
        (digest, len(zipped) - 5, "announces"),
    ):
        with pytest.raises(DataError, match=told):
            Downloader(QUICK).fetch(
                Source(url, sha, size), FileCard(path="f", unpack="gzip"), again / "f"
            )
        assert list(again.iterdir()) == []


# -------------------------------------------------------------------------- a dataset


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


# ------------------------------------------------------------------------ the lock file


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


# ----------------------------------------------------------------- lists and indexes


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


# -------------------------------------------------------------------------- archives


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


# ----------------------------------------------------------------------- the commands


@pytest.fixture
def served(tmp_path, server):
    """The tiny dataset with a card that says it lies on the server."""
    tiny = tiny_dataset.write_tiny_dataset(tmp_path / "tiny")
    for path in tiny.root.rglob("*.*"):
        server.give(path.relative_to(tiny.root).as_posix(), broken.whole(path.read_bytes()))
    tiny.edit_card(base_url=server.url())
    return tiny


def test_get_and_verify_of_a_dataset(served, tmp_path, server, monkeypatch):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "mine"))
    root = tmp_path / "mine" / "tiny"
    call = tiny_dataset.call
    tiny_dataset.assert_refused(call("data", "verify", served.card), "bench data get tiny")
    answer = call("data", "get", served.card, "--sections", "A1,A2", "--json")
    assert answer.status == 0, answer
    assert len(json.loads(answer.stdout)["fetched"]) == 6
    assert answer.stderr.splitlines()[0] == "counts/A1.tsv.gz: fetched"
    assert call("data", "verify", served.card, "--sections", "A1").status == 0
    assert (
        call("data", "get", served.card).stdout
        == f"{root}: 12 files downloaded, 6 kept, 0 failed\n"
    )
    assert "18 files match the card" in call("data", "verify", served.card).stdout
    (root / "spots/A1.tsv").write_bytes(b"changed")
    answer = call("data", "verify", served.card)
    assert answer.status == 2
    assert f"bench: {root}/spots/A1.tsv: 7 bytes, {LOCK} says" in answer.stderr
    answer = call("data", "get", served.card)
    assert answer.status == 1
    assert answer.stderr.startswith("bench: spots/A1.tsv: 7 bytes")
    assert call("data", "get", served.card, "--force").status == 0
    assert call("data", "verify", served.card).status == 0


def test_verify_locks_files_that_a_person_put_there(served):
    call = tiny_dataset.call
    where = (served.card, "--data-root", served.root)
    answer = json.loads(call("data", "verify", *where, "--json").stdout)
    assert (answer["good"], len(answer["unchecked"]), answer["missing"]) == (18, 18, [])
    assert not (served.root / LOCK).exists()
    assert (
        f"18 hashes that the card does not have are recorded in {LOCK}"
        in call("data", "verify", *where, "--lock").stdout
    )
    assert json.loads(call("data", "verify", *where, "--json").stdout)["unchecked"] == []
    served.spots("B1").write_bytes(b"changed")
    assert call("data", "verify", *where).status == 2


def test_get_tells_what_failed_and_what_a_person_must_get(served, server, tmp_path):
    content = served.edit_card()
    content["sections"][0]["files"]["image"]["by_hand"] = "ask the authors"
    served.edit_card(**content)
    server.give("counts/A1.tsv.gz", broken.status(404))
    call = ("data", "get", served.card, "--sections", "A1", "--data-root", tmp_path / "x")
    answer = tiny_dataset.call(*call)
    assert answer.status == 1
    (line,) = [line for line in answer.stderr.splitlines() if line.startswith("bench: ")]
    assert line.startswith(f"bench: counts/A1.tsv.gz: {server.url('counts/A1.tsv.gz')} answers 404")
    assert f"  ask the authors\n    put it at {tmp_path}/x/images/A1.jpg\n" in answer.stdout
    missing = tiny_dataset.call("data", "verify", served.card, "--data-root", tmp_path / "nowhere")
    tiny_dataset.assert_refused(missing, "nowhere", "images/A1.jpg by hand (ask the authors)")


def test_a_process_that_is_killed_leaves_no_file_and_the_next_one_goes_on(served, server, tmp_path):
    image = served.image("A1").read_bytes()
    server.give("images/A1.jpg", broken.stalled(image[:1000]), broken.whole(image))
    root = tmp_path / "mine"
    call = ("data", "get", served.card, "--sections", "A1", "--data-root", root)
    process = tiny_dataset.start(*call)
    try:
        deadline = time.monotonic() + 60
        while "/images/A1.jpg" not in server.asked and time.monotonic() < deadline:
            time.sleep(0.02)
        while not list(root.glob("images/.*")) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:
        process.kill()
        process.communicate()
    counts, half = left(root)
    assert counts == "counts/A1.tsv.gz"
    assert half.startswith("images/.A1-")
    assert not (root / "images/A1.jpg").exists()
    answer = tiny_dataset.call(*call)
    assert answer.status == 0, answer
    assert "2 files downloaded, 1 kept" in answer.stdout
    assert left(root) == ["counts/A1.tsv.gz", "images/A1.jpg", "spots/A1.tsv"]
    assert (root / "images/A1.jpg").read_bytes() == image


def test_get_of_a_generated_dataset_has_nothing_to_do():
    answer = tiny_dataset.call("data", "get", "demo")
    assert (answer.status, answer.stderr) == (0, "")
    assert "nothing to download" in answer.stdout
