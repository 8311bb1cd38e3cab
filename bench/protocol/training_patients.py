"""Training on some of a fold's patients: nested subsets in an order that no seed changes."""

from __future__ import annotations

from bench.errors import BenchError
from bench.files import canonical_hash
from bench.protocol.folds import Fold, Folds
from bench.protocol.rules import Protocol


def training_patients(folds: Folds, fold: Fold) -> tuple[str, ...]:
    """Training patients of a fold, in the order in which subsets take them.

    The order is that of the SHA-256 of dataset and patient: the same in all folds, for all methods
    and seeds, and unrelated to the order of the card. The subset of two patients thus contains
    that of one.
    """
    patients = {folds.patients[name] for name in fold.train}
    return tuple(sorted(patients, key=lambda name: canonical_hash([folds.dataset, name])))


def mean_training_patients(folds: Folds) -> float:
    """Mean number of training patients over the folds."""
    counts = [len(training_patients(folds, fold)) for fold in folds.folds]
    return sum(counts) / len(counts)


def learned_sections(folds: Folds, fold: Fold, patients: int | None) -> tuple[str, ...]:
    """Training sections of the first `patients` training patients; all where None."""
    if patients is None:
        return fold.train
    chosen = set(training_patients(folds, fold)[:patients])
    return tuple(name for name in fold.train if folds.patients[name] in chosen)


def patient_limits(
    folds: Folds, protocol: Protocol, asked: tuple[int | None, ...]
) -> tuple[int | None, ...]:
    """Numbers of training patients that are run, each once.

    Parameters
    ----------
    folds, protocol
        Division of the sections, and its rules.
    asked
        Numbers as asked for; None for all patients.

    Returns
    -------
    tuple of int or None
        A number that every fold has exactly is None: the run without a limit is the same.

    Raises
    ------
    BenchError
        A number below 1, or more than a fold has; folds that are not split by patient.
    """
    if set(asked) <= {None}:
        return (None,)
    if protocol.split == "section":
        raise BenchError(
            f"protocol {protocol.name} leaves one section out; --train-patients needs folds that"
            " are split by patient: use protocol strict"
        )
    counts = [len(training_patients(folds, fold)) for fold in folds.folds]
    fewest, most = min(counts), max(counts)
    for number in asked:
        if number is not None and not 1 <= number <= fewest:
            have = str(fewest) if fewest == most else f"{fewest} to {most}"
            raise BenchError(
                f"--train-patients {number}: the folds of {folds.dataset} under protocol"
                f" {protocol.name} have {have} training patients beside those for validation;"
                f" write numbers from 1 to {fewest}, or all"
            )
    limits = (None if number == fewest == most else number for number in asked)
    return tuple(dict.fromkeys(limits))
