"""Overview of a dataset, section by section, without keeping sections in memory."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field
from itertools import starmap
from pathlib import Path
from typing import Any

import numpy as np

from bench.cache import JsonCache
from bench.data.card import DatasetCard, SectionCard
from bench.data.dataset import required_roles
from bench.data.features import LEFT_OUT
from bench.data.layouts import reader_hash
from bench.data.pitch import spot_pitch
from bench.data.section import block_names, parse_section
from bench.data.stored_files import is_stored, stored_state
from bench.errors import DataError
from bench.files import canonical_hash


@dataclass(frozen=True)
class SectionOverview:
    """One row of the table of ``bench data show``.

    Attributes
    ----------
    section, patient
        As the card names them.
    spots, genes
        Of the files where they are here, otherwise as the card says; None where neither knows.
    median_counts
        Median over spots of the spot's counts over all genes.
    pitch_pixels
        Distance of neighbouring spots, full-resolution pixels.
    micrometres_per_pixel
        As the card says, or from the pitch.
    labelled
        Spots with a label; None where the section has not been read.
    missing
        Roles whose files are missing.
    problem
        Reason why the section cannot be read, empty where it can.
    left_out
        What the reader left out: number by reason.
    """

    section: str
    patient: str
    spots: int | None = None
    genes: int | None = None
    median_counts: float | None = None
    pitch_pixels: float | None = None
    micrometres_per_pixel: float | None = None
    labelled: int | None = None
    missing: tuple[str, ...] = ()
    problem: str = ""
    left_out: Mapping[str, int] = field(default_factory=dict)


def summarize(
    card: DatasetCard, root: Path | None, sections: Sequence[str] | None = None
) -> list[SectionOverview]:
    """Overviews of a card's sections in its order, cached until a file changes.

    Parameters
    ----------
    card
        Card as it holds on this machine.
    root
        Data folder, None where there is none.
    sections
        Names; all where None.
    """
    chosen = [s for s in card.sections if sections is None or s.name in sections]
    if root is None:
        return [_unread(card, section, tuple(section.files)) for section in chosen]
    folder = canonical_hash(str(root.resolve()))
    known = _OVERVIEWS.get(folder, card.name) or {}
    keys = {section.name: _key(card, section, root) for section in chosen}
    new = [s for s in chosen if known.get(s.name, ("", None))[0] != keys[s.name]]
    # A card of its own for each, since a worker is sent all that it needs.
    calls = [(card.model_copy(update={"sections": (section,)}), root) for section in new]
    measured = {overview.section: overview for overview in _look_at_all(calls)}
    good = {name: (keys[name], one) for name, one in measured.items() if not one.problem}
    if good:
        content = {name: [key, asdict(one)] for name, (key, one) in {**known, **good}.items()}
        _OVERVIEWS.put(folder, content, card.name)
    return [measured.get(s.name) or known[s.name][1] for s in chosen]


_WORTH_A_PROCESS = 50


def _look_at_all(calls: Sequence[tuple[DatasetCard, Path]]) -> list[SectionOverview]:
    processes = min(os.cpu_count() or 1, len(calls) // _WORTH_A_PROCESS)
    if processes < 2:
        return list(starmap(_look, calls))
    with ProcessPoolExecutor(processes, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(_look, *zip(*calls, strict=True), chunksize=8))


def _unread(card: DatasetCard, section: SectionCard, missing: tuple[str, ...]) -> SectionOverview:
    return SectionOverview(
        section.name,
        section.patient,
        spots=section.spots,
        micrometres_per_pixel=card.scale(section),
        missing=missing,
    )


def _look(card: DatasetCard, root: Path) -> SectionOverview:
    """Overview of the one section of a card."""
    (section,) = card.sections
    missing, files = _present(section, root)
    plain = _unread(card, section, missing)
    if set(required_roles(section)) & set(missing):
        return plain
    try:
        return _measured(card, section, files, plain)
    except DataError as error:
        return SectionOverview(**{**asdict(plain), "problem": str(error)})


def _present(section: SectionCard, root: Path) -> tuple[tuple[str, ...], dict[str, Path]]:
    """Roles whose files are missing, and the files to read."""
    paths = {role: root / file.path for role, file in section.files.items()}
    missing = tuple(role for role, path in paths.items() if not is_stored(path))
    files = {r: path for r, path in paths.items() if r != "image" and r not in missing}
    return missing, files


def _key(card: DatasetCard, section: SectionCard, root: Path) -> str:
    """Hash of the state of the section's files, of its card and of its reader."""
    missing, files = _present(section, root)
    states = {role: stored_state(p) for role, p in files.items()}
    facts = [section.model_dump(mode="json"), card.scale(section), card.spot_pitch_micrometres]
    return canonical_hash([missing, facts, states, reader_hash(card.layout)])


def _measured(
    card: DatasetCard, section: SectionCard, files: dict[str, Path], plain: SectionOverview
) -> SectionOverview:
    adata = parse_section(card, section, files)
    block = block_names(adata, section)
    array_xy = adata.obs[["array_col", "array_row"]].to_numpy()
    try:
        pitch = spot_pitch(array_xy, np.asarray(adata.obsm["spatial"], dtype=np.float64))
    except DataError:
        pitch = None  # spots in one line: nothing else is wrong with them
    scale = plain.micrometres_per_pixel
    if scale is None and pitch is not None and card.spot_pitch_micrometres is not None:
        scale = card.spot_pitch_micrometres / pitch
    adata = adata[block]
    totals = np.asarray(adata.X.sum(axis=1), dtype=np.float64).ravel()
    return SectionOverview(
        section.name,
        section.patient,
        spots=adata.n_obs,
        genes=adata.n_vars,
        median_counts=float(np.median(totals)),
        pitch_pixels=pitch,
        micrometres_per_pixel=scale,
        labelled=int((adata.obs["label"].astype(str) != "").sum()),
        missing=plain.missing,
        left_out={str(reason): int(n) for reason, n in adata.uns.get(LEFT_OUT, {}).items()},
    )


def _decode(content: Any) -> dict[str, tuple[str, SectionOverview]]:
    """Key and overview by section."""
    return {
        name: (str(key), SectionOverview(**{**one, "missing": tuple(one["missing"])}))
        for name, (key, one) in content.items()
    }


_OVERVIEWS = JsonCache("overviews", _decode)
"""Overviews of a data folder's sections, one file a dataset and folder."""
