"""Bundles in repositories on Hugging Face."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeVar

from bench.errors import BenchError, DataError
from bench.fetch.hub_errors import TOKEN, hub_reason
from bench.files import atomic_write, one_line
from bench.prediction.bundle import SUFFIX, check_bundle, open_bundle
from bench.prediction.model_card import CARD_FILE, model_card

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo

LARGEST = 10 << 30
"""Bytes of the largest bundle that is fetched."""

BUNDLE = f"model{SUFFIX}"
"""Name of a bundle in a repository that this package has written."""

_REPOSITORY = re.compile(
    r"(?P<name>[\w.-]{1,96}/[\w.-]{1,96})(@(?P<revision>[\w./-]{1,200}))?", re.ASCII
)
_Answer = TypeVar("_Answer")
_FETCHED, _WRITTEN = "cannot be fetched", "cannot be written"


@dataclass(frozen=True)
class HubRepository:
    """A revision of a model repository.

    Attributes
    ----------
    name
        ``OWNER/REPO``.
    revision
        Branch, tag or commit.
    """

    name: str
    revision: str = "main"

    @property
    def page(self) -> str:
        """Address of its page."""
        return f"https://huggingface.co/{self.name}"


def hub_repository(reference: str) -> HubRepository:
    """Repository and revision of ``OWNER/REPO[@REVISION]``.

    Raises
    ------
    BenchError
        It is written otherwise.
    """
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    found = _REPOSITORY.fullmatch(reference)
    try:
        if found is None:
            raise HFValidationError("one owner and one name are needed")
        validate_repo_id(found["name"])
    except HFValidationError:
        raise BenchError(
            f"'{one_line(reference, 80)}' names no repository; write OWNER/REPO or"
            " OWNER/REPO@REVISION"
        ) from None
    return HubRepository(found["name"], found["revision"] or "main")


def push_bundle(path: Path, repository: str, *, private: bool = False) -> str:
    """Upload a bundle with a model card in one commit; the repository is made if it is missing.

    Parameters
    ----------
    path
        Bundle, which is checked first.
    repository
        ``OWNER/REPO``.
    private
        Whether a new repository is private.

    Returns
    -------
    str
        Address of the commit.

    Raises
    ------
    BenchError
        No bundle, no such name, or the hub refuses or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    target = hub_repository(repository)
    if "@" in repository:
        raise BenchError(f"{repository}: a bundle is pushed to the main branch; leave @ out")
    text = card_of(path, target.name)
    api = HfApi()
    operations = [
        CommitOperationAdd(BUNDLE, str(path)),
        CommitOperationAdd(CARD_FILE, text.encode()),
    ]

    def upload() -> str:
        api.create_repo(target.name, private=private or None, exist_ok=True)
        message = f"Upload {path.stem}"
        done = api.create_commit(target.name, operations, commit_message=message)
        return str(done.commit_url)

    if not _token():
        raise BenchError(
            f"{target.name}: no access token; make one that may write at"
            f" https://huggingface.co/settings/tokens and set {TOKEN} to it"
        )
    return _asked(target, upload, _WRITTEN)


def write_card(path: Path, repository: str, folder: Path) -> Path:
    """Write the model card that a push would upload; nothing is sent.

    Parameters
    ----------
    path, repository
        See :func:`push_bundle`.
    folder
        Where ``README.md`` is written.
    """
    text = card_of(path, hub_repository(repository).name)
    place = folder / CARD_FILE
    try:
        with atomic_write(place) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{place}: cannot be written ({error.strerror})") from error
    return place


def card_of(path: Path, repository: str) -> str:
    """Model card of a bundle.

    Raises
    ------
    DataError
        As :func:`bench.prediction.bundle.open_bundle`.
    """
    with open_bundle(path) as (model, images):
        return model_card(model, images, repository)


