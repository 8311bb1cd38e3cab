"""Card for a folder of the user: its sections, and the assumptions that were made."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from bench.data.alignment import section_alignment
from bench.data.card import DatasetCard, first_fault, join_names
from bench.data.dataset import Dataset, open_dataset
from bench.data.folders import cards_folder
from bench.data.layouts import BUILT_IN, FoundSection, discover, find_layouts
from bench.data.pitch import spot_pitch
from bench.data.reading.parsing import read_table
from bench.data.section import Section
from bench.errors import DataError
from bench.files import atomic_write, file_hash, one_line

PATCH_MICROMETRES = 112.0
"""Edge of a patch: 224 px at 0.5 um a pixel, the field's usual choice."""

_LARGEST_PATCH = 4096


@dataclass(frozen=True)
class OwnDataset:
    """A dataset that was added.

    Attributes
    ----------
    card
        Its card.
    path
        Where the card was written.
    sections
        A line a section: spots, genes, scale, share of spots on tissue.
    shared_genes
        Genes that all sections hold.
    assumed
        Assumptions that were made, a line each.
    warnings
        Possible problems that the user should check, a line each.
    """

    card: DatasetCard
    path: Path
    sections: tuple[Mapping[str, Any], ...]
    shared_genes: int
    assumed: tuple[str, ...]
    warnings: tuple[str, ...]


