"""Data of a fold for fitting, prediction and evaluation, separated by access."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp

from bench.data.images.patches import PatchSource
from bench.data.images.stored_patches import stored_patches
from bench.data.inputs import Slide, TrainingData, TrainingSection
from bench.data.section import Section
from bench.errors import DataError, near_names
from bench.protocol.folds import Fold
from bench.protocol.normalise import normalise, panel_counts, target_values
from bench.protocol.panel import choose_panel, panel_columns
from bench.protocol.rules import LISTS, Protocol


@dataclass(frozen=True)
class Truth:
    """Truth of a test section, visible to the evaluation alone.

    Attributes
    ----------
    section, patient
        Names.
    expression
        (spots, panel) float64 on the protocol's target scale.
    heg
        (panel,) bool: the highly expressed genes.
    totals
        (spots,) float64 counts per spot over all measured genes.
    counts
        (spots, panel + 1) raw counts of the panel genes, and of all others together.
    labels
        (spots,) labels of a pathologist, empty strings where there are none.
    spot_names
        Names of the spots, in the order of the rows.
    spatial, array_xy
        Pixel and array coordinates.
    """

    section: str
    patient: str
    expression: np.ndarray
    heg: np.ndarray
    totals: np.ndarray
    counts: sp.csr_matrix
    labels: tuple[str, ...]
    spot_names: tuple[str, ...]
    spatial: np.ndarray
    array_xy: np.ndarray


@dataclass(frozen=True)
class FoldData:
    """Data of a fold, split by access.

    Attributes
    ----------
    training, slides, truth
        Data for ``fit``, for ``predict``, and for the evaluation alone.
    unmeasured_genes
        Number of panel genes not measured, by test section; they count as zero.
    dropped_spots
        Number of spots left out because they lie outside the image, by section.
    left_out
        Data left out by the reader, by section, such as ``12 spots out of tissue``.
    reduced_images
        Reduction of images that are smaller than the full resolution, by section.
    """

    training: TrainingData
    slides: tuple[Slide, ...]
    truth: tuple[Truth, ...]
    unmeasured_genes: Mapping[str, int]
    dropped_spots: Mapping[str, int]
    left_out: Mapping[str, str]
    reduced_images: Mapping[str, str]


def fold_data(
    fold: Fold,
    sections: Mapping[str, Section],
    protocol: Protocol,
    listed_panel: tuple[str, ...] | None = None,
    *,
    learned: Collection[str] | None = None,
    shared_genes: bool = False,
) -> FoldData:
    """Build a fold's training data, slides and truth.

    Parameters
    ----------
    fold
        Names of its sections.
    sections
        Sections by name.
    protocol
        Panel, scales and HEG rules.
    listed_panel
        Gene list of the card, for a protocol that uses one.
    learned
        Training sections that methods are given; all where None. Panel and highly expressed genes
        are always those of all training sections, so that scores are comparable.
    shared_genes
        The panel is chosen among genes that the test sections measured too, for a test on another
        dataset.

    Raises
    ------
    DataError
        No panel gene was measured in a section.
    """
    seen = [sections[name] for name in (*fold.train, *fold.validation)]
    tested = [set(sections[name].adata.var_names) for name in fold.test] if shared_genes else []
    among = set.intersection(*tested) if tested else None
    if protocol.panel in LISTS:
        if listed_panel is None:
            raise DataError(f"protocol {protocol.name} needs a gene list")
        panel = tuple(gene for gene in listed_panel if among is None or gene in among)
    else:
        panel = choose_panel(seen, protocol, among)

    if protocol.panel == "listed":
        _check_measured(panel, [sections[name] for name in _names(fold)])
    columns = {name: panel_columns(sections[name], panel) for name in _names(fold)}
    for name, of_section in columns.items():
        if (of_section < 0).all():
            raise DataError(f"section {name}: no gene of the panel was measured")
    training = TrainingData(
        panel=panel,
        train=tuple(_training(sections[n], columns[n], protocol) for n in fold.train),
        validation=tuple(_training(sections[n], columns[n], protocol) for n in fold.validation),
    )
    targets = np.concatenate([section.target for section in training.sections])
    training_mean = targets.mean(axis=0, dtype=np.float64)
    if learned is not None:
        kept = tuple(section for section in training.train if section.name in learned)
        training = replace(training, train=kept)
    truth = []
    for name in fold.test:
        section = sections[name]
        expression = target_values(section.adata.X, columns[name], protocol, section.array_xy)
        ranked_by = expression.mean(axis=0) if protocol.heg == "test" else training_mean
        truth.append(
            Truth(
                section=name,
                patient=section.patient,
                expression=expression,
                heg=highest(ranked_by, protocol.heg_genes),
                totals=np.asarray(section.adata.X.sum(axis=1), dtype=np.float64).ravel(),
                counts=_with_others(section.adata.X, columns[name]),
                labels=tuple(section.adata.obs["label"].astype(str)),
                spot_names=tuple(section.adata.obs_names),
                spatial=section.spatial,
                array_xy=section.array_xy,
            )
        )
    return FoldData(
        training=training,
        slides=tuple(slide_of(sections[name]) for name in fold.test),
        truth=tuple(truth),
        unmeasured_genes={
            name: int((columns[name] < 0).sum()) for name in fold.test if (columns[name] < 0).any()
        },
        dropped_spots={
            name: sections[name].dropped_spots
            for name in _names(fold)
            if sections[name].dropped_spots
        },
        left_out={
            name: ", ".join(f"{n:,} {reason}" for reason, n in sections[name].left_out.items())
            for name in _names(fold)
            if sections[name].left_out
        },
        reduced_images={
            name: f"{1 / sections[name].image_scale:.1f} times"
            for name in _names(fold)
            if sections[name].image_scale < 1 and sections[name].image is not None
        },
    )


def _check_measured(panel: Sequence[str], sections: Sequence[Section]) -> None:
    """Refuse a gene list with a gene that no section measured, such as a typing error."""
    measured = {gene for section in sections for gene in section.adata.var_names}
    unknown = [gene for gene in panel if gene not in measured]
    if unknown:
        offers = [
            f"'{gene[:40]}'" + (f" ({near[0]}?)" if (near := near_names(gene, measured)) else "")
            for gene in unknown[:5]
        ]
        more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
        raise DataError(f"gene list: no section measured {', '.join(offers)}{more}")


def highest(mean: np.ndarray, genes: int) -> np.ndarray:
    """(panel,) bool mask of the genes with the highest mean; ties go to the earlier gene."""
    mask = np.zeros(len(mean), dtype=bool)
    mask[np.argsort(-mean, kind="stable")[:genes]] = True
    return mask


def _with_others(counts: sp.csr_matrix, columns: np.ndarray) -> sp.csr_matrix:
    listed = panel_counts(counts, columns)
    others = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel() - listed.sum(axis=1)
    return sp.csr_matrix(np.column_stack([listed, others]))


def _names(fold: Fold) -> tuple[str, ...]:
    return (*fold.train, *fold.validation, *fold.test)


def slide_of(section: Section) -> Slide:
    """A section as methods see it: images and coordinates, without expression."""
    return Slide(
        name=section.name,
        array_xy=section.array_xy,
        spatial=section.spatial,
        patch_pixels=section.patch_pixels,
        patch_source=_patch_source(section),
        micrometres_per_pixel=section.micrometres_per_pixel,
    )


def _training(section: Section, columns: np.ndarray, protocol: Protocol) -> TrainingSection:
    counts = section.adata.X
    target = target_values(counts, columns, protocol, section.array_xy)
    expression = (
        target if protocol.input == protocol.target else normalise(counts, columns, protocol.input)
    )
    return TrainingSection(
        name=section.name,
        array_xy=section.array_xy,
        spatial=section.spatial,
        patch_pixels=section.patch_pixels,
        patch_source=_patch_source(section),
        micrometres_per_pixel=section.micrometres_per_pixel,
        patient=section.patient,
        expression=expression.astype(np.float32),
        target=target.astype(np.float32),
        counts=panel_counts(counts, columns).astype(np.float32),
    )


def _patch_source(section: Section) -> PatchSource | None:
    if section.patches is not None and section.patches_hash is not None:
        return stored_patches(
            section.patches, section.patches_hash, section.spatial, section.patch_rows
        )
    if section.image is None or section.image_hash is None:
        return None
    return PatchSource(
        section.image,
        section.image_hash,
        section.max_image_pixels,
        section.spatial,
        section.image_scale,
    )
