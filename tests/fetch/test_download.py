"""One file from a server that fails in every way: its content, or one line and no file."""

import errno
import gzip
import hashlib
import io

import pytest
import requests

from bench import __version__
from bench.data.card import FileCard
from bench.errors import DataError
from bench.fetch.archives import Limits
from bench.fetch.download import Downloader, RetryPolicy, Source, Watcher
from tests.fetch import broken_server as broken
from tests.fetch.downloads import CONTENT, OTHER, QUICK, sha256


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
