"""Search for the output of Space Ranger in folders as they lie on disks.

A section is a positions file with a matrix beside it. Four layouts are known:

* ``SECTION/outs/spatial/tissue_positions.csv`` and ``SECTION/outs/filtered_feature_bc_matrix.h5``,
  with or without ``outs``;
* Visium HD: ``SECTION/outs/binned_outputs/square_016um/`` for each bin size;
* one folder with a prefix for each section, as in GEO: ``GSM5000_S1_tissue_positions.csv``;
* each of them with compressed text (``.csv.gz``, ``.json.gz``).

Format: https://www.10xgenomics.com/support/software/space-ranger/latest/analysis/outputs
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.datasets.space_ranger.reading import read_scalefactors
from bench.readers import (
    DataError,
    FoundSection,
    files_under,
    image_size,
    images_in,
    not_read,
)

DEFAULT_BIN = 16
"""Bins of Visium HD that are read unless others are asked for, in micrometres."""

_POSITIONS = re.compile(
    r"(?P<prefix>.*?)(?P<name>tissue_positions\.csv|tissue_positions_list\.csv"
    r"|tissue_positions\.parquet)(?P<gzip>\.gz)?"
)
_PREFERRED = ("tissue_positions.csv", "tissue_positions_list.csv", "tissue_positions.parquet")
_BINS = re.compile(r"square_(?P<edge>[0-9]{3})um")
_ACCESSION = re.compile(r"GSM[0-9]+[_-]")
_NO_FULL_IMAGE = re.compile(
    r".*(tissue_(hires|lowres)_image|aligned_fiducials|aligned_tissue_image|detected_tissue_image"
    r"|cytassist_image)\.[a-z]+"
)
_PARTS = {"barcodes": ("barcodes.tsv",), "features": ("features.tsv", "genes.tsv")}
_LARGEST_IMAGE = 4_000_000_000
_ROUNDING = 2.0  # pixels of the hires image, by which its size may differ from the full image's


@dataclass(frozen=True)
class _Place:
    """Where one section lies.

    Attributes
    ----------
    home
        Folder of the matrix.
    spatial
        Folder of positions and scale factors.
    prefix
        With which its files begin; empty where the folder is the section's own.
    positions
        Its positions file.
    bin_edge
        Edge of its bins in micrometres; None for spots.
    """

    home: Path
    spatial: Path
    prefix: str
    positions: Path
    bin_edge: int | None = None

    @property
    def sample(self) -> Path:
        """Folder that bears the section's name, above ``outs`` and ``binned_outputs``."""
        place = self.home
        if self.bin_edge is not None:
            place = place.parent
            if place.name == "binned_outputs":
                place = place.parent
        return place.parent if place.name == "outs" else place

    @property
    def name(self) -> str:
        """Name of the section: its prefix without an accession, or its folder."""
        own = _ACCESSION.sub("", self.prefix).strip("_-. ")
        return own or self.sample.name

    def file(self, name: str) -> Path | None:
        """A file beside the positions, compressed or not."""
        return _first([self.spatial / f"{self.prefix}{name}{end}" for end in ("", ".gz")])


def discover(
    folder: Path, *, bin_micrometres: int | None = None, genome: str | None = None
) -> list[FoundSection]:
    """Sections in a folder; those of which a file is missing say so.

    The full-resolution image is looked for beside ``spatial`` and above ``outs``, and must have
    the size that ``tissue_hires_image.png`` and its scale factor give; where none has, the reduced
    image is taken.

    Parameters
    ----------
    folder
        Folder to look through.
    bin_micrometres
        Bins of Visium HD to read; 16 where None, or the largest that there are.
    genome
        Genome whose genes are kept where the reference holds several.

    Raises
    ------
    DataError
        Scale factors that are none, or no bins of the size asked for.
    """
    files = files_under(folder)
    places = _places(files)
    chosen = _of_one_bin_size(places, bin_micrometres)
    sections = [_section(place, genome, bin_micrometres) for place in chosen]
    homes = {place.home for place in places}
    alone = [
        not_read(
            str(matrix.relative_to(folder)),
            "there is a matrix, but no spatial/tissue_positions.csv beside it",
        )
        for matrix in files
        if matrix.name.endswith("feature_bc_matrix.h5") and matrix.parent not in homes
    ]
    return sections + alone


