"""Reader of HEST-1k folders (Jaume et al., NeurIPS 2024, arXiv 2406.16192).

``st/ID.h5ad`` holds counts and coordinates, ``wsis/ID.tif`` the slide, ``metadata/ID.json`` what is
known of the sample: patient, technology, pixel size, distance and diameter of the spots. Without a
slide the reduced image inside the ``.h5ad`` file is taken. A patient's name is unique only within
the title of its data set, so that both together name a patient here.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from anndata import AnnData

from bench.datasets import h5ad
from bench.datasets.h5ad import ROLES, embedded_image
from bench.readers import DataError, FoundSection, files_under, image_size, one_line, read_json

__all__ = [
    "ROLES",
    "describe",
    "discover",
    "embedded_image",
    "known_problems",
    "read",
]

SAME_SAMPLE = ("TENX128", "TENX155")
"""Two names of one sample, by issue 126 of github.com/mahmoodlab/HEST."""

_LARGEST_SLIDE = 1 << 40
_ARRAYS = {"visium": (100.0, 55.0), "spatial transcriptomics": (200.0, 100.0)}
_ANY_ARRAY = (100.0, 55.0)
_NO_NAME = re.compile(r"[^A-Za-z0-9]+")


def read(files: Mapping[str, Path], *, genome: str | None = None) -> AnnData:
    """Read one section; see :func:`bench.datasets.h5ad.read`."""
    return h5ad.read(files, genome=genome)


def discover(folder: Path, *, genome: str | None = None) -> list[FoundSection]:
    """Samples in folders that hold ``st/`` and, beside it, ``wsis/`` or ``metadata/``.

    Raises
    ------
    DataError
        A metadata file that is none.
    """
    return [
        _sample(path, genome)
        for path in files_under(folder)
        if path.suffix == ".h5ad" and h5ad.is_of_hest(path)
    ]


def describe(folder: Path) -> dict[str, object]:
    """Known problems of the samples in the folder."""
    samples = {path.stem for path in files_under(folder) if h5ad.is_of_hest(path)}
    return {"cautions": known_problems(samples)}


def known_problems(samples: Collection[str]) -> list[str]:
    """Problems that were reported of samples, a line each."""
    held = [name for name in SAME_SAMPLE if name in samples]
    if not held:
        return []
    first, second = SAME_SAMPLE
    return [
        f"{first} and {second} are the same sample of HEST-1k under two names (issue 126 of"
        f" github.com/mahmoodlab/HEST); here {' and '.join(held)}"
    ]


def _sample(path: Path, genome: str | None) -> FoundSection:
    name, root = path.stem, path.parent.parent
    facts = _metadata(root / "metadata" / f"{name}.json")
    files, scale, assumed = {"counts": path}, 1.0, []
    warnings: list[str] = []
    slides = [root / "wsis" / f"{name}{ending}" for ending in (".tif", ".tiff", ".svs")]
    slide = next((one for one in slides if one.is_file()), None)
    if slide is not None:
        files["image"] = slide
        assumed.append(f"wsis/{slide.name} is the image that obsm['spatial'] is placed in")
        warnings += _other_size(slide, facts)
    elif (inside := embedded_image(path)) is not None:
        scale = inside[1]
        files["image"] = path
        assumed.append(
            f"wsis/{name}.tif is missing; the image inside the file is used, {1 / scale:.1f} times"
            " smaller than full resolution"
        )
    else:
        assumed.append("no image was found; only methods that need none can run")
    technology = _text(facts, "st_technology")
    usual = _ARRAYS.get(technology.lower(), _ANY_ARRAY)
    pitch = _number(facts, "inter_spot_dist") or usual[0]
    diameter = _number(facts, "spot_diameter") or usual[1]
    pixel = _number(facts, "pixel_size_um_estimated") or _number(facts, "pixel_size_um_embedded")
    if pixel is None:
        assumed.append(f"{pitch:g} um from spot to spot; metadata/{name}.json states no pixel size")
    return FoundSection(
        name,
        files,
        pitch,
        diameter,
        scale,
        tuple(assumed),
        tuple(warnings),
        micrometres_per_pixel=pixel,
        settings={"genome": genome} if genome else {},
        patient=_patient(facts),
        platform=technology,
        tissue=_text(facts, "organ"),
    )


def _other_size(slide: Path, facts: Mapping[str, Any]) -> list[str]:
    """Warning on a slide that has not the size that the metadata state."""
    stated = [_number(facts, f"fullres_px_{side}") for side in ("width", "height")]
    width, height = image_size(slide, _LARGEST_SLIDE)
    if None in stated or stated == [width, height]:
        return []
    return [
        f"wsis/{slide.name} has {width} x {height} px, its metadata state"
        f" {stated[0]:.0f} x {stated[1]:.0f}; patches may be cut at wrong places"
    ]


def _metadata(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    facts = read_json(path)
    if not isinstance(facts, dict):
        raise DataError(f"{path}: must be a JSON object of metadata")
    return facts


def _number(facts: Mapping[str, Any], name: str) -> float | None:
    """A number above 0 that is stated, None where it is not."""
    value = facts.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        return None
    return float(value)


def _text(facts: Mapping[str, Any], name: str) -> str:
    """A text that is stated, as a short line; empty where it is not."""
    value = facts.get(name)
    return one_line(value, 80) if isinstance(value, str) else ""


def _patient(facts: Mapping[str, Any]) -> str:
    """Title of the data set and patient as one name; empty where neither is stated."""
    words = [str(facts.get("dataset_title") or ""), str(facts.get("patient") or "Patient 1")]
    if not facts.get("dataset_title") and not facts.get("patient"):
        return ""
    parts = [_NO_NAME.sub("-", word).strip("-")[:60] for word in words]
    return ".".join(part for part in parts if part).lower()
