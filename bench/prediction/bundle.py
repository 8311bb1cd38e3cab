"""Model bundles: one file from which a stored run predicts on another machine."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.data.card import DatasetCard, FileCard, InsidePath, first_fault, read_card
from bench.encoders.declaration import declaration
from bench.errors import BenchError, DataError
from bench.fetch.archives import DAMAGE, copy_bounded, extract
from bench.files import atomic_write, file_hash, one_line
from bench.method import Precision
from bench.method_references import is_own
from bench.prediction.stored_models import FittedFold, StoredModel
from bench.prediction.training_images import TrainingImages, TrainingPatches, same_file
from bench.registry import find_methods, load_method
from bench.store import RUN, RunFolder
from bench.stored_runs import StoredRun
from bench.version import __version__

if TYPE_CHECKING:
    from bench.method import Context, MethodConfig

SUFFIX = ".spotbench"
CONTENT = "bundle.json"
_CARD = "card.yaml"
_REFERENCE = "training.npz"
_FORMAT = 1
_LARGEST_CONTENT = 256 << 20
_CODE = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".py"}
"""Endings of files that may hold code, which no method saves."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


_IMAGE_HASH = r"^(sha256|git-blob|md5):[0-9a-f]+$"


class _File(_Part):
    hash: str = Field(pattern="^sha256:[0-9a-f]{64}$")
    size: int = Field(ge=0)


class _BundledFit(_Part):
    name: str
    folder: InsidePath
    config: dict[str, Any]
    panel: tuple[str, ...] = Field(min_length=1)
    sections: tuple[str, ...]
    precision: Precision


class BundleContent(_Part):
    """What a bundle says of itself.

    Attributes
    ----------
    format
        Of bundles; another one is refused.
    spotbench
        Version that wrote it.
    key, method, label, dataset, protocol
        Key of the run, its method, and where it stood in tables.
    licence, citation
        Of the dataset.
    encoder
        Name, licence and citation of the image encoder, whose weights are not in the bundle.
    done
        Folds whose scores are in it.
    fits
        Fits whose predictions are averaged.
    scales, images
        Micrometres a pixel, and SHA-256 of the images by section, of the training.
    files
        Hash and size of every other member.
    """

    format: Literal[1]
    spotbench: str
    key: str
    method: str
    label: str
    dataset: str
    protocol: str
    licence: str
    citation: str
    encoder: dict[str, str]
    done: tuple[int, ...]
    fits: tuple[_BundledFit, ...] = Field(min_length=1)
    scales: tuple[float, ...]
    images: dict[str, Annotated[str, Field(pattern=_IMAGE_HASH)]]
    files: dict[InsidePath, _File]


@dataclass(frozen=True)
class BundledImages(TrainingImages):
    """What a bundle knows of the training images, which it does not hold.

    Attributes
    ----------
    content, known
        The bundle's own account, and what new patches are compared with.
    """

    content: BundleContent = field(kw_only=True)
    known: TrainingPatches = field(kw_only=True)

    def scales(self) -> list[float]:
        """Micrometres a full-resolution pixel of the training sections."""
        return list(self.content.scales)

    def section_with(self, image: Path) -> str | None:
        """Name of the training section that has this very image."""
        return same_file(image, self.content.images)

    def reference(
        self, model: StoredModel, config: MethodConfig, context: Context
    ) -> TrainingPatches:
        """What new patches are compared with."""
        return self.known


def write_bundle(
    path: Path, model: StoredModel, images: TrainingImages, reference: TrainingPatches
) -> None:
    """Write a model with its scores into one zip file; no expression and no image goes with it.

    Parameters
    ----------
    path
        File that is written, replaced if it exists.
    model
        The fits.
    images, reference
        Training images, and what new ones are compared with.

    Raises
    ------
    BenchError
        The method is a file of the user's own, or has saved what may hold code.
    """
    facts = model.run.facts
    if facts["method"] not in find_methods():
        raise BenchError(f"{model.label} is a method of a file, which a bundle does not hold")
    folder = model.run.folder.path
    members: dict[str, Path | bytes] = {RUN: folder / RUN, _CARD: _card_text(images.card)}
    for index in model.run.done:
        for name in ("genes.parquet", "scores.parquet"):
            members[f"fold-{index}/{name}"] = folder / f"fold-{index}" / name
    fits = []
    for number, fit in enumerate(model.fits):
        for file in sorted(path for path in fit.folder.rglob("*") if path.is_file()):
            name = file.relative_to(fit.folder).as_posix()
            if file.suffix.lower() in _CODE:
                raise BenchError(f"{model.label}: {name} of {fit.name} may hold code")
            members[f"fits/{number}/{name}"] = file
        told = {"name": fit.name, "folder": f"fits/{number}", "config": dict(fit.config)}
        fits.append(
            {**told, "panel": fit.panel, "sections": fit.sections, "precision": fit.precision}
        )
    members[_REFERENCE] = _as_bytes(reference)
    stated = {name: images.image_hash(name) or "" for name in model.sections}
    known = {name: of for name, of in stated.items() if re.match(_IMAGE_HASH, of)}
    content = {
        "format": _FORMAT,
        "spotbench": __version__,
        **{name: str(facts[name]) for name in ("key", "method", "label", "dataset", "protocol")},
        "licence": images.card.licence,
        "citation": images.card.citation,
        "encoder": _encoder(model.fits[0].config),
        "done": model.run.done,
        "fits": fits,
        "scales": images.scales(),
        "images": known,
        "files": {name: _described(of) for name, of in members.items()},
    }
    text = json.dumps(BundleContent.model_validate(content).model_dump(mode="json"), indent=2)
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(CONTENT, text, zipfile.ZIP_DEFLATED)
        for name, member in members.items():
            if isinstance(member, bytes):
                archive.writestr(name, member, zipfile.ZIP_DEFLATED)
            else:
                archive.write(member, name, zipfile.ZIP_DEFLATED)


