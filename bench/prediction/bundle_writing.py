"""Writing of model bundles: one file, or the members in a folder."""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from bench.data.card import DatasetCard
from bench.encoders.declaration import declaration
from bench.errors import BenchError
from bench.files import atomic_write, file_hash
from bench.prediction.bundle import CARD, CONTENT, FORMAT, IMAGE_HASH, REFERENCE, BundleContent
from bench.prediction.stored_models import StoredModel
from bench.prediction.training_images import TrainingImages, TrainingPatches
from bench.registry import find_methods
from bench.store import RUN
from bench.version import __version__

_CODE = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt", ".joblib", ".py"}
"""Endings of files that may hold code, which no method saves."""


@dataclass(frozen=True)
class BundleMembers:
    """What a bundle holds.

    Attributes
    ----------
    content
        Its own account.
    members
        Files, or their bytes, by name.
    """

    content: BundleContent
    members: dict[str, Path | bytes]

    @property
    def text(self) -> str:
        """Its own account as JSON."""
        return json.dumps(self.content.model_dump(mode="json"), indent=2)


def bundle_members(
    model: StoredModel,
    images: TrainingImages,
    reference: TrainingPatches,
    folders: Sequence[str] = (),
) -> BundleMembers:
    """What a bundle of a model holds; no expression and no image is among it.

    Parameters
    ----------
    model
        The fits, and the run with the folds whose scores are told.
    images, reference
        Training images, and what new ones are compared with.
    folders
        Folder of each fit in the bundle; empty: numbers.

    Raises
    ------
    BenchError
        The method is a file of the user's own, or has saved what may hold code.
    """
    facts = model.run.facts
    if facts["method"] not in find_methods():
        raise BenchError(f"{model.label} is a method of a file, which a bundle does not hold")
    folder = model.run.folder.path
    members: dict[str, Path | bytes] = {RUN: folder / RUN, CARD: _card_text(images.card)}
    for index in model.run.done:
        for name in ("genes.parquet", "scores.parquet"):
            members[f"fold-{index}/{name}"] = folder / f"fold-{index}" / name
    fits = []
    names = list(folders) or [f"fits/{number}" for number in range(len(model.fits))]
    for fit, place in zip(model.fits, names, strict=True):
        for file in sorted(path for path in fit.folder.rglob("*") if path.is_file()):
            name = file.relative_to(fit.folder).as_posix()
            if file.suffix.lower() in _CODE:
                raise BenchError(f"{model.label}: {name} of {fit.name} may hold code")
            members[f"{place}/{name}"] = file
        told = {"name": fit.name, "folder": place, "config": dict(fit.config)}
        fits.append(
            {**told, "panel": fit.panel, "sections": fit.sections, "precision": fit.precision}
        )
    members[REFERENCE] = _as_bytes(reference)
    stated = {name: images.image_hash(name) or "" for name in model.sections}
    known = {name: of for name, of in stated.items() if re.match(IMAGE_HASH, of)}
    content = {
        "format": FORMAT,
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
    return BundleMembers(BundleContent.model_validate(content), members)


def write_bundle(
    path: Path, model: StoredModel, images: TrainingImages, reference: TrainingPatches
) -> None:
    """Write a model with its scores into one zip file; no expression and no image goes with it.

    Parameters
    ----------
    path
        File that is written, replaced if it exists.
    model, images, reference
        See :func:`bundle_members`.

    Raises
    ------
    BenchError
        As :func:`bundle_members`.
    """
    bundle = bundle_members(model, images, reference)
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        archive.writestr(CONTENT, bundle.text, zipfile.ZIP_DEFLATED)
        for name, member in bundle.members.items():
            if isinstance(member, bytes):
                archive.writestr(name, member, zipfile.ZIP_DEFLATED)
            else:
                archive.write(member, name, zipfile.ZIP_DEFLATED)


def write_members(folder: Path, bundle: BundleMembers, left_out: str) -> None:
    """Write the members of a bundle into a folder.

    Parameters
    ----------
    folder
        The folder.
    bundle
        What is written.
    left_out
        Beginning of the names of members that somebody else writes.
    """
    for name, member in {CONTENT: bundle.text.encode(), **bundle.members}.items():
        if name.startswith(left_out):
            continue
        with atomic_write(folder / name) as temporary:
            temporary.write_bytes(member if isinstance(member, bytes) else member.read_bytes())


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
