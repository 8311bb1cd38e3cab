"""Download of single files over HTTP from servers that may fail, stall or send other content."""

from __future__ import annotations

import gzip
import hashlib
import io
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Any, cast
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from pydantic import ValidationError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from bench.data.card import FileCard
from bench.errors import DataError
from bench.faults import first_fault
from bench.fetch.archives import LIMITS, Limits, copy_bounded
from bench.files import atomic_write, one_line
from bench.version import __version__

_REDIRECTS = 10
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_MAX_LISTING = 32 << 20


@dataclass(frozen=True)
class RetryPolicy:
    """Time limits and retries of a download.

    Attributes
    ----------
    connect, read
        Seconds allowed to connect, and seconds allowed without a byte.
    slowest
        Bytes a second; a server that stays below for `read` seconds counts as stalled.
    attempts
        Attempts to download a file when its server or the connection fails.
    pause, longest_pause
        Seconds before the second attempt, doubled for each further one, and their limit.
    """

    connect: float = 20.0
    read: float = 60.0
    slowest: float = 100.0
    attempts: int = 5
    pause: float = 1.0
    longest_pause: float = 60.0


DEFAULT_POLICY = RetryPolicy()


class Watcher:
    """Receiver of the progress of downloads; this base class ignores it."""

    def planned(self, files: int, size: int | None) -> None:
        """Number of files to fetch, and their total bytes, None where unknown."""

    def started(self, path: str) -> None:
        """Download of a file starts."""

    def received(self, size: int) -> None:
        """Bytes received; negative to take back those of a failed attempt."""

    def ended(self, path: str, fault: str | None) -> None:
        """Download of a file ended: None as fault where it is complete."""

    def note(self, message: str) -> None:
        """Message for the user."""


class _PassingError(DataError):
    """A temporary fault of the connection or the server; the download is retried."""


class _UnreachableError(_PassingError):
    """No connection to a server."""


class _UnlikeError(DataError):
    """The content differs from the card; the download is retried once."""


@dataclass(frozen=True)
class Source:
    """Address of a file, and its hash and size according to the server's list."""

    url: str
    sha256: str | None = None
    size: int | None = None


class _Session(requests.Session):
    """Session that follows no redirects: requests would read the whole body of each."""

    def __init__(self) -> None:
        super().__init__()
        # No compression in transit: the hash is that of the file on the server.
        self.headers.update(
            {"User-Agent": f"spotbench/{__version__}", "Accept-Encoding": "identity"}
        )

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


class _Body(io.RawIOBase):
    """Body of a response, with limits on its size and slowness."""

    def __init__(
        self,
        response: requests.Response,
        source: Source,
        limit: int,
        policy: RetryPolicy,
        received: Callable[[int], None],
    ) -> None:
        self._raw = response.raw
        self._source = source
        self._policy = policy
        self._received = received
        self._digest = hashlib.sha256()
        self._since, self._window = time.monotonic(), 0
        self.taken = 0
        announced = response.headers.get("Content-Length", "")
        self._announced = int(announced) if announced.isdecimal() and len(announced) < 20 else None
        self._limit = limit = min(limit, limit if source.size is None else source.size)
        if self._announced is not None and self._announced > limit:
            raise _UnlikeError(
                f"{source.url} announces {self._announced:,} bytes, not at most {limit:,}"
            )
        coding = response.headers.get("Content-Encoding", "identity").lower()
        # Some servers call the compression of a .gz file an encoding of its way.
        zipped = urlsplit(response.url).path.endswith((".gz", ".tgz"))
        if coding not in {"", "identity"} and not zipped:
            raise DataError(f"{source.url} is sent compressed, though that was not asked for")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            # read1 gives what has come; read would wait for a slow server to fill the buffer.
            block = self._raw.read1(len(buffer), decode_content=False) or b""
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise _PassingError(f"{self._source.url} broke off ({one_line(error)})") from error
        self.taken += len(block)
        if self.taken > self._limit or self.taken > (self._announced or self.taken):
            expected = min(self._limit, self._announced or self._limit)
            raise DataError(f"{self._source.url} sends more than the expected {expected:,} bytes")
        self._check_speed(len(block))
        if self._source.sha256:
            self._digest.update(block)
        self._received(len(block))
        buffer[: len(block)] = block
        return len(block)

    def _check_speed(self, size: int) -> None:
        self._window += size
        seconds = time.monotonic() - self._since
        if seconds > self._policy.read:
            if self._window < self._policy.slowest * seconds:
                raise _PassingError(f"{self._source.url} stalls")
            self._since, self._window = time.monotonic(), 0

    def check(self) -> None:
        """Compare size and hash of the content with the server's list."""
        size, sha256 = self._source.size, self._source.sha256
        if size is not None and self.taken < size:
            raise _PassingError(f"{self._source.url} sent {self.taken:,} of {size:,} bytes")
        if sha256 and self._digest.hexdigest() != sha256:
            actual = self._digest.hexdigest()
            raise _UnlikeError(
                f"{self._source.url} sent hash sha256:{actual}, its list says sha256:{sha256}"
            )


