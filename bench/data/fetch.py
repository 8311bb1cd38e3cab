"""Fetching the files of a dataset: over HTTP, checked before they get their names."""

from __future__ import annotations

import difflib
import gzip
import hashlib
import io
import re
import shutil
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from glob import escape
from pathlib import Path, PurePosixPath
from typing import IO, Annotated, Any, cast
from urllib.parse import urljoin, urlsplit

import requests
import urllib3
from filelock import FileLock
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_exponential

from bench import __version__
from bench.data.archives import LIMITS, Limits, copy_bounded, extract
from bench.data.card import DatasetCard, FileCard, first_fault
from bench.data.dataset import local_card
from bench.data.lock import Entry, compare, entry_of, locked, write_lock
from bench.data.verify import Wanted, chosen_sections, published_panel_file, survey, wanted_files
from bench.errors import DataError
from bench.files import atomic_write, one_line

DOWNLOADS = ".downloads"
"""Folder in a data folder for archives until their members are taken out."""

_REDIRECTS = 10
_PASSING = {408, 425, 429, 500, 502, 503, 504}
_MAX_LISTING = 32 << 20
_TEMPORARY = re.compile(r"-[0-9a-f]{32}$")


@dataclass(frozen=True)
class Patience:
    """How long a server is waited for.

    Attributes
    ----------
    connect, read
        Seconds to connect in, and seconds without a byte.
    slowest
        Bytes a second; a server that stays below for `read` seconds counts as stalled.
    attempts
        Times that a file is asked for when its server or the line fails.
    pause, longest_pause
        Seconds before the second attempt, doubled for each further one, and their limit.
    """

    connect: float = 20.0
    read: float = 60.0
    slowest: float = 100.0
    attempts: int = 5
    pause: float = 1.0
    longest_pause: float = 60.0


PATIENCE = Patience()


class Watcher:
    """Is told how a download goes; does nothing by itself."""

    def planned(self, files: int, size: int | None) -> None:
        """So many files are to be fetched, of so many bytes together, None where unknown."""

    def started(self, path: str) -> None:
        """A file is asked for."""

    def received(self, size: int) -> None:
        """So many bytes have come; negative where an attempt has failed after as many."""

    def ended(self, path: str, fault: str | None) -> None:
        """A file is there, or is not and why."""

    def note(self, message: str) -> None:
        """Something a person should know."""


@dataclass(frozen=True)
class ByHand:
    """A file that a person has to get: how, the path to put it at, whether it is needed."""

    path: str
    how: str
    put: str
    needed: bool


@dataclass
class Outcome:
    """What a download left behind.

    Attributes
    ----------
    fetched, kept
        Paths of files that came, and of those that were there already.
    failed
        Path, or address, to what is wrong.
    by_hand
        Files that no address gives.
    """

    fetched: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    by_hand: list[ByHand] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether every file that is needed is there, and no other has failed."""
        return not self.failed and not any(file.needed for file in self.by_hand)


class _PassingError(DataError):
    """A fault of the line or the server that another attempt may not meet."""


class _UnreachableError(_PassingError):
    """No connection to a server."""


class _UnlikeError(DataError):
    """What came is not what the card says; one more attempt is worth while."""


@dataclass(frozen=True)
class Source:
    """Where a file comes from, and what its server's list says of what it sends."""

    url: str
    sha256: str | None = None
    size: int | None = None


class _Session(requests.Session):
    """Follows no redirect by itself: requests would read the body of each to its end."""

    def __init__(self) -> None:
        super().__init__()
        # Files are wanted as they lie on the server, not packed for the way.
        self.headers.update(
            {"User-Agent": f"spotbench/{__version__}", "Accept-Encoding": "identity"}
        )

    def get_redirect_target(self, resp: requests.Response) -> str | None:
        return None


