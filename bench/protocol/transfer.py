"""External validation: fitted on all patients of one dataset, tested on another dataset."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from bench.data.scales import matching_scale
from bench.data.section import Section
from bench.errors import BenchError, DataError
from bench.protocol.folds import Fold, Folds, SectionFacts, check_folds
from bench.protocol.rules import Protocol


def transfer_protocol(protocol: Protocol, dataset: str) -> Protocol:
    """Rules of a protocol for the test on another dataset, under a name of their own.

    Raises
    ------
    BenchError
        The protocol does not split by patient, takes a part of the sections, or reads the test
        sections.
    """
    if protocol.split != "patient" or protocol.sections != "all" or protocol.heg == "test":
        raise BenchError(
            f"protocol {protocol.name} cannot be tested on another dataset: --test-dataset fits on"
            " all patients of --dataset and needs a protocol that is split by patient, such as"
            " strict"
        )
    return protocol.model_copy(update={"name": f"{protocol.name}-to-{dataset}"})


def transfer_folds(
    trained: str,
    tested: str,
    learned_from: Sequence[SectionFacts],
    tested_on: Sequence[SectionFacts],
    protocol: Protocol,
) -> Folds:
    """One fold: all sections of a dataset for training and validation, another one's for the test.

    Validation is one training patient, the second of the card as in the first fold of leaving one
    patient out; of a single patient its last section, if there are two.

    Parameters
    ----------
    trained, tested
        Names of the datasets.
    learned_from, tested_on
        Their usable sections.
    protocol
        Result of :func:`transfer_protocol`.

    Raises
    ------
    DataError
        Names of sections that cannot be told apart.
    LeakError
        A section or an image on two sides.
    """
    patients = list(dict.fromkeys(fact.patient for fact in learned_from))
    names = [fact.name for fact in learned_from]
    if len(patients) > 1:
        held = [fact.name for fact in learned_from if fact.patient == patients[1]]
    else:
        held = names[1:][-1:]
    # Patients of two datasets differ, whatever they are called; the audit finds common ones.
    renamed = [
        replace(fact, name=name, patient=f"{tested}:{fact.patient}")
        for fact, name in zip(tested_on, test_names(names, tested_on, tested), strict=True)
    ]
    facts = [*learned_from, *renamed]
    folds = Folds(
        dataset=trained,
        protocol=protocol.name,
        protocol_hash=protocol.hash,
        patients={fact.name: fact.patient for fact in facts},
        folds=(
            Fold(
                index=0,
                train=tuple(name for name in names if name not in held),
                validation=tuple(held),
                test=tuple(fact.name for fact in renamed),
            ),
        ),
    )
    # Not every section is tested: all else is checked as for folds that a dataset ships.
    check_folds(folds, facts, protocol.model_copy(update={"split": "listed"}))
    return folds


def test_names(
    training: Sequence[str], tested_on: Sequence[SectionFacts], dataset: str
) -> list[str]:
    """Names of test sections in the fold: ``NAME@DATASET`` where a training section has the name.

    Raises
    ------
    DataError
        Two sections have one name then.
    """
    taken = set(training)
    names = [f"{fact.name}@{dataset}" if fact.name in taken else fact.name for fact in tested_on]
    if len({*names, *training}) != len(names) + len(training):
        raise DataError(
            f"sections of {dataset} cannot be told from those of the training dataset by their"
            " names; rename them in the card"
        )
    return names


def own_name(name: str, known: Mapping[str, Any], dataset: str) -> str:
    """Name of a test section in its own dataset; inverse of :func:`test_names`."""
    return name if name in known else name.removesuffix(f"@{dataset}")


def at_training_scale(section: Section, name: str, scales: Sequence[float], edge: int) -> Section:
    """A test section as if its image had the scale of the training images.

    Parameters
    ----------
    section
        Section of the test dataset.
    name
        Its name in the fold.
    scales
        Micrometres a pixel of the training sections.
    edge
        Patch edge that the training dataset's card recommends, in pixels.

    Returns
    -------
    Section
        Coordinates in pixels of the training's scale, to which patches are resampled. Stored
        patches show no tissue around them and stay as they are.

    Raises
    ------
    DataError
        The scales differ by more than four times.
    """
    section = replace(section, name=name)
    if section.patches is not None:
        return section
    section = replace(section, patch_pixels=edge)
    scale = section.micrometres_per_pixel
    same = matching_scale(scales, scale, f"section {name}")
    if same is None:
        return section
    factor = scale / same
    adata = section.adata.copy()
    adata.obsm["spatial"] = section.spatial * factor
    return replace(
        section,
        adata=adata,
        micrometres_per_pixel=same,
        image_scale=section.image_scale / factor,
    )
