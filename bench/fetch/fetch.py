"""Download of the missing files of a dataset."""

from __future__ import annotations

import difflib
import re
import shutil
from collections.abc import Mapping, Sequence
from glob import escape
from pathlib import Path, PurePosixPath

from filelock import FileLock

from bench.data.card import DatasetCard, FileCard
from bench.data.dataset import local_card
from bench.data.folders import download_folder, has_addresses, is_here
from bench.data.lock import Entry, locked
from bench.errors import DataError
from bench.fetch.archives import LIMITS, Limits, extract
from bench.fetch.download import (
    DEFAULT_POLICY,
    Downloader,
    RetryPolicy,
    Source,
    Watcher,
)
from bench.fetch.hub import fetch_from_hub
from bench.fetch.listing import read_listing
from bench.fetch.lock import entry_of, write_lock
from bench.fetch.outcome import ByHand, Outcome, PackedFiles
from bench.fetch.verify import (
    Wanted,
    chosen_sections,
    published_panel_file,
    survey,
    wanted_files,
)
from bench.files import one_line

DOWNLOADS = ".downloads"
"""Folder in a data folder for archives until their members are extracted."""

_TEMPORARY = re.compile(r"-[0-9a-f]{32}$")


def fetch_dataset(
    card: DatasetCard,
    root: Path,
    *,
    sections: Sequence[str] = (),
    force: bool = False,
    keep_archives: bool = False,
    policy: RetryPolicy = DEFAULT_POLICY,
    limits: Limits = LIMITS,
    watcher: Watcher | None = None,
) -> Outcome:
    """Download the missing files of a dataset.

    Files that exist and match the card are kept, so a call continues where an earlier one ended.
    A second process with the same data folder waits for the first. A file that cannot be
    downloaded does not affect the others.

    Parameters
    ----------
    card
        The dataset.
    root
        Its data folder, created if missing.
    sections
        Sections whose files are fetched, all where none is named.
    force
        Download again files that exist but do not match the card.
    keep_archives
        Keep archives in the folder ``.downloads`` after their members are extracted.
    policy, limits
        Limits on time and on sizes.
    watcher
        Receives the progress.

    Returns
    -------
    Outcome
        Files downloaded, kept, failed, and to download manually.

    Raises
    ------
    UnknownNameError
        The card has no such section.
    DataError
        The data folder cannot be used, the disk is too full, or the lock file is damaged.
    """
    chosen_sections(card, sections)
    if card.hub is not None:
        return fetch_from_hub(card, root, sections=sections, force=force, watcher=watcher)
    fetching = _Fetching(card, root, force, keep_archives, policy, limits, watcher or Watcher())
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


def fetch_if_absent(
    card: DatasetCard, data_root: Path | None, watcher: Watcher | None = None
) -> None:
    """Download a dataset that has no file on this machine.

    Parameters
    ----------
    card
        The dataset.
    data_root
        Folder that the user names; nothing is downloaded into it.
    watcher
        Receives the progress.

    Raises
    ------
    DataError
        A file could not be downloaded; the message says how to continue.
    """
    if data_root is not None or is_here(card, None) or not has_addresses(card):
        return
    root = download_folder(card, None)
    watcher = watcher or Watcher()
    watcher.note(f"{card.name} is not on this machine; it is fetched into {root}")
    outcome = fetch_dataset(card, root, watcher=watcher)
    if outcome.complete:
        return
    said = []
    if outcome.failed:
        path, fault = next(iter(outcome.failed.items()))
        said.append(
            f"{len(outcome.failed)} of its files could not be fetched (first {path}: {fault});"
            f" 'bench data get {card.name}' continues the download, or put the files of"
            f" {card.source} into {root}"
        )
    needed = [file for file in outcome.by_hand if file.needed]
    if needed:
        rest = f", and {len(needed) - 1} more that 'bench data get {card.name}' lists"
        more = rest if needed[1:] else ""
        said.append(
            f"{needed[0].how} cannot be fetched by a program: put it at {needed[0].put}{more}"
        )
    if outcome.fetched and not outcome.failed:
        said.append("the same call again runs on the sections that are complete")
    raise DataError(f"{card.name}: {'; '.join(said)}")