class _Body(io.RawIOBase):
    """Body of an answer, with bounds on its size and on how slowly it comes."""

    def __init__(
        self,
        response: requests.Response,
        source: Source,
        limit: int,
        patience: Patience,
        received: Callable[[int], None],
    ) -> None:
        self._raw = response.raw
        self._source = source
        self._patience = patience
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
        if seconds > self._patience.read:
            if self._window < self._patience.slowest * seconds:
                raise _PassingError(f"{self._source.url} stalls")
            self._since, self._window = time.monotonic(), 0

    def check(self) -> None:
        """Compare what has come with the server's list."""
        size, sha256 = self._source.size, self._source.sha256
        if size is not None and self.taken < size:
            raise _PassingError(f"{self._source.url} sent {self.taken:,} of {size:,} bytes")
        if sha256 and self._digest.hexdigest() != sha256:
            found = self._digest.hexdigest()
            raise _UnlikeError(
                f"{self._source.url} sent hash sha256:{found}, its list says sha256:{sha256}"
            )


class Downloader:
    """Fetches single files.

    Parameters
    ----------
    patience
        How long servers are waited for.
    limits
        How many bytes a file may have, and how far packed ones are followed.
    watcher
        Is told of each block of bytes.
    """

    def __init__(
        self,
        patience: Patience = PATIENCE,
        limits: Limits = LIMITS,
        watcher: Watcher | None = None,
    ) -> None:
        self._patience = patience
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
                body = _Body(response, Source(url), _MAX_LISTING, self._patience, lambda n: None)
                copy_bounded(cast("IO[bytes]", body), content, _MAX_LISTING)
            try:
                return parse(content.getvalue())
            except ValidationError as error:
                raise _UnlikeError(f"{url}: not a list of files ({first_fault(error)})") from error

        return self._persist(url, attempt)

    def _persist(self, url: str, attempt: Callable[[], Any]) -> Any:
        server = url.split("/")[2] if _is_web_address(url) else url
        attempts = 1 if server in self._unreachable else self._patience.attempts
        unlike = 0

        def worth_another(error: BaseException) -> bool:
            nonlocal unlike
            unlike += isinstance(error, _UnlikeError)
            return isinstance(error, _PassingError) or (
                isinstance(error, _UnlikeError) and unlike < 2
            )

        patience = self._patience
        retrying = Retrying(
            retry=retry_if_exception(worth_another),
            stop=stop_after_attempt(attempts),
            wait=wait_exponential(multiplier=patience.pause, max=patience.longest_pause),
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
                body = _Body(response, source, on_the_way, self._patience, self._watcher.received)
                with open(temporary, "wb") as stream:
                    if file.unpack == "gzip":
                        self._unzip(body, stream, limit, source.url)
                    else:
                        copy_bounded(cast("IO[bytes]", body), stream, limit)
                body.check()
                _, fault = compare(file, temporary)
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
                asked = _joined(asked, response.headers["Location"])
                continue
            message = f"{asked} answers {status} {one_line(response.reason or '', 60)}".rstrip()
            raise _PassingError(message) if status in _PASSING else DataError(message)
        raise DataError(f"{url} redirects more than {_REDIRECTS} times")

    def _ask(self, url: str) -> requests.Response:
        timeouts = (self._patience.connect, self._patience.read)
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
    """What a chain of errors began with, which is what a person can act on."""
    reason: BaseException = error
    while (deeper := reason.__cause__ or reason.__context__) is not None:
        reason = deeper
    return one_line(f"{type(reason).__name__}: {reason}", 120)


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Details(_Answer):
    sha256_hash: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
    size: Annotated[int, Field(ge=0)] | None = None
    download_url: Annotated[str, Field(pattern=r"^https?://", max_length=4000)]


class _Listed(_Answer):
    filename: Annotated[str, Field(min_length=1, max_length=1000)]
    size: Annotated[int, Field(ge=0)] | None = None
    content_details: _Details


class _Listing(_Answer):
    files: list[_Listed]


_LISTING: TypeAdapter[list[_Listed] | _Listing] = TypeAdapter(list[_Listed] | _Listing)


def read_listing(downloader: Downloader, url: str) -> dict[str, list[Source]]:
    """Files of a server's list by name; a name may stand for several.

    Parameters
    ----------
    downloader
        Fetches the list.
    url
        Address of JSON as Mendeley Data gives it: a list of ``filename`` and ``content_details``
        (``sha256_hash``, ``size``, ``download_url``), bare or under ``files``.

    Raises
    ------
    DataError
        The list cannot be had, or is none.
    """
    answer = downloader.read(url, _LISTING.validate_json)
    found: dict[str, list[Source]] = {}
    for item in answer if isinstance(answer, list) else answer.files:
        details = item.content_details
        size = item.size if details.size is None else details.size
        source = Source(details.download_url, details.sha256_hash.lower(), size)
        if source not in found.setdefault(item.filename, []):
            found[item.filename].append(source)
    return found


def fetch_dataset(
    card: DatasetCard,
    root: Path,
    *,
    sections: Sequence[str] = (),
    force: bool = False,
    keep_archives: bool = False,
    patience: Patience = PATIENCE,
    limits: Limits = LIMITS,
    watcher: Watcher | None = None,
) -> Outcome:
    """Fetch the files of a dataset that are not there yet.

    What is there and right is kept, so that a call picks up where another ended. A second
    process with the same data folder waits for the first. One file that cannot be had leaves
    the others alone.

    Parameters
    ----------
    card
        The dataset.
    root
        Its data folder, made where it is missing.
    sections
        Sections whose files are fetched, all where none is named.
    force
        Fetch again what is there but wrong.
    keep_archives
        Leave archives in the folder ``.downloads`` after taking members out.
    patience, limits
        Bounds on time, and on sizes.
    watcher
        Is told how it goes.

    Returns
    -------
    Outcome
        What came, was there, failed, and is left for a person to get.

    Raises
    ------
    UnknownNameError
        The card has no such section.
    DataError
        The data folder cannot be used, the disk is too full, or the lock file is damaged.
    """
    chosen_sections(card, sections)
    fetching = _Fetching(card, root, force, keep_archives, patience, limits, watcher or Watcher())
    try:
        here = locked(card, root)
        if here.index is not None:
            fetching.get({here.index.path: Wanted(here.index, True)})
            if not fetching.outcome.complete:
                fetching.note(f"{here.index.path} names the other files; they were not looked for")
                return fetching.outcome
        here = local_card(card, root)
        wanted = wanted_files(here, sections)
        panel = published_panel_file(here)
        if panel is not None and panel.url:
            wanted.setdefault(panel.path, Wanted(panel, False))
        fetching.get(wanted)
    except OSError as error:
        place = error.filename or root
        raise DataError(f"{place}: {error.strerror or error}; name another --data-root") from error
    return fetching.outcome


class _Fetching:
    """One call of :func:`fetch_dataset`."""

    def __init__(
        self,
        card: DatasetCard,
        root: Path,
        force: bool,
        keep_archives: bool,
        patience: Patience,
        limits: Limits,
        watcher: Watcher,
    ) -> None:
        self._card = card
        self._root = root
        self._force = force
        self._keep_archives = keep_archives
        self._limits = limits
        self._watcher = watcher
        self._downloader = Downloader(patience, limits, watcher)
        self._listing: dict[str, list[Source]] | None = None
        self.outcome = Outcome()

    def note(self, message: str) -> None:
        """Tell whoever watches."""
        self._watcher.note(message)

    def get(self, wanted: Mapping[str, Wanted]) -> None:
        """Fetch those of the wanted files that are not there."""
        todo = self._absent(wanted)
        if not todo:
            return
        self._root.mkdir(parents=True, exist_ok=True)
        guard = FileLock(self._root / ".spotbench-get.lock")
        if _is_taken(guard):
            self._watcher.note(f"waiting for another download into {self._root}")
        with guard:
            # What another process has fetched meanwhile is there now.
            again = survey({path: wanted.file for path, wanted in todo.items()}, self._root)
            self.outcome.kept += again.good
            self._fetch({path: of for path, of in todo.items() if path not in again.good})

    def _absent(self, wanted: Mapping[str, Wanted]) -> dict[str, Wanted]:
        found = survey({path: of.file for path, of in wanted.items()}, self._root)
        self.outcome.kept += found.good
        todo = set(found.missing)
        for path, fault in found.wrong.items():
            if self._force:
                todo.add(path)
            else:
                self._wrong(wanted[path].file, fault)
        return {path: of for path, of in wanted.items() if path in todo}

    def _wrong(self, file: FileCard, fault: str) -> None:
        mend = "get it again by hand" if _is_by_hand(file) else "--force fetches it again"
        self.outcome.failed[file.path] = f"{fault}; {mend}"

    def _fetch(self, todo: Mapping[str, Wanted]) -> None:
        direct: dict[str, tuple[FileCard, Source]] = {}
        packed: dict[str, list[Wanted]] = {}
        self._look_up([wanted.file for wanted in todo.values()])
        for path, wanted in todo.items():
            file = wanted.file
            if file.archive is not None:
                packed.setdefault(file.archive, []).append(wanted)
            else:
                source = self._source(file, wanted.needed)
                if source is not None:
                    direct[path] = (file, source)
        archives = self._archives(packed)
        self._check_room(direct, archives)
        for path, (file, source) in direct.items():
            self._one(path, file, source)
        for name, (members, archive_source) in archives.items():
            self._members(name, members, archive_source)

    def _source(self, file: FileCard, needed: bool) -> Source | None:
        """Where a file comes from; None, and noted in the outcome, where nothing gives it."""
        try:
            if file.url:
                return Source(file.url)
            if _is_by_hand(file):
                put = str(self._root / file.path)
                self.outcome.by_hand.append(
                    ByHand(file.path, one_line(file.by_hand or "", 1000), put, needed)
                )
                return None
            if self._card.listing:
                return self._listed(file, self._card.listing) if self._listing is not None else None
            url = self._card.url(file)
            if url is None:
                raise DataError("the card names no address for it, nor how to get it by hand")
            return Source(url)
        except DataError as error:
            self.outcome.failed[file.path] = str(error)
            return None

    def _look_up(self, files: Sequence[FileCard]) -> None:
        """Read the server's list of files, where one of the files is to be looked up there."""
        url = self._card.listing
        files = [self._card.archives[file.archive] if file.archive else file for file in files]
        asking = {file.path for file in files if not file.url and not _is_by_hand(file)}
        if url is None or not asking or self._listing is not None:
            return
        try:
            self._listing = read_listing(self._downloader, url)
        except DataError as error:
            self.outcome.failed[url] = f"{error}; {len(asking)} files are to be looked up there"

    def _listed(self, file: FileCard, url: str) -> Source:
        listing = self._listing or {}
        name = PurePosixPath(file.path).name
        names = [name, f"{name}.gz"] if file.unpack == "gzip" else [name]
        sources = [source for n in names for source in listing.get(n, [])]
        if not sources:
            near = difflib.get_close_matches(name, list(listing), n=3, cutoff=0.5)
            offer = f"; nearest are {', '.join(near)}" if near else ""
            raise DataError(one_line(f"{url} lists no file '{name}'{offer}", 400))
        if len(sources) > 1:
            raise DataError(f"{url} lists different files '{name}'")
        return sources[0]

    def _archives(
        self, packed: Mapping[str, list[Wanted]]
    ) -> dict[str, tuple[list[FileCard], Source | None]]:
        """Members by archive, with the archive's address; None where it is there already."""
        archives: dict[str, tuple[list[FileCard], Source | None]] = {}
        for name, members in packed.items():
            archive = self._card.archives[name]
            files = [wanted.file for wanted in members]
            if self._place(archive) is not None:
                archives[name] = (files, None)
                continue
            wrong = survey([archive], self._root).wrong.get(archive.path)
            if wrong and not self._force:
                self._wrong(archive, wrong)
                continue
            source = self._source(archive, any(wanted.needed for wanted in members))
            if source is not None:
                archives[name] = (files, source)
        return archives

    def _place(self, archive: FileCard) -> Path | None:
        """Where an archive lies, if it is there and right."""
        for path in (archive.path, self._parked(archive)):
            if survey([archive.model_copy(update={"path": path})], self._root).good:
                return self._root / path
        return None

    @staticmethod
    def _parked(archive: FileCard) -> str:
        return f"{DOWNLOADS}/{PurePosixPath(archive.path).name}"

    def _check_room(
        self,
        direct: Mapping[str, tuple[FileCard, Source]],
        archives: Mapping[str, tuple[list[FileCard], Source | None]],
    ) -> None:
        whole = {self._card.archives[n]: source for n, (_, source) in archives.items() if source}
        coming = [_size_on_the_way(file, source) for file, source in direct.values()]
        coming += [_size_on_the_way(file, source) for file, source in whole.items()]
        lying = [file.size or source.size for file, source in direct.values()]
        lying += [file.size or source.size for file, source in whole.items()]
        lying += [member.size for members, _ in archives.values() for member in members]
        needed = sum(size or 0 for size in lying)
        free = shutil.disk_usage(self._root).free
        if needed > free:
            raise DataError(
                f"{self._root}: {needed:,} bytes are to be fetched, but the disk has {free:,} free;"
                " make room, or fetch some --sections"
            )
        known = [size for size in coming if size is not None]
        self._watcher.planned(len(coming), sum(known) if len(known) == len(coming) else None)

    def _one(self, path: str, file: FileCard, source: Source) -> None:
        self._watcher.started(path)
        fault = self._try(file, source, self._root / path)
        if fault is None:
            fault = self._keep(file, source.url)
        self._end(path, fault)

    def _try(self, file: FileCard, source: Source, target: Path) -> str | None:
        try:
            _sweep(target)
            self._downloader.fetch(source, file, target)
        except DataError as error:
            return str(error)
        except OSError as error:
            return f"cannot be written ({error.strerror or error})"
        return None

    def _keep(self, file: FileCard, url: str) -> str | None:
        """Lock a file that nothing but this download says anything of."""
        if file.hash is not None:
            return None
        try:
            write_lock(self._root, {file.path: entry_of(self._root / file.path, url)})
        except (OSError, DataError) as error:
            return f"fetched, but its hash cannot be kept ({one_line(error)})"
        return None

    def _end(self, path: str, fault: str | None) -> None:
        if fault is None:
            self.outcome.fetched.append(path)
        else:
            self.outcome.failed[path] = fault
        self._watcher.ended(path, fault)

    def _members(self, name: str, members: list[FileCard], source: Source | None) -> None:
        archive = self._card.archives[name]
        place = self._place(archive) if source is None else self._root / self._parked(archive)
        if place is None:
            self._end(archive.path, "is gone since it was looked at")
            return
        if source is not None:
            self._watcher.started(archive.path)
            fault = self._try(archive, source, place)
            self._watcher.ended(archive.path, fault)
            if fault is not None:
                fault += f"; {len(members)} files are members of it"
                self.outcome.failed[archive.path] = fault
                return
        self._extract(archive, place, members, source.url if source else archive.url)
        if place.parent.name == DOWNLOADS and not self._keep_archives:
            place.unlink(missing_ok=True)

    def _extract(
        self, archive: FileCard, place: Path, members: list[FileCard], url: str | None
    ) -> None:
        told: dict[str, Entry] = {}
        heard = 0

        def tell(file: FileCard, fault: str | None) -> None:
            nonlocal heard
            heard += 1
            if fault is None and file.hash is None:
                told[file.path] = entry_of(self._root / file.path, url)
            self._end(file.path, fault)

        try:
            for file in members:
                _sweep(self._root / file.path)
            extract(place, members, self._root, tell, self._limits)
        except DataError as error:
            fault = f"{error}; {len(members) - heard} files of it are missing"
            self.outcome.failed[archive.path] = fault
        finally:
            if told:
                write_lock(self._root, told)


def _is_taken(guard: FileLock) -> bool:
    """Whether another process holds a lock at this moment."""
    try:
        with guard.acquire(blocking=False):
            return False
    except TimeoutError:
        return True


def _is_by_hand(file: FileCard) -> bool:
    return file.by_hand is not None and file.url is None


def _size_on_the_way(file: FileCard, source: Source) -> int | None:
    return source.size if file.size is None or file.unpack else file.size


def _sweep(target: Path) -> None:
    """Remove what a killed download left beside a file; the folder's lock is held."""
    for path in target.parent.glob(f".{escape(target.stem)}-*{escape(target.suffix)}"):
        if _TEMPORARY.search(path.stem):
            path.unlink(missing_ok=True)