@contextmanager
def open_bundle(path: Path) -> Iterator[tuple[StoredModel, BundledImages]]:
    """Model of a bundle, unpacked for as long as the context lasts, and its training images.

    Raises
    ------
    DataError
        No bundle, one of another format, a member that differs from its hash, lies outside of the
        bundle or is missing, or a method that is not installed.
    """
    content = read_content(path)
    with TemporaryDirectory(prefix="spotbench-bundle-") as name:
        root = Path(name)
        faults: list[str] = []
        cards = [
            FileCard(path=member, member=member, hash=file.hash, size=file.size)
            for member, file in content.files.items()
        ]

        def told(file: FileCard, fault: str | None) -> None:
            if fault:
                faults.append(f"{file.path}: {fault}")

        extract(path, cards, root, told)
        if faults:
            raise DataError(f"{path}: {faults[0]}; the bundle is damaged or was changed")
        yield _opened(path, root, content)


def read_content(path: Path) -> BundleContent:
    """What a bundle says of itself.

    Raises
    ------
    DataError
        It cannot be read, or is of another format.
    """
    try:
        with zipfile.ZipFile(path) as archive, archive.open(CONTENT) as stream:
            text = io.BytesIO()
            copy_bounded(stream, text, _LARGEST_CONTENT)
        found = json.loads(text.getvalue())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such bundle") from error
    except (KeyError, *DAMAGE, OSError) as error:
        raise DataError(f"{path}: is no model bundle ({one_line(error, 80)})") from error
    if isinstance(found, dict) and found.get("format") != _FORMAT:
        raise DataError(
            f"{path}: bundle of format {one_line(found.get('format'), 20)}, written by spotbench"
            f" {one_line(found.get('spotbench'), 20)}; this one reads format {_FORMAT}"
        )
    try:
        return BundleContent.model_validate(found)
    except ValidationError as error:
        raise DataError(f"{path}: {CONTENT}: {first_fault(error, found)}") from error


def _opened(path: Path, root: Path, content: BundleContent) -> tuple[StoredModel, BundledImages]:
    try:
        facts = json.loads((root / RUN).read_text(encoding="utf-8"))
        reference = _from_bytes((root / _REFERENCE).read_bytes())
        card = read_card(root / _CARD)
        for name in ("key", "label", "seed", "preset", "rules", "dataset", "protocol", "method"):
            facts[name]
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{path}: its members are incomplete ({one_line(error, 80)})") from error
    kind = load_method(_installed(content.method))
    run = StoredRun(RunFolder(root, facts["key"]), facts, content.done)
    fits = tuple(
        FittedFold(**{**fit.model_dump(), "folder": root / fit.folder}) for fit in content.fits
    )
    return StoredModel(run, kind, fits), BundledImages(
        card, tuple(content.images), None, reference.reason, content=content, known=reference
    )


def _installed(name: str) -> str:
    """Name of a method that is no path: a bundle names no file that is then imported."""
    if is_own(name):
        raise DataError(f"bundle of method '{one_line(name, 40)}', which is a file")
    return name


def _encoder(config: Any) -> dict[str, str]:
    name = config.get("encoder")
    if not isinstance(name, str):
        return {}
    of = declaration(name)
    return {"name": name, "licence": of.licence, "citation": of.citation}


def _card_text(card: DatasetCard) -> bytes:
    content = card.model_dump(mode="json", exclude_defaults=True)
    text: str = yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
    return text.encode()


def _described(member: Path | bytes) -> dict[str, Any]:
    if isinstance(member, bytes):
        return {"hash": f"sha256:{hashlib.sha256(member).hexdigest()}", "size": len(member)}
    return {"hash": f"sha256:{file_hash(member)}", "size": member.stat().st_size}


def _as_bytes(reference: TrainingPatches) -> bytes:
    stream = io.BytesIO()
    statistics = reference.statistics or [np.empty((0, 8))]
    described: dict[str, Any] = {
        f"section {number}": part for number, part in enumerate(reference.described)
    }
    np.savez(
        stream,
        what=np.array(reference.what),
        reason=np.array(reference.reason),
        groups=np.array(reference.groups, dtype=np.str_),
        statistics=np.concatenate(statistics),
        **described,
    )
    return stream.getvalue()


def _from_bytes(content: bytes) -> TrainingPatches:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        groups = [str(name) for name in arrays["groups"]]
        described = [np.asarray(arrays[f"section {number}"]) for number in range(len(groups))]
        statistics = np.asarray(arrays["statistics"])
        return TrainingPatches(
            [statistics] if len(statistics) else [],
            described,
            str(arrays["what"]),
            groups,
            str(arrays["reason"]),
        )