def pull_bundle(reference: str, out: Path) -> None:
    """Fetch a bundle of a repository into a file, which is complete and checked or absent.

    Parameters
    ----------
    reference
        ``OWNER/REPO`` or ``OWNER/REPO@REVISION``.
    out
        File that is written, replaced if it exists.

    Raises
    ------
    BenchError
        No such repository, revision or access; no bundle in it, one that is too large or one that
        is damaged; or a file that cannot be written.
    """
    if out.suffix != SUFFIX:
        raise BenchError(f"--out {out}: the name of a bundle ends in {SUFFIX}")
    if out.is_dir():
        raise BenchError(f"--out {out}: is a folder")
    repository = hub_repository(reference)
    try:
        with atomic_write(out) as temporary, TemporaryDirectory(dir=out.parent) as folder:
            _checked(repository, _downloaded(repository, Path(folder))).replace(temporary)
    except OSError as error:
        raise DataError(
            f"{out}: cannot be written ({one_line(error.strerror or error)})"
        ) from error


def downloaded_bundle(reference: str) -> Path:
    """A bundle of a repository in the cache of huggingface_hub, fetched where it is missing.

    Raises
    ------
    BenchError
        As :func:`pull_bundle`.
    """
    repository = hub_repository(reference)
    return _checked(repository, _downloaded(repository, None))


def _checked(repository: HubRepository, path: Path) -> Path:
    try:
        check_bundle(path)
    except DataError as error:
        raise DataError(str(error).replace(str(path), f"{repository.page}: {path.name}")) from error
    return path


def _downloaded(repository: HubRepository, folder: Path | None) -> Path:
    from huggingface_hub import HfApi

    api = HfApi()
    info = _asked(
        repository,
        lambda: api.model_info(repository.name, revision=repository.revision, files_metadata=True),
        _FETCHED,
    )
    name, size = _bundle_of(repository, info)
    path = Path(
        _asked(
            repository,
            lambda: _fetch(api, repository.name, name, info.sha or repository.revision, folder),
            _FETCHED,
        )
    )
    if path.stat().st_size != size:
        raise DataError(
            f"{repository.page}: {name} has {path.stat().st_size:,} bytes, not {size:,}"
        )
    return path


def _fetch(api: HfApi, repository: str, name: str, commit: str, folder: Path | None) -> str:
    return str(api.hf_hub_download(repository, name, revision=commit, local_dir=folder))


def _bundle_of(repository: HubRepository, info: ModelInfo) -> tuple[str, int]:
    """Name and size of the bundle of a repository."""
    names = {part.rfilename: part.size for part in info.siblings or ()}
    bundles = [name for name in names if name.endswith(SUFFIX) and "/" not in name]
    name = BUNDLE if BUNDLE in bundles else bundles[0] if len(bundles) == 1 else None
    if name is None:
        many = f"{len(bundles)} bundles and no {BUNDLE}" if bundles else f"no file *{SUFFIX}"
        raise DataError(f"{repository.page}: holds {many} at revision {repository.revision}")
    size = int(names[name] or 0)
    if size > LARGEST:
        raise DataError(
            f"{repository.page}: {name} has {size / 1e9:.1f} GB; at most {LARGEST / 1e9:.1f} GB"
            " are fetched"
        )
    return name, size


def _token() -> str | None:
    """Token of the environment or of ``hf auth login``."""
    from huggingface_hub import get_token

    return get_token()


def _asked(repository: HubRepository, question: Callable[[], _Answer], what: str) -> _Answer:
    from huggingface_hub.errors import HfHubHTTPError

    try:
        return question()
    except Exception as error:  # errors of its HTTP library too, which differs by version
        is_local = isinstance(error, OSError) and not isinstance(error, HfHubHTTPError)
        if is_local and getattr(error, "filename", None):
            raise DataError(f"{error.filename}: {error.strerror}") from error  # type: ignore[attr-defined]
        reason = _reason(error, repository, writing=what == _WRITTEN)
        raise DataError(f"{repository.name} {what}: {reason}") from error


def _reason(error: Exception, repository: HubRepository, *, writing: bool) -> str:
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    status = getattr(getattr(error, "response", None), "status_code", None)
    if isinstance(error, RepositoryNotFoundError) and not isinstance(error, GatedRepoError):
        return f"{repository.page} does not exist, or is private and {TOKEN} gives no access"
    if writing and status in (401, 403):
        return f"the token of {TOKEN} may not write to {repository.page}"
    return hub_reason(error, repository.page, repository.revision)
