"""Card for a folder of the user: its sections, and the assumptions that were made."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from pydantic import ValidationError

from bench.data.card import FEWEST_BLOCKS, DatasetCard, SectionCard, join_names
from bench.data.dataset import PICTURES, Dataset, open_dataset
from bench.data.discovery import FoundSection
from bench.data.folders import cards_folder
from bench.data.layouts import describe
from bench.data.section import FEWEST_SPOTS
from bench.data.stored_files import is_store, stored_hash, stored_size
from bench.errors import DataError, UnknownNameError
from bench.faults import first_fault
from bench.fetch.first_look import look_at, look_at_block, scale_disagreement
from bench.fetch.gene_names import look_at_genes, no_shared_gene, places_of_counts
from bench.fetch.patients import read_patients
from bench.fetch.search import find_sections
from bench.files import atomic_write

PATCH_MICROMETRES = 112.0
"""Edge of a patch: 224 px at 0.5 um a pixel, the field's usual choice."""

_LARGEST_PATCH = 4096
_ONE_PLATFORM = ("space_ranger",)
"""Layouts of one platform, Visium, whose distance of spots is known and no doubt."""


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
    left_out
        What was not read, by section as it was found: number by reason.
    """

    card: DatasetCard
    path: Path
    sections: tuple[Mapping[str, Any], ...]
    shared_genes: int
    assumed: tuple[str, ...]
    warnings: tuple[str, ...]
    left_out: Mapping[str, Mapping[str, int]]


def add_dataset(
    folder: Path,
    name: str,
    patients: Path | None,
    taken: Sequence[str],
    *,
    pitch: float | None = None,
    patch: float | None = None,
    sections: Sequence[str] = (),
    options: Mapping[str, str | int | None] | None = None,
    blocks: int | None = None,
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
        See :func:`read_patients`; None where the files themselves name the patients.
    taken
        Names of other datasets.
    pitch
        Micrometres from spot to spot; the layout's usual ones where None.
    patch
        Edge of a patch in micrometres; 112 where None.
    sections
        Sections to take; all that are found where empty.
    options
        See :func:`find_sections`.
    blocks
        Number of blocks that each section is divided into, 2 to 16; None: sections stay whole.
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
    layout, discovered, missing = find_sections(folder, options or {})
    there = [section.name for section in discovered]
    discovered = _chosen(discovered, sections)
    # "NAME: reason", as the search gives them.
    unread = dict(reason for line in missing if (reason := line.split(": ", 1))[1:])
    stated = _patients(patients, discovered, there, unread)
    whose = _short_names(stated)
    card = _card(folder, name, layout, discovered, whose, pitch)
    dataset = open_dataset(card, images=False)
    lines, scales = [], []
    left_out: dict[str, Mapping[str, int]] = {}
    warnings = [f"not read: {one}" for one in missing]
    warnings += [f"{section.name}: {one}" for section in discovered for one in section.warnings]
    warnings += [f"{section.name}: {one}" for section in discovered for one in _no_image(section)]
    genes: list[tuple[str, list[str]]] = []
    assumed: list[str] = []
    for section in discovered:
        try:
            read = Dataset.section(_with_image(dataset, section), section.name)
        except DataError as error:
            raise DataError(places_of_counts(section, error)) from error
        line, said = look_at(read)
        lines.append(line)
        warnings += said + scale_disagreement(section, line)
        left_out[section.name] = line["left out"]
        scales.append(read.micrometres_per_pixel)
        genes.append((section.name, [str(gene) for gene in read.adata.var_names]))
        chosen, doubtful = look_at_genes(section, genes[-1][1])
        assumed += [f"{section.name}: {one}" for one in chosen]
        warnings += [f"{section.name}: {one}" for one in doubtful]
    shared = set.intersection(*(set(names) for _, names in genes))
    if not shared:
        raise DataError(no_shared_gene(folder, genes))
    edge = (patch or PATCH_MICROMETRES) / float(np.median(scales))
    if not 8 <= edge <= _LARGEST_PATCH:
        raise DataError(
            f"a patch of {patch or PATCH_MICROMETRES:g} um would be {edge:.0f} px; 8 to"
            f" {_LARGEST_PATCH} px can be cut, choose another size with --patch"
        )
    card = card.model_copy(update={"patch_pixels": round(edge)})
    if blocks is not None:
        card = _divided(folder, card, blocks)
        read_blocks = open_dataset(card, images=None)
        lines = [
            look_at_block(read_blocks.section(f"{line['section']}-b{number}"), line)
            for line in lines
            for number in range(1, blocks + 1)
        ]
    _write(card, path)
    assumed += [
        f"{section.name}: {one}"
        for section in discovered
        for one in section.assumed
        if one not in _no_image(section)
    ]
    assumed += [
        f"{line['section']}: tissue seems to fill its image, so whether spots lie on it cannot be"
        " judged"
        for line in lines
        if line["filled"]
    ]
    assumed += [
        f"patient '{name[:80]}' is called {short}"
        for name, short in sorted({(stated[section], whose[section]) for section in whose})
        if name != short
    ]
    if pitch is None and not all(section.micrometres_per_pixel for section in discovered):
        told = assumed if layout in _ONE_PLATFORM else warnings
        told.append(
            f"the files do not state the scale; {card.spot_pitch_micrometres:g} um from spot to"
            " spot was taken; give --pitch if it is another"
        )
    assumed.append(
        f"a patch is {patch or PATCH_MICROMETRES:g} um, {card.patch_pixels} px at"
        f" {np.median(scales):.3f} um a pixel"
    )
    for section, scale in zip(discovered, scales, strict=True):
        if section.image_scale < 1:
            real = (patch or PATCH_MICROMETRES) / scale * section.image_scale
            assumed.append(
                f"{section.name}: a patch of {patch or PATCH_MICROMETRES:g} um is {real:.0f} real"
                " pixels of the reduced image"
            )
    if max(scales) > 1.05 * min(scales):
        warnings.append(
            f"scales differ between sections ({min(scales):.3f} to {max(scales):.3f} um a pixel);"
            f" ask for patches in micrometres with --set patch_size={PATCH_MICROMETRES:g}um"
        )
    if len(set(whose.values())) == 1:
        warnings.append(
            "all sections are of one patient; protocol strict needs two, by-section does not"
            if len(card.sections) > 1
            else _one_section(lines[0]["spots"])
        )
    if blocks is not None:
        warnings.append(
            f"each section is divided into {blocks} blocks, which are no independent samples:"
            " patches overlap at their borders, and scores say nothing of other sections"
        )
    return OwnDataset(
        card, path, tuple(lines), len(shared), tuple(assumed), tuple(warnings), left_out
    )


def _one_section(spots: int) -> str:
    blocks = min(4, spots // FEWEST_SPOTS)
    if blocks < FEWEST_BLOCKS:
        return "there is one section; every protocol needs two, and strict those of two patients"
    return (
        "there is one section, and every protocol needs two; add it again with"
        f" --blocks {blocks} --replace, which divides it into {blocks} for protocol by-section"
    )


def _divided(folder: Path, card: DatasetCard, blocks: int) -> DatasetCard:
    """The card with the blocks of each section as sections."""
    try:
        sections = [
            SectionCard.model_validate(
                {**dict(section), "name": f"{section.name}-b{number}", "block": [number, blocks]}
            )
            for section in card.sections
            for number in range(1, blocks + 1)
        ]
        title = f"{card.title}, divided into {blocks} blocks each"
        return DatasetCard.model_validate({**dict(card), "title": title, "sections": sections})
    except ValidationError as error:
        raise DataError(f"{folder}: {first_fault(error)}") from error


def _card(
    folder: Path,
    name: str,
    layout: str,
    discovered: Sequence[FoundSection],
    whose: Mapping[str, str],
    pitch: float | None,
) -> DatasetCard:
    # Not resolved: a link in the folder is the user's own arrangement of files.
    base = Path(os.path.abspath(folder))
    if is_store(base):
        base = base.parent  # a store is a file of the card, and lies in its data folder
    root = base.resolve()
    hashes: dict[Path, str] = {}
    for path in {path for section in discovered for path in section.files.values()}:
        hashes[path] = f"sha256:{stored_hash(path)}"  # once: sections of a store share it
    sections = [
        {
            "name": section.name,
            "patient": whose[section.name],
            "image_scale": section.image_scale,
            "micrometres_per_pixel": None if pitch else section.micrometres_per_pixel,
            "settings": dict(section.settings),
            "files": {
                role: {
                    "path": Path(os.path.abspath(path)).relative_to(base).as_posix(),
                    "hash": hashes[path],
                    "size": stored_size(path),
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
                "title": _title(len(discovered), len(set(whose.values()))),
                "citation": "not published",
                "licence": "the owner's",
                "platform": _stated(section.platform for section in discovered)
                or f"as layout {layout} assumes",
                "tissue": _stated(section.tissue for section in discovered) or "not stated",
                "source": str(root),
                "folder": str(root),
                "layout": layout,
                "patch_pixels": 224,
                "spot_pitch_micrometres": pitch or discovered[0].spot_pitch_micrometres,
                "spot_diameter_micrometres": discovered[0].spot_diameter_micrometres,
                "max_image_pixels": _IMAGE_CEILING,
                "sections": sections,
                **describe(layout, folder),
            }
        )
    except ValidationError as error:
        raise DataError(f"{folder}: {first_fault(error)}") from error


def _title(sections: int, patients: int) -> str:
    return f"{sections} section{'s' * (sections != 1)} of {patients} patient{'s' * (patients != 1)}"


def _no_image(section: FoundSection) -> list[str]:
    """Lines of the reader about a section that has no image; methods that need one leave it out."""
    if {*PICTURES} & set(section.files):
        return []
    return [one for one in section.assumed if "only methods that need" in one]


def _stated(values: Iterable[str]) -> str:
    return ", ".join(sorted({value for value in values if value}))


def _chosen(sections: Sequence[FoundSection], names: Sequence[str]) -> list[FoundSection]:
    """Sections that were asked for, in the order in which they were found."""
    there = [section.name for section in sections]
    for name in names:
        if name not in there:
            raise UnknownNameError("section", name, there)
    return [section for section in sections if not names or section.name in names]


def _patients(
    table: Path | None,
    sections: Sequence[FoundSection],
    there: Sequence[str],
    missing: Mapping[str, str],
) -> dict[str, str]:
    names = [section.name for section in sections]
    if table is not None:
        return read_patients(table, names, there, missing)
    unknown = [section.name for section in sections if not section.patient]
    if unknown:
        raise DataError(
            f"section {join_names(unknown)}: its patient is not known; name a table with columns"
            " section and patient with --patients"
        )
    return {section.name: section.patient for section in sections}


def _short_names(patients: Mapping[str, str]) -> dict[str, str]:
    """Names of patients by section, of the characters that a card allows.

    Raises
    ------
    DataError
        Two patients would have the same name, or one none.
    """
    full: dict[str, str] = {}
    for section, name in patients.items():
        short = re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip("-_.")
        if not short:
            raise DataError(
                f"section {section}: patient '{name[:60]}' needs a name with letters of A to Z or"
                " digits"
            )
        if full.setdefault(short, name) != name:
            raise DataError(
                f"patients '{full[short][:60]}' and '{name[:60]}' would both be called"
                f" {short[:60]}; give them names that differ in letters of A to Z, digits, '_',"
                " '.' and '-'"
            )
    shorts = {name: short for short, name in full.items()}
    return {section: shorts[name] for section, name in patients.items()}


_IMAGE_CEILING = 4_000_000_000


def _with_image(dataset: Dataset, section: FoundSection) -> Dataset:
    if "image" not in section.files:
        return dataset
    return open_dataset(dataset.card, names=[section.name])


def _write(card: DatasetCard, path: Path) -> None:
    content = card.model_dump(mode="json", exclude_defaults=True)
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(content, sort_keys=False, width=100), encoding="utf-8")