def _places(files: Sequence[Path]) -> list[_Place]:
    """Sections by their positions files, the newest form of each."""
    by_place: dict[tuple[Path, str], dict[str, Path]] = defaultdict(dict)
    for path in files:
        match = _POSITIONS.fullmatch(path.name)
        if match:
            by_place[path.parent, match["prefix"]].setdefault(match["name"], path)
    places = []
    for (spatial, prefix), forms in by_place.items():
        positions = next(forms[name] for name in _PREFERRED if name in forms)
        home = spatial.parent if spatial.name == "spatial" else spatial
        bins = _BINS.fullmatch(home.name)
        edge = int(bins["edge"]) if bins else None
        places.append(_Place(home, spatial, prefix, positions, edge))
    return places


def _of_one_bin_size(places: Sequence[_Place], wanted: int | None) -> list[_Place]:
    """Sections of spots, and of each Visium HD sample the bins of one size."""
    samples: dict[Path, list[_Place]] = defaultdict(list)
    for place in places:
        if place.bin_edge is not None:
            samples[place.sample].append(place)
    chosen = []
    for sample, bins in samples.items():
        edges = {int(place.bin_edge or 0): place for place in bins}
        edge = wanted or (DEFAULT_BIN if DEFAULT_BIN in edges else max(edges))
        if edge not in edges:  # smaller ones are pooled
            edge = max((one for one in edges if edge % one == 0), default=edge)
        if edge not in edges:
            there = ", ".join(f"{one} um" for one in sorted(edges))
            raise DataError(
                f"{sample}: has no bins of {wanted} um and none to pool; there are bins of {there}"
            )
        chosen.append(edges[edge])
    return [place for place in places if place.bin_edge is None or place in chosen]


def _section(place: _Place, genome: str | None, wanted: int | None) -> FoundSection:
    counts, said = _matrix(place)
    if not counts:
        return not_read(place.name, f"{place.positions} has no matrix beside it; {said}")
    assumed = [said] if said else []
    warnings: list[str] = []
    files = {**counts, "positions": place.positions}
    factors: dict[str, float] = {}
    scales = place.file("scalefactors_json.json")
    if scales is not None:
        files["scalefactors"] = scales
        factors = read_scalefactors(scales)
    image, image_scale, notes, faults = _image(place, factors)
    assumed += notes
    warnings += faults
    if image is not None:
        files["image"] = image
    edge = place.bin_edge
    settings: dict[str, str | int] = {"genome": genome} if genome else {}
    if edge is not None and wanted and wanted != edge:
        settings["pool"] = wanted // edge
        assumed.append(f"bins of {edge} um are pooled to {wanted} um")
        edge = wanted
    elif edge is not None:
        assumed.append(f"bins of {edge} um are read (--bin says otherwise)")
    return FoundSection(
        place.name,
        files,
        100.0 if edge is None else float(edge),
        55.0 if edge is None else float(edge),
        image_scale,
        tuple(assumed),
        tuple(warnings),
        micrometres_per_pixel=factors.get("microns_per_pixel"),
        settings=settings,
        platform="Visium" if edge is None else "Visium HD",
    )


