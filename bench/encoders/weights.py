"""Weights of encoders on this machine: one folder an encoder, hashed, never fetched by a fit."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.encoders.declaration import EncoderDeclaration, declaration, hub_repository
from bench.encoders.folders import encoders_folder, stored_folder
from bench.errors import ConfigError, DataError
from bench.files import atomic_write, canonical_hash, file_hash, process_folder, write_json

MANIFEST = "encoder.json"
"""File of :class:`WeightsManifest` in an encoder's folder."""

CONFIG = "config.json"
"""Description of a hub model in its folder, as timm and transformers write it."""

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")
"""Weight files of a hub model, the first that is there."""


class WeightsManifest(BaseModel):
    """Where the weights in a folder came from.

    Attributes
    ----------
    encoder
        Name of the encoder.
    repository, revision
        On the hub; the revision is a commit where it was fetched, and ``local`` for a file that
        was added by hand.
    file, sha256
        Weight file in the folder.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    encoder: str
    repository: str
    revision: str
    file: str
    sha256: str


class StoredWeights(NamedTuple):
    """Weights of an encoder on this machine."""

    path: Path
    manifest: WeightsManifest


def stored_weights(encoder: str) -> StoredWeights | None:
    """Weights of an encoder on this machine; None where there are none.

    Raises
    ------
    DataError
        The folder is damaged: add or fetch the weights again.
    """
    folder = stored_folder(encoder)
    path = folder / MANIFEST
    if not path.exists():
        return None
    try:
        manifest = WeightsManifest.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise _damaged(encoder, path) from error
    plain = Path(manifest.file).name == manifest.file
    if not plain or manifest.encoder != encoder or not (folder / manifest.file).exists():
        raise _damaged(encoder, path)
    return StoredWeights(folder / manifest.file, manifest)


def checked_weights(encoder: str) -> Path:
    """Weight file of an encoder, after its hash has been compared.

    That of ``local-dir:PATH`` is the file in the folder.

    Raises
    ------
    ConfigError
        The weights are not on this machine; the message says how to get them.
    DataError
        The file is not the one that was stored.
    """
    local = local_folder(encoder)
    if local is not None:
        return _weight_file(local, declaration(encoder))
    stored = stored_weights(encoder)
    if stored is None:
        raise not_here(encoder, declaration(encoder))
    if weights_hash(stored.path) != stored.manifest.sha256:
        raise _damaged(encoder, stored.path)
    return stored.path


def weights_identity(encoder: str) -> dict[str, str]:
    """Repository, revision and hash of an encoder's stored weights, for keys.

    Those of ``local-dir:PATH`` are hashed each time.

    Raises
    ------
    ConfigError, DataError
        As :func:`checked_weights`; the content of stored weights is not read.
    """
    local = local_folder(encoder)
    if local is not None:
        return {"sha256": weights_hash(checked_weights(encoder))}
    stored = stored_weights(encoder)
    if stored is None:
        raise not_here(encoder, declaration(encoder))
    return stored.manifest.model_dump(include={"repository", "revision", "sha256"})


def local_folder(encoder: str) -> Path | None:
    """Folder of ``local-dir:PATH``; None for other names."""
    prefix, _, path = encoder.partition(":")
    return Path(path).expanduser() if prefix == "local-dir" else None


def weights_hash(path: Path) -> str:
    """SHA-256 of a weight file, or of the files of a snapshot by name.

    Raises
    ------
    DataError
        It cannot be read.
    """
    try:
        if not path.is_dir():
            return file_hash(path)
        found = sorted(part for part in path.rglob("*") if part.is_file())
        return canonical_hash([[str(part.relative_to(path)), file_hash(part)] for part in found])
    except FileNotFoundError:
        raise DataError(f"{path}: weight file is missing") from None
    except OSError as error:
        raise DataError(f"{path}: weight file cannot be read ({error.strerror})") from error


def not_here(encoder: str, of: EncoderDeclaration) -> ConfigError:
    """The error of weights that are not on this machine."""
    where = f"; access is asked for at {of.page}" if of.gated else ""
    return ConfigError(
        f"weights of encoder {encoder} are not on this machine; get them with"
        f" 'bench encoders get {encoder}', or copy the file and use"
        f" 'bench encoders add {encoder} FILE'{where}"
    )


def add_weights(
    encoder: str,
    source: Path,
    check: Callable[[EncoderDeclaration, Path], None],
    *,
    revision: str = "local",
    replace: bool = False,
) -> WeightsManifest:
    """Store a weight file, or a snapshot of a hub repository, as those of an encoder.

    Parameters
    ----------
    encoder
        Its name.
    source
        Weight file, or folder with the files of the repository.
    check
        Refuses a file that does not fit the declaration; called before anything is stored.
    revision
        Commit that the file came from.
    replace
        Replace weights that are stored already.

    Raises
    ------
    ConfigError
        There are weights already.
    DataError
        The file is missing or is not of this encoder.
    """
    if stored_folder(encoder).exists() and not replace:
        raise ConfigError(
            f"weights of encoder {encoder} are on this machine already; --replace replaces them"
        )
    encoders_folder().mkdir(parents=True, exist_ok=True)
    staged = process_folder(encoders_folder())
    try:
        of, file = _take(encoder, source, staged)
        check(of, staged / file)
        manifest = WeightsManifest(
            encoder=encoder,
            repository=of.repository,
            revision=revision,
            file=file,
            sha256=weights_hash(staged / file),
        )
        write_json(staged / MANIFEST, manifest.model_dump())
        if stored_folder(encoder).exists():
            shutil.rmtree(stored_folder(encoder))
        staged.rename(stored_folder(encoder))
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return manifest


def _take(encoder: str, source: Path, staged: Path) -> tuple[EncoderDeclaration, str]:
    """Copy what belongs to an encoder into a folder: its declaration, and the weights' name."""
    from bench.encoders.declaration import declarations, from_folder

    if not source.exists():
        raise DataError(f"{source}: no such file or folder")
    hub = hub_repository(encoder)
    folder = source if source.is_dir() else source.parent
    if hub is not None:
        of = from_folder(folder, encoder).model_copy(
            update={"repository": hub[0], "revision": hub[1]}
        )
        _copy(folder / CONFIG, staged / CONFIG)
    elif encoder.startswith("local-dir:"):
        raise ConfigError(f"encoder {encoder} is a folder on this machine; there is nothing to add")
    else:
        of = declarations().get(encoder) or declaration(encoder)
    if of.library == "remote":
        if not source.is_dir():
            raise DataError(f"{source}: encoder {encoder} needs the folder of its repository")
        for file in source.rglob("*"):
            inside = file.relative_to(source)
            if file.is_file() and not any(part.startswith(".") for part in inside.parts):
                _copy(file, staged / "snapshot" / inside)
        return of, "snapshot"
    file = source if source.is_file() else _weight_file(source, of)
    _copy(file, staged / file.name)
    return of, file.name


def _copy(source: Path, target: Path) -> None:
    with atomic_write(target) as temporary:
        shutil.copyfile(source, temporary)


def _weight_file(folder: Path, of: EncoderDeclaration) -> Path:
    for name in dict.fromkeys(name for name in (of.file, *WEIGHT_FILES) if name):
        if (folder / name).is_file():
            return folder / name
    raise DataError(f"{folder}: holds no weight file ({' or '.join(WEIGHT_FILES)})")


def _damaged(encoder: str, path: Path) -> DataError:
    return DataError(
        f"{path}: damaged; store the weights again with 'bench encoders get {encoder} --replace'"
        f" or 'bench encoders add {encoder} FILE --replace'"
    )
