"""Request of a user; defines the defaults of a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.method_references import absolute

MOST_SEEDS = 1000
"""Largest number of seeds of a request."""


@dataclass(frozen=True)
class FoldSettings:
    """Settings that were found for one fold.

    Attributes
    ----------
    config
        All settings of the method.
    study
        Folder of the study that found them, under the results folder.
    """

    config: Mapping[str, Any]
    study: str = ""


@dataclass(frozen=True)
class Request:
    """Request of a user; see the options of ``bench run``.

    Attributes
    ----------
    methods
        Names and references of methods, see :mod:`bench.method_references`; paths become absolute.
    encoders
        Encoders with which every method that has one is run, each in a row of its own.
    random_encoders
        Whether each of these rows has a control beside it: the encoder with random weights.
    settings
        Values by ``setting``, for every method that has it, or by ``method.setting``.
    tuned
        Settings for each fold, by method; if given, only these rows are run.
    seeds
        Seeds, with a run each; `seed` alone where empty.
    test_dataset, test_data_root
        Another dataset that is tested on after a fit on all patients of `dataset`, and the folder
        of its files.
    train_patients
        Numbers of training patients in each fold, with a run each; None stands for all of them, as
        does an empty tuple.
    """

    methods: tuple[str, ...]
    dataset: str
    protocol: str = "strict"
    panel: str | None = None
    aliases: Path | None = None
    folds: tuple[int, ...] | None = None
    preset: str = "authors"
    settings: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    device: str = "auto"
    precision: str = "auto"
    compile: bool = False
    data_root: Path | None = None
    results: Path = Path("results")
    force: bool = False
    oracles: bool = True
    checkpoint: Path | None = None
    encoders: tuple[str, ...] = ()
    random_encoders: bool = True
    tuned: Mapping[str, Mapping[int, FoldSettings]] = field(default_factory=dict)
    seeds: tuple[int, ...] = ()
    test_dataset: str | None = None
    test_data_root: Path | None = None
    train_patients: tuple[int | None, ...] = ()

    def __post_init__(self) -> None:
        # Jobs may be planned again in another working directory.
        object.__setattr__(self, "methods", tuple(map(absolute, self.methods)))
