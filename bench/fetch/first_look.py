"""Measures of a section that a user adds: a line of the table, and possible problems."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.data.alignment import section_alignment
from bench.data.card import join_names
from bench.data.discovery import FoundSection
from bench.data.features import genomes_of
from bench.data.pitch import pitch_disagreement, spot_pitch
from bench.data.section import Section

_SCALE_TOLERANCE = 0.1


def look_at_block(block: Section, whole: Mapping[str, Any]) -> dict[str, Any]:
    """Line of a block: that of the whole section, which has scale and pitch, with its own spots.

    Parameters
    ----------
    block
        Block as a section of its own.
    whole
        Line of the section that it is part of.

    Returns
    -------
    dict
        See :func:`look_at`.
    """
    alignment = section_alignment(block)
    on_tissue = float("nan") if alignment is None else alignment.share_on_tissue
    return {
        **whole,
        "section": block.name,
        "spots": block.adata.n_obs,
        "counts": float(np.median(np.asarray(block.adata.X.sum(axis=1)))),
        "on tissue": None if np.isnan(on_tissue) else on_tissue,
    }


def look_at(section: Section) -> tuple[dict[str, Any], list[str]]:
    """Measures of a section that was read, and possible problems.

    Parameters
    ----------
    section
        Section with its image, if it has one.

    Returns
    -------
    tuple of dict and list of str
        Spots, genes, median counts, spot distance in pixels, micrometres per pixel, share of
        spots on tissue (None: cannot be judged); and a line for each problem.
    """
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
        "filled": False,
    }
    line["left out"] = dict(section.left_out)
    warnings = []
    if section.dropped_spots:
        warnings.append(
            f"{section.name}: {section.dropped_spots}"
            f" spot{'s lie' if section.dropped_spots > 1 else ' lies'} outside the image"
        )
    lost = section.left_out.get("barcodes without a position", 0)
    if lost:
        warnings.append(
            f"{section.name}: {lost} of {lost + adata.n_obs} barcodes of the matrix have no"
            " position and are left out; is the positions file complete, and of this section alone?"
        )
    genomes = genomes_of(list(adata.var_names))
    if genomes:
        warnings.append(
            f"{section.name}: symbols begin with a genome ({join_names(genomes)}), so no list of"
            f" genes matches them; keep one with --genome {next(iter(genomes))}"
        )
    if disagreement := pitch_disagreement(array_xy, section.spatial):
        warnings.append(f"{section.name}: {disagreement}")
    alignment = section_alignment(section)
    if alignment is not None:
        on_tissue = alignment.share_on_tissue
        line["on tissue"] = None if np.isnan(on_tissue) else on_tissue
        line["filled"] = bool(np.isnan(on_tissue)) and alignment.warning is None
        if alignment.warning:
            warnings.append(f"{section.name}: {alignment.warning}")
    return line, warnings


def scale_disagreement(section: FoundSection, line: Mapping[str, Any]) -> list[str]:
    """Warning where the stated scale puts spots at another distance than their array has.

    Parameters
    ----------
    section
        Section as it was found.
    line
        See :func:`look_at`.

    Returns
    -------
    list of str
        One warning or none.
    """
    if section.micrometres_per_pixel is None:
        return []
    apart = line["pitch"] * section.micrometres_per_pixel
    if abs(apart / section.spot_pitch_micrometres - 1) <= _SCALE_TOLERANCE:
        return []
    return [
        f"{section.name}: by the stated scale of {section.micrometres_per_pixel:.4g} um a pixel"
        f" spots are {apart:.3g} um apart instead of {section.spot_pitch_micrometres:g} um; one of"
        " the two is wrong, and --pitch takes the scale from the spots"
    ]