def _matrix(place: _Place) -> tuple[dict[str, Path], str]:
    """Files of the matrix by role, filtered before raw, and a note or what is missing."""
    home, prefix = place.home, place.prefix
    for kind in ("filtered", "raw"):
        said = (
            ""
            if kind == "filtered"
            else "only the raw matrix is here; spots are those that the positions file says lie in"
            " the tissue"
        )
        whole = [home / f"{prefix}{kind}_feature_bc_matrix.h5"]
        if not prefix:
            whole += sorted(home.glob(f"*{kind}_feature_bc_matrix.h5"))
        if (path := _first(whole)) is not None:
            return {"counts": path}, said
        for name in (
            f"{kind}_feature_bc_matrix",
            f"{kind}_gene_bc_matrices",
            f"{kind}_count_matrix",
        ):
            inner = sorted((home / f"{prefix}{name}").glob("*/"))
            for folder in (home / f"{prefix}{name}", *inner):
                if parts := _market_files(folder, ""):
                    return parts, said
    if prefix and (parts := _market_files(home, prefix)):
        return parts, ""
    return {}, (
        f"{prefix}filtered_feature_bc_matrix.h5 is needed, or matrix.mtx with barcodes.tsv and"
        " features.tsv"
    )


def _market_files(folder: Path, prefix: str) -> dict[str, Path]:
    """MatrixMarket file with its barcodes and features (in older releases genes), or nothing."""
    parts: dict[str, Path] = {}
    for role, stems in {"counts": ("matrix.mtx",), **_PARTS}.items():
        names = [f"{prefix}{stem}{end}" for stem in stems for end in (".gz", "")]
        path = _first([folder / name for name in names])
        if path is None:
            return {}
        parts[role] = path
    return parts


def _first(paths: Sequence[Path]) -> Path | None:
    return next((path for path in paths if path.is_file()), None)


def _image(
    place: _Place, factors: dict[str, float]
) -> tuple[Path | None, float, list[str], list[str]]:
    """Image, its pixels per full-resolution pixel, assumptions, and warnings."""
    above = [place.home.parent] if place.home.name == "outs" else []
    if place.bin_edge is not None:
        above = [one for one in place.home.parents if one.is_relative_to(place.sample)]
    candidates = [
        image
        for folder in (place.home, *above)
        for image in images_in(folder, place.prefix)
        if not _NO_FULL_IMAGE.fullmatch(image.name)
    ]
    reduced = _first([place.spatial / f"{place.prefix}tissue_hires_image.png"])
    scale = factors.get("tissue_hires_scalef", 0.0)
    if reduced is None or not 0 < scale <= 1:
        if candidates:
            said = f"{candidates[0].name} is the full-resolution image, the largest there is"
            more = " (no hires image tells its size)"
            return candidates[0], 1.0, [said + more], []
        return None, 1.0, ["no image was found; only methods that need none can run"], []
    faults = []
    for image in candidates:
        fault = _other_size(image, reduced, scale)
        if not fault:
            return image, 1.0, [f"{image.name} is the full-resolution image, by its size"], []
        faults.append(fault)
    said = f"{reduced.name} is used, {1 / scale:.1f} times smaller than the full-resolution image"
    return reduced, scale, [said], faults


def _other_size(image: Path, reduced: Path, scale: float) -> str:
    """Difference in size from the image that Space Ranger was given; empty if there is none."""
    try:
        width, height = image_size(image, _LARGEST_IMAGE)
    except DataError as error:
        return f"{error}; {reduced.name} is used instead"
    small = image_size(reduced, _LARGEST_IMAGE)
    if max(abs(width * scale - small[0]), abs(height * scale - small[1])) <= _ROUNDING:
        return ""
    expected = tuple(round(side / scale) for side in small)
    across, down = width / expected[0], height / expected[1]
    same_shape = abs(across / down - 1) < 0.01
    times = f", {across:.3g} times as large" if same_shape else ""
    return (
        f"{image.name} is not the image that Space Ranger was given: it has {width} x {height} px"
        f" instead of {expected[0]} x {expected[1]}{times}, by {reduced.name} and its scale factor;"
        f" {reduced.name} is used instead"
    )
