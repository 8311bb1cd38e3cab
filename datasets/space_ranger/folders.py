"""Search for the output of Space Ranger in folders as they lie on disks.

A section is a positions file with a matrix beside it. Four layouts are known:

* ``SECTION/outs/spatial/tissue_positions.csv`` and ``SECTION/outs/filtered_feature_bc_matrix.h5``,
  with or without ``outs``;
* Visium HD: ``SECTION/outs/binned_outputs/square_016um/`` for each bin size;
* one folder with a prefix for each section, as in GEO: ``GSM5000_S1_tissue_positions.csv``, or
  ``GSM5000_S1_spatial/tissue_positions.csv`` beside the matrix;
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
    IMAGE_ENDINGS,
    FoundSection,
    ReducedImage,
    chosen_bin,
    disagreement,
    files_under,
    images_in,
    not_read,
    other_size,
)

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
_REDUCED = ("hires", "lowres")
_REDUCED_ENDINGS = (".png", ".jpg", ".jpeg", ".tif", ".tiff")


@dataclass(frozen=True)
class _Place:
    """Where one section lies.

    Attributes
    ----------
    home
        Folder of the matrix.
    spatial
        Folder of positions and scale factors.
    prefix, inner
        With which its files in `home` and in `spatial` begin; empty where the folder is the
        section's own.
    positions
        Its positions file.
    bin_edge
        Edge of its bins in micrometres; None for spots.
    """

    home: Path
    spatial: Path
    prefix: str
    inner: str
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
        return _first([self.spatial / f"{self.inner}{name}{end}" for end in ("", ".gz")])


def discover(
    folder: Path, *, bin_micrometres: int | None = None, genome: str | None = None
) -> list[FoundSection]:
    """Sections in a folder; those of which a file is missing say so.

    The full-resolution image is looked for in and beside ``spatial``, above ``outs``, and by the
    name of the section. It must have the size that ``tissue_hires_image.png`` and its scale factor
    give; where none has, the reduced image is taken.

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
    sections = [_section(place, files, genome, bin_micrometres) for place in chosen]
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
        outer = prefix
        if not prefix and spatial.name != "spatial" and spatial.name.endswith("spatial"):
            home, outer = spatial.parent, spatial.name.removesuffix("spatial")
        bins = _BINS.fullmatch(home.name)
        edge = int(bins["edge"]) if bins else None
        places.append(_Place(home, spatial, outer, prefix, positions, edge))
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
        chosen.append(edges[chosen_bin(edges, wanted, sample, pooled=True)])
    return [place for place in places if place.bin_edge is None or place in chosen]


def _section(
    place: _Place, there: Sequence[Path], genome: str | None, wanted: int | None
) -> FoundSection:
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
    image, image_scale, notes, faults = _image(place, there, factors)
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
    place: _Place, there: Sequence[Path], factors: dict[str, float]
) -> tuple[Path | None, float, list[str], list[str]]:
    """Image, its pixels per full-resolution pixel, assumptions, and warnings."""
    candidates = _candidates(place, there)
    copies = [
        (path, factors[f"tissue_{kind}_scalef"])
        for kind in _REDUCED
        if 0 < factors.get(f"tissue_{kind}_scalef", 0) <= 1
        and (path := _reduced(place, kind)) is not None
    ]
    if not copies:
        if candidates:
            said = f"{candidates[0].name} is the full-resolution image, the largest there is"
            more = " (no hires image tells its size)"
            return candidates[0], 1.0, [said + more], []
        return None, 1.0, [f"no image was found{_packed(place)}; {_NO_IMAGE}"], []
    told = [ReducedImage.of_file(path, scale) for path, scale in copies]
    faults = [said] if (said := disagreement(told)) else []
    (reduced, scale), hires = copies[0], _reduced(place, "hires")
    instead = reduced.name if reduced == hires else "no image"
    for image in candidates:
        fault = other_size(image, told, instead)
        if not fault:
            return image, 1.0, [f"{image.name} is the full-resolution image, by its size"], faults
        faults.append(fault)
    if reduced != hires:
        said = f"{reduced.name} is too small for patches, and no other image was found"
        return None, 1.0, [f"{said}{_packed(place)}; {_NO_IMAGE}"], faults
    said = f"{reduced.name} is used, {1 / scale:.1f} times smaller than the full-resolution image"
    return reduced, scale, [said], faults


_NO_IMAGE = "only methods that need none can run"


def _candidates(place: _Place, there: Sequence[Path]) -> list[Path]:
    """Files that may be the full-resolution image, those beside the matrix first."""
    above = [place.home.parent] if place.home.name == "outs" else []
    if place.bin_edge is not None:
        above = [one for one in place.home.parents if one.is_relative_to(place.sample)]
    prefixes = {place.home: place.prefix, place.spatial: place.inner}
    files = [
        image
        for folder in dict.fromkeys((place.home, *above, place.spatial))
        for image in images_in(folder, prefixes.get(folder, place.prefix))
    ]
    files += [
        path
        for path in there
        if path.stem == place.name and path.suffix.lower() in IMAGE_ENDINGS and path not in files
    ]
    return [image for image in files if not _NO_FULL_IMAGE.fullmatch(image.name)]


def _reduced(place: _Place, kind: str) -> Path | None:
    """Reduced image of Space Ranger, of any format."""
    name = f"{place.inner}tissue_{kind}_image"
    return _first([place.spatial / f"{name}{ending}" for ending in _REDUCED_ENDINGS])


def _packed(place: _Place) -> str:
    packed = place.spatial / f"{place.inner}tissue_hires_image.png.gz"
    return f" ({packed.name} is compressed: unpack it with gunzip)" if packed.is_file() else ""