def find_sections(folder: Path) -> tuple[str, list[FoundSection], list[str]]:
    """Sections in a folder, and the layout that they lie in.

    Parameters
    ----------
    folder
        Folder to look through.

    Returns
    -------
    tuple of str, list of FoundSection and list of str
        Name of the layout; its sections; layouts that could not be looked for, a line each.

    Raises
    ------
    DataError
        No such folder, no section, or sections of two layouts.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder")
    by_layout: dict[str, list[FoundSection]] = {}
    faults = []
    for name, layout in find_layouts().items():
        try:
            sections = discover(name, folder)
        except DataError as error:
            if layout.source == BUILT_IN:
                raise
            faults.append(str(error))
            continue
        if sections:
            by_layout[name] = sections
    if not by_layout:
        more = f"; {faults[0]}" if faults else ""
        raise DataError(
            f"{folder}: no section found; a Space Ranger folder, .h5ad files, or counts and spot"
            f" files of the legacy layout are needed (see docs/your-own-data.md){more}"
        )
    if len(by_layout) > 1:
        raise DataError(
            f"{folder}: holds sections of {join_names(by_layout)}; put each layout into a folder"
            " of its own"
        )
    name, sections = next(iter(by_layout.items()))
    names = [section.name for section in sections]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(f"{folder}: two sections would both be called {twice[0]}; rename a folder")
    return name, sections, faults


def read_patients(path: Path, sections: Sequence[str]) -> dict[str, str]:
    """Patient of each section, from a table with columns ``section`` and ``patient``.

    Raises
    ------
    DataError
        Not such a table; a section is missing, named twice, or unknown.
    """
    table = read_table(path, ["section", "patient"], separator=",", text=["section", "patient"])
    named = [name.strip() for name in table["section"]]
    patients = dict(zip(named, (name.strip() for name in table["patient"]), strict=True))
    if len(patients) != len(named):
        twice = next(name for name in named if named.count(name) > 1)
        raise DataError(f"{path}: section '{twice}' occurs more than once")
    missing = [name for name in sections if not patients.get(name)]
    if missing:
        raise DataError(f"{path}: names no patient of section {join_names(missing)}")
    unknown = [name for name in named if name not in sections]
    if unknown:
        raise DataError(
            f"{path}: names section {join_names(unknown)}, which was not found; found are"
            f" {join_names(sections)}"
        )
    return patients


def add_dataset(
    folder: Path,
    name: str,
    patients: Path,
    taken: Sequence[str],
    *,
    pitch: float | None = None,
    patch: float | None = None,
    replace: bool = False,
) -> OwnDataset:
    """Check a folder of sections and write a card for it.

    Every section is read, and its spots are compared with the tissue of its image, before anything
    is written.

    Parameters
    ----------
    folder
        Folder of the sections; it stays where it is.
    name
        Name of the dataset.
    patients
        See :func:`read_patients`.
    taken
        Names of other datasets.
    pitch
        Micrometres from spot to spot; the layout's usual ones where None.
    patch
        Edge of a patch in micrometres; 112 where None.
    replace
        Overwrite a card of that name.

    Raises
    ------
    DataError
        No sections, a section that cannot be read, no gene in common, a name that is taken.
    """
    path = cards_folder() / f"{name}.yaml"
    if name in taken or (path.is_file() and not replace):
        more = "" if name in taken else " or add --replace"
        raise DataError(f"a dataset called '{name}' is there already; choose another name{more}")
    layout, discovered, faults = find_sections(folder)
    whose = read_patients(patients, [section.name for section in discovered])
    card = _card(folder, name, layout, discovered, whose, pitch)
    dataset = open_dataset(card, images=False)
    lines, scales, warnings = [], [], [*faults]
    shared: set[str] | None = None
    for section in discovered:
        read = Dataset.section(_with_image(dataset, section), section.name)
        line, said = _look_at(read)
        lines.append(line)
        warnings += said
        scales.append(read.micrometres_per_pixel)
        genes = set(read.adata.var_names)
        shared = genes if shared is None else shared & genes
    if not shared:
        raise DataError(f"{folder}: the sections have no gene in common")
    edge = (patch or PATCH_MICROMETRES) / float(np.median(scales))
    if not 8 <= edge <= _LARGEST_PATCH:
        raise DataError(
            f"a patch of {patch or PATCH_MICROMETRES:g} um would be {edge:.0f} px; 8 to"
            f" {_LARGEST_PATCH} px can be cut, choose another size with --patch"
        )
    card = card.model_copy(update={"patch_pixels": round(edge)})
    _write(card, path)
    assumed = [f"{section.name}: {one}" for section in discovered for one in section.assumed]
    if pitch is None:
        assumed.append(
            f"{card.spot_pitch_micrometres:g} um from spot to spot, as layout {layout} has"
        )
    assumed.append(
        f"a patch is {patch or PATCH_MICROMETRES:g} um, {card.patch_pixels} px at"
        f" {np.median(scales):.3f} um a pixel"
    )
    if max(scales) > 1.05 * min(scales):
        warnings.append(
            f"scales differ between sections ({min(scales):.3f} to {max(scales):.3f} um a pixel);"
            f" ask for patches in micrometres with --set patch_size={PATCH_MICROMETRES:g}um"
        )
    if len(set(whose.values())) == 1:
        warnings.append("all sections are of one patient; protocol strict needs two")
    return OwnDataset(card, path, tuple(lines), len(shared), tuple(assumed), tuple(warnings))


def _card(
    folder: Path,
    name: str,
    layout: str,
    discovered: Sequence[FoundSection],
    whose: Mapping[str, str],
    pitch: float | None,
) -> DatasetCard:
    root = folder.resolve()
    sections = [
        {
            "name": section.name,
            "patient": re.sub(r"[^A-Za-z0-9_.-]+", "-", whose[section.name]),
            "image_scale": section.image_scale,
            "files": {
                role: {
                    "path": path.resolve().relative_to(root).as_posix(),
                    "hash": f"sha256:{file_hash(path)}",
                    "size": path.stat().st_size,
                }
                for role, path in section.files.items()
            },
        }
        for section in discovered
    ]
    try:
        return DatasetCard.model_validate(
            {
                "name": name,
                "title": f"{len(discovered)} sections of {len(set(whose.values()))} patients",
                "citation": "not published",
                "licence": "the owner's",
                "platform": f"as layout {layout} assumes",
                "tissue": "not stated",
                "source": str(root),
                "folder": str(root),
                "layout": layout,
                "patch_pixels": 224,
                "spot_pitch_micrometres": pitch or discovered[0].spot_pitch_micrometres,
                "spot_diameter_micrometres": discovered[0].spot_diameter_micrometres,
                "max_image_pixels": _IMAGE_CEILING,
                "sections": sections,
            }
        )
    except ValidationError as error:
        raise DataError(f"{folder}: {first_fault(error)}") from error
    except ValueError as error:  # a link to a file outside the folder
        raise DataError(f"{folder}: {one_line(error)}") from error


_IMAGE_CEILING = 4_000_000_000


def _with_image(dataset: Dataset, section: FoundSection) -> Dataset:
    if "image" not in section.files:
        return dataset
    return open_dataset(dataset.card, names=[section.name])


def _look_at(section: Section) -> tuple[dict[str, Any], list[str]]:
    adata = section.adata
    totals = np.asarray(adata.X.sum(axis=1)).ravel()
    array_xy = adata.obs[["array_col", "array_row"]].to_numpy()
    line: dict[str, Any] = {
        "section": section.name,
        "patient": section.patient,
        "spots": adata.n_obs,
        "genes": adata.n_vars,
        "counts": float(np.median(totals)),
        "pitch": spot_pitch(array_xy, section.spatial),
        "um/px": section.micrometres_per_pixel,
        "on tissue": None,
    }
    warnings = []
    if section.dropped_spots:
        warnings.append(f"{section.name}: {section.dropped_spots} spots lie outside the image")
    alignment = section_alignment(section)
    if alignment is not None:
        line["on tissue"] = alignment.share_on_tissue
        if alignment.warning:
            warnings.append(f"{section.name}: {alignment.warning}")
    return line, warnings


def _write(card: DatasetCard, path: Path) -> None:
    content = card.model_dump(mode="json", exclude_defaults=True)
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, width=100), encoding="utf-8")
