"""The fit of a run's method on all sections, kept beside the folds of the run."""

from __future__ import annotations

import os
import random
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.data.card import DatasetCard
from bench.errors import BenchError, DataError
from bench.files import canonical_hash, file_hash, one_line
from bench.prediction.stored_models import FINAL, FittedFold, StoredModel
from bench.records import read_record, write_record
from bench.store import MODEL, not_writable

if TYPE_CHECKING:
    from bench.data.dataset import Dataset
    from bench.data.inputs import TrainingData
    from bench.protocol.folds import Folds

RECORD = "final.json"
"""Facts about the fit, and the hash of each of its files."""


def final_model(
    model: StoredModel,
    card: DatasetCard,
    data_root: Path | None,
    device: str,
    say: Callable[[str], None],
) -> StoredModel:
    """The model fitted once on all sections of a run; it is fitted where it is not there yet.

    Rules, settings and seed are those of the run. Where its protocol has validation sections,
    those of the first fold take their part; the others are for training. The fit has no test
    section: how well it does is told by the scores of the folds.

    Parameters
    ----------
    model
        A stored run.
    card, data_root
        Card of its dataset, and folder of the files.
    device
        Where networks are fitted.
    say
        Told what is being done.

    Raises
    ------
    BenchError
        The data are not those of the run; the settings or weights of the run are by fold; or the
        method fails.
    """
    facts = model.run.facts
    for name, what in (
        ("tuned", "settings were tuned in each fold"),
        ("checkpoint", "weights were imported"),
        ("aliases", "genes were renamed by a table, which is not stored"),
        ("test_dataset", "one fold was fitted on all patients already"),
        ("train_patients", "training patients were limited"),
    ):
        if name in facts:
            raise BenchError(f"{model.label}: its {what}; predict with its folds, without --refit")
    dataset, folds, training = _data(model, card, data_root)
    key = canonical_hash([facts["key"], dataset.hash, folds.hash])
    folder = model.run.folder.path / FINAL
    fit = _stored(folder, key)
    if fit is None:
        say(f"fitting {model.label} on all {len(training.sections)} sections")
        _fit(model, training, folder, key, device)
        fit = _stored(folder, key)
    if fit is None:
        raise DataError(f"{folder}: another process replaced it; try again")
    return replace(model, fits=(fit,))


def _data(
    model: StoredModel, card: DatasetCard, data_root: Path | None
) -> tuple[Dataset, Folds, TrainingData]:
    """Data of all sections under the rules of a run."""
    from threadpoolctl import threadpool_limits

    from bench.execute.division import divide
    from bench.protocol.fold_data import fold_data
    from bench.protocol.rules import Protocol

    facts = model.run.facts
    rules = Protocol.model_validate(facts["rules"])
    dataset, folds, panel = divide(card, rules, data_root, images=True)
    if dataset.hash != facts["dataset_hash"] or folds.hash != facts["folds_hash"]:
        raise BenchError(
            f"{card.name}: the data here are not those of the run; run it again with 'bench run'"
        )
    validation = folds.folds[0].validation
    everything = folds.folds[0].model_copy(
        update={
            "train": tuple(name for name in folds.patients if name not in validation),
            "test": (),
        }
    )
    sections = {name: dataset.section(name) for name in folds.patients}
    with threadpool_limits(1):  # the same sums on every machine
        data = fold_data(everything, sections, rules, panel)
    return dataset, folds.model_copy(update={"folds": (everything,)}), data.training


def _fit(model: StoredModel, training: TrainingData, folder: Path, key: str, device: str) -> None:
    from bench.method import Context

    facts = model.run.facts
    first = model.fits[0]
    context = Context(
        seed=int(facts["seed"]),
        device=device,
        precision=first.precision,
        compile=bool(facts["compile"]),
    )
    random.seed(context.seed)
    np.random.seed(context.seed % 2**32)  # noqa: NPY002
    method = model.kind(model.kind.Config.model_validate(first.config))
    try:
        method.fit(training, context)
    except BenchError:
        raise
    except Exception as error:
        # A method may fail in any way.
        reason = f"{type(error).__name__}: {one_line(error)}"
        raise BenchError(f"{model.label} failed on all sections: {reason}") from error
    try:
        made = Path(tempfile.mkdtemp(prefix=".final-", dir=folder.parent))
    except OSError as error:
        raise not_writable(folder.parent, error) from error
    try:
        (made / MODEL).mkdir()
        method.save(made / MODEL)
        record = {
            "key": key,
            "config": dict(first.config),
            "panel": list(training.panel),
            "train": [section.name for section in training.train],
            "validation": [section.name for section in training.validation],
            "precision": first.precision,
            "device": device,
            "notes": [one_line(note, 1000) for note in context.notes],
            "files": _hashes(made),
        }
        write_record(made / RECORD, record)
        made.chmod(0o755)
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)
    except OSError as error:
        raise not_writable(folder.parent, error) from error
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _hashes(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): file_hash(path)
        for path in sorted((folder / MODEL).rglob("*"))
        if path.is_file()
    }


def _stored(folder: Path, key: str) -> FittedFold | None:
    """The stored fit of a key; None where there is none, or a damaged one."""
    record: Mapping[str, Any] = read_record(folder / RECORD)
    if record.get("key") != key or record.get("files") != _hashes(folder):
        return None
    return FittedFold(
        name=FINAL,
        folder=folder / MODEL,
        config=record["config"],
        panel=tuple(record["panel"]),
        sections=(*record["train"], *record["validation"]),
        precision=record["precision"],
    )