class _Fetching:
    """One call of :func:`fetch_dataset`."""

    def __init__(
        self,
        card: DatasetCard,
        root: Path,
        force: bool,
        keep_archives: bool,
        policy: RetryPolicy,
        limits: Limits,
        watcher: Watcher,
    ) -> None:
        self._card = card
        self._root = root
        self._force = force
        self._keep_archives = keep_archives
        self._limits = limits
        self._watcher = watcher
        self._downloader = Downloader(policy, limits, watcher)
        self._listing: dict[str, list[Source]] | None = None
        self.outcome = Outcome()

    def note(self, message: str) -> None:
        """Send a message to the watcher."""
        self._watcher.note(message)

    def get(self, wanted: Mapping[str, Wanted]) -> None:
        """Download the wanted files that are missing."""
        todo = self._absent(wanted)
        if not todo:
            return
        self._root.mkdir(parents=True, exist_ok=True)
        own = self._root.resolve()
        for path in todo:
            if not (self._root / path).parent.resolve().is_relative_to(own):
                raise DataError(
                    f"{self._root / path}: a link leads out of the data folder; nothing is fetched"
                    " there"
                )
        guard = FileLock(self._root / ".spotbench-get.lock")
        if _is_taken(guard):
            self._watcher.note(f"waiting for another download into {self._root}")
        with guard:
            # What another process has fetched meanwhile is there now.
            again = survey({path: wanted.file for path, wanted in todo.items()}, self._root)
            self.outcome.kept += again.good
            self._fetch({path: of for path, of in todo.items() if path not in again.good})

    def _absent(self, wanted: Mapping[str, Wanted]) -> dict[str, Wanted]:
        result = survey({path: of.file for path, of in wanted.items()}, self._root)
        self.outcome.kept += result.good
        todo = set(result.missing)
        for path, fault in result.wrong.items():
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
        for pack in archives:
            self._members(pack)

    def _source(self, file: FileCard, needed: bool) -> Source | None:
        """Source of a file; None, with an entry in the outcome, where there is none."""
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
        """Read the server's list of files, if any of the files needs it."""
        url = self._card.listing
        files = [self._card.archives[file.archive] if file.archive else file for file in files]
        asking = {file.path for file in files if not file.url and not _is_by_hand(file)}
        if url is None or not asking or self._listing is not None:
            return
        try:
            self._listing = read_listing(self._downloader, url)
        except DataError as error:
            fault = str(error).removeprefix(url).lstrip(": ")
            self.outcome.failed[url] = f"{fault}; {len(asking)} files are to be looked up there"

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

    def _archives(self, packed: Mapping[str, list[Wanted]]) -> list[PackedFiles]:
        """Archives of the wanted members, except those without a source."""
        archives = []
        for name, members in packed.items():
            archive = self._card.archives[name]
            parked = archive.model_copy(update={"path": f"{DOWNLOADS}/{archive.path}"})
            result = survey([archive, parked], self._root)
            source = None
            place = next(iter(result.good), parked.path)
            if not result.good:
                if archive.path in result.wrong and not self._force:
                    self._wrong(archive, result.wrong[archive.path])
                    continue
                source = self._source(archive, any(wanted.needed for wanted in members))
                if source is None:
                    continue
            files = [wanted.file for wanted in members]
            archives.append(PackedFiles(archive, files, self._root / place, source))
        return archives

    def _check_room(
        self, direct: Mapping[str, tuple[FileCard, Source]], archives: Sequence[PackedFiles]
    ) -> None:
        asked = [*direct.values(), *((a.archive, a.source) for a in archives if a.source)]
        coming = [_size_on_the_way(file, source) for file, source in asked]
        lying = [file.size or source.size for file, source in asked]
        lying += [member.size for pack in archives for member in pack.members]
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
        """Lock a file whose card states no hash."""
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

    def _members(self, pack: PackedFiles) -> None:
        archive, source = pack.archive, pack.source
        if source is not None:
            self._watcher.started(archive.path)
            fault = self._try(archive, source, pack.place)
            self._watcher.ended(archive.path, fault)
            if fault is not None:
                fault += f"; {len(pack.members)} files are members of it"
                self.outcome.failed[archive.path] = fault
                return
        self._extract(pack)
        if pack.place.is_relative_to(self._root / DOWNLOADS) and not self._keep_archives:
            pack.place.unlink(missing_ok=True)

    def _extract(self, pack: PackedFiles) -> None:
        members, url = pack.members, pack.source.url if pack.source else pack.archive.url
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
            extract(pack.place, members, self._root, tell, self._limits)
        except DataError as error:
            fault = f"{error}; {len(members) - heard} files of it are missing"
            self.outcome.failed[pack.archive.path] = fault
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
    """Remove temporary files of a killed download; the caller holds the folder's lock."""
    for path in target.parent.glob(f".{escape(target.stem)}-*{escape(target.suffix)}"):
        if _TEMPORARY.search(path.stem):
            path.unlink(missing_ok=True)
