"""Weights of encoders from the Hugging Face hub."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from bench.encoders.declaration import EncoderDeclaration, declaration, declarations, hub_repository
from bench.encoders.folders import encoders_folder
from bench.encoders.weights import (
    CONFIG,
    WEIGHT_FILES,
    WeightsManifest,
    add_weights,
)
from bench.errors import ConfigError, DataError
from bench.fetch.hub_errors import TOKEN, hub_reason

_Answer = TypeVar("_Answer")


def get_weights(
    encoder: str,
    check: Callable[[EncoderDeclaration, Path], None],
    *,
    token_env: str = TOKEN,
    revision: str | None = None,
    replace: bool = False,
) -> WeightsManifest:
    """Fetch the weights of an encoder once; an interrupted download is continued.

    Parameters
    ----------
    encoder
        A named encoder, ``timm:NAME`` or ``hf-hub:OWNER/NAME[@revision]``.
    check
        Refuses a file that does not fit the declaration.
    token_env
        Environment variable that holds the access token, for gated weights.
    revision
        Branch, tag or commit; that of the declaration where None.
    replace
        Replace weights that are stored already.

    Raises
    ------
    ConfigError
        The encoder has no repository, access has not been granted, there is no such revision or
        file, or the hub cannot be reached. Nothing is stored then.
    DataError
        The file is not of this encoder.
    """
    repository, wanted, names = _source(encoder)
    commit = _Hub(encoder, repository, revision or wanted, os.environ.get(token_env))
    folder = encoders_folder() / ".downloads" / repository.replace("/", "--")
    file = commit.download(names, folder)
    manifest = add_weights(encoder, file, check, revision=commit.commit, replace=replace)
    for part in (file, folder / CONFIG):  # the copy in the store is the one that is used
        part.unlink(missing_ok=True)
    return manifest


def _source(encoder: str) -> tuple[str, str, tuple[str, ...]]:
    """Repository, revision, and the files to fetch, of which one weight file is needed."""
    hub = hub_repository(encoder)
    if hub is not None:
        return (*hub, WEIGHT_FILES)
    of = declarations().get(encoder) or declaration(encoder)
    if of.library == "remote":
        raise ConfigError(
            f"encoder {encoder} runs code of its repository; look at that code, copy the repository"
            f" and use 'bench encoders add {encoder} FOLDER'"
        )
    if of.library == "torchvision":
        raise ConfigError(f"encoder {encoder} is fetched by torchvision when it is first used")
    if not of.repository:
        raise ConfigError(f"encoder {encoder} has no repository to fetch weights from")
    return of.repository, of.revision, (of.file,)


class _Hub:
    """One revision of a repository."""

    def __init__(self, encoder: str, repository: str, revision: str, token: str | None) -> None:
        from huggingface_hub import HfApi

        self._encoder, self._repository, self._revision = encoder, repository, revision
        self._api = HfApi(token=token or False)
        info = self._asked(lambda: self._api.model_info(repository, revision=revision))
        self.commit = info.sha or revision
        self._files = {part.rfilename for part in info.siblings or ()}

    def download(self, names: tuple[str, ...], folder: Path) -> Path:
        """The first of some files that the repository has, and ``config.json`` beside it."""
        name = next((name for name in names if name in self._files), None)
        if name is None:
            raise ConfigError(
                f"{self._repository} has no file {' or '.join(names)} at revision {self._revision}"
            )
        folder.mkdir(parents=True, exist_ok=True)
        if CONFIG in self._files:
            self._asked(partial(self._file, CONFIG, folder))
        return Path(self._asked(partial(self._file, name, folder)))

    def _file(self, name: str, folder: Path) -> str:
        return str(
            self._api.hf_hub_download(
                self._repository, name, revision=self.commit, local_dir=folder
            )
        )

    def _asked(self, question: Callable[[], _Answer]) -> _Answer:
        from huggingface_hub.errors import HfHubHTTPError

        page = f"https://huggingface.co/{self._repository}"
        try:
            return question()
        except Exception as error:  # errors of its HTTP library too, which differs by version
            if (
                isinstance(error, OSError)
                and not isinstance(error, HfHubHTTPError)
                and error.filename
            ):
                raise DataError(f"{error.filename}: {error.strerror}") from error
            raise ConfigError(
                f"weights of encoder {self._encoder} cannot be fetched:"
                f" {hub_reason(error, page, self._revision)}; on a machine without internet use"
                f" 'bench encoders add {self._encoder} FILE'"
            ) from error