class Downloader:
    """Fetches single files.

    Parameters
    ----------
    policy
        Time limits and retries.
    limits
        How many bytes a file may have, and how far packed ones are followed.
    watcher
        Is told of each block of bytes.
    """

    def __init__(
        self,
        policy: RetryPolicy = DEFAULT_POLICY,
        limits: Limits = LIMITS,
        watcher: Watcher | None = None,
    ) -> None:
        self._policy = policy
        self._limits = limits
        self._watcher = watcher or Watcher()
        self._session = _Session()
        # Asked once only: without a network each of hundreds of files would wait out its pauses.
        self._unreachable: set[str] = set()

    def fetch(self, source: Source, file: FileCard, target: Path) -> None:
        """Fetch a file, compare it with its card, then give it its name.

        Parameters
        ----------
        source
            Where it comes from.
        file
            What is known of it; ``unpack`` is done on the way.
        target
            Its final name, which stays as it is where anything goes wrong.

        Raises
        ------
        DataError
            The address is none of HTTP, the server does not give the file, or gives another, or
            the disk does not take it.
        """
        try:
            self._persist(source.url, lambda: self._attempt(source, file, target))
        except OSError as error:
            raise DataError(f"{target} cannot be written ({error.strerror or error})") from error

    def read(self, url: str, parse: Callable[[bytes], Any]) -> Any:
        """What `parse` makes of a small answer; its ValidationError counts as a faulty answer.

        Raises
        ------
        DataError
            The server does not give it, or `parse` refuses it twice.
        """

        def attempt() -> Any:
            content = io.BytesIO()
            with self._answer(url) as response:
                body = _Body(response, Source(url), _MAX_LISTING, self._policy, lambda n: None)
                copy_bounded(cast("IO[bytes]", body), content, _MAX_LISTING)
            try:
                return parse(content.getvalue())
            except ValidationError as error:
                raise _UnlikeError(f"{url}: not a list of files ({first_fault(error)})") from error

        return self._persist(url, attempt)

    def _persist(self, url: str, attempt: Callable[[], Any]) -> Any:
        server = url.split("/")[2] if _is_web_address(url) else url
        attempts = 1 if server in self._unreachable else self._policy.attempts
        unlike = 0

        def worth_another(error: BaseException) -> bool:
            nonlocal unlike
            unlike += isinstance(error, _UnlikeError)
            return isinstance(error, _PassingError) or (
                isinstance(error, _UnlikeError) and unlike < 2
            )

        policy = self._policy
        retrying = Retrying(
            retry=retry_if_exception(worth_another),
            stop=stop_after_attempt(attempts),
            wait=wait_exponential(multiplier=policy.pause, max=policy.longest_pause),
            reraise=True,
        )
        try:
            answer = retrying(attempt)
        except _PassingError as error:
            if isinstance(error, _UnreachableError):
                self._unreachable.add(server)
            times = f"; tried {attempts} times" if attempts > 1 else ""
            raise DataError(f"{error}{times}") from error
        self._unreachable.discard(server)
        return answer

    def _attempt(self, source: Source, file: FileCard, target: Path) -> None:
        body: _Body | None = None
        limit = self._limits.size if file.size is None else file.size
        on_the_way = self._limits.size if file.unpack else limit
        if source.size is None and not file.unpack:
            source = replace(source, size=file.size)
        try:
            with self._answer(source.url) as response, atomic_write(target) as temporary:
                body = _Body(response, source, on_the_way, self._policy, self._watcher.received)
                with open(temporary, "wb") as stream:
                    if file.unpack == "gzip":
                        self._unzip(body, stream, limit, source.url)
                    else:
                        copy_bounded(cast("IO[bytes]", body), stream, limit)
                body.check()
                _, fault = file.compare(temporary)
                if fault:
                    raise _UnlikeError(f"{source.url} gives {fault}")
        except BaseException:
            if body is not None:
                self._watcher.received(-body.taken)
            raise

    def _unzip(self, body: _Body, target: IO[bytes], limit: int, where: str) -> None:
        try:
            with gzip.GzipFile(fileobj=io.BufferedReader(body)) as content:
                source = cast("IO[bytes]", content)
                copy_bounded(source, target, limit, lambda: body.taken, self._limits)
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise _UnlikeError(f"{where} gives damaged gzip data ({one_line(error)})") from error

    def _answer(self, url: str) -> requests.Response:
        """Answer of a server with its body still to be read; redirects are followed."""
        asked = url
        for _ in range(_REDIRECTS + 1):
            if not _is_web_address(asked):
                via = "" if asked == url else f", which {url} sends to,"
                raise DataError(f"{one_line(asked)}{via} is no address of http or https")
            response = self._ask(asked)
            status = response.status_code
            if status == 200:
                return response
            response.close()
            if status in {301, 302, 303, 307, 308} and "Location" in response.headers:
                target = _joined(asked, response.headers["Location"])
                if asked.startswith("https:") and target.startswith("http:"):
                    raise DataError(
                        f"{one_line(asked)} sends to {one_line(target)}, which is not encrypted"
                    )
                asked = target
                continue
            message = f"{asked} answers {status} {one_line(response.reason or '', 60)}".rstrip()
            raise _PassingError(message) if status in _PASSING else DataError(message)
        raise DataError(f"{url} redirects more than {_REDIRECTS} times")

    def _ask(self, url: str) -> requests.Response:
        timeouts = (self._policy.connect, self._policy.read)
        try:
            return self._session.get(url, stream=True, timeout=timeouts, allow_redirects=False)
        except requests.ReadTimeout as error:
            raise _PassingError(f"{url} does not answer in time") from error
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _UnreachableError(f"{url} cannot be reached ({_innermost(error)})") from error
        except (requests.RequestException, urllib3.exceptions.HTTPError, ValueError) as error:
            raise DataError(f"{one_line(url)} cannot be asked for ({one_line(error)})") from error


def _is_web_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return parts.scheme in {"http", "https"} and bool(parts.netloc)


def _joined(url: str, location: str) -> str:
    try:
        # Headers are read as Latin-1, while servers send UTF-8 where they send more than ASCII.
        return urljoin(url, location.encode("latin-1", "replace").decode("utf-8", "replace"))
    except ValueError:
        return location


def _innermost(error: BaseException) -> str:
    """First error of a chain, the one that a user can act on."""
    reason: BaseException = error
    while (deeper := reason.__cause__ or reason.__context__) is not None:
        reason = deeper
    return one_line(f"{type(reason).__name__}: {reason}", 120)
