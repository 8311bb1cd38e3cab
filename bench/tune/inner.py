"""Inner folds of a fold, made from its training sections, so that a study sees no test data."""

from __future__ import annotations

from bench.data.dataset import Dataset
from bench.errors import BenchError
from bench.execute.division import section_facts
from bench.execute.inputs import FoldSource
from bench.protocol.folds import Fold, Folds, make_folds
from bench.protocol.rules import Protocol


def inner_folds(
    fold: Fold, dataset: Dataset, protocol: Protocol, count: int
) -> tuple[Dataset, Folds]:
    """Divide the training and validation sections of a fold into inner folds.

    Parameters
    ----------
    fold
        Outer fold; its test sections are not used.
    dataset
        All sections.
    protocol
        Rules of the comparison; panel, scales and HEG are the same for inner folds.
    count
        Maximum number of inner folds, at least two: one patient each up to that many patients,
        above that groups of patients. Sections of a single training patient are left out one by
        one instead.

    Returns
    -------
    tuple of Dataset and Folds
        The dataset contains only the fold's training sections.

    Raises
    ------
    BenchError
        There is only one training section, so none can be held out.
    """
    seen = dataset.only((*fold.train, *fold.validation))
    patients = {dataset.card.section(name).patient for name in seen.hashes}
    if len(seen.hashes) < 2:
        (name,) = seen.hashes
        raise BenchError(
            f"fold {fold.index} trains on section {name} alone, which leaves nothing to tune on;"
            " name other folds with --folds"
        )
    rules = protocol.model_copy(
        update={
            "split": "patient" if len(patients) > 1 else "section",
            "leave_one_out_up_to": count,
            "grouped_folds": count,
        }
    )
    folds = make_folds(dataset.card.name, section_facts(seen, rules), rules)
    return seen, folds.model_copy(update={"folds": folds.folds[:count]})


def inner_inputs(
    seen: Dataset, folds: Folds, protocol: Protocol, listed_panel: tuple[str, ...] | None
) -> list[FoldSource]:
    """Sources of the data of the inner folds: only sections of `seen`."""
    return [
        FoldSource(seen, protocol, listed_panel, folds, index) for index in range(len(folds.folds))
    ]
