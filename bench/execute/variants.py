"""Variants of a run: its seeds, and the numbers of patients that it is trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import BenchError
from bench.execute.request import MOST_SEEDS, Request
from bench.protocol.folds import Folds
from bench.protocol.rules import Protocol
from bench.protocol.training_patients import patient_limits


@dataclass(frozen=True)
class Variant:
    """Seed and number of training patients of a run.

    Attributes
    ----------
    seed
        Seed.
    patients
        Number of training patients in each fold; None for all.
    name
        Addition to the name of the row in messages; empty where the request has one variant.
    """

    seed: int
    patients: int | None = None
    name: str = ""

    @property
    def facts(self) -> dict[str, int]:
        """What the key of a run hashes in addition, absent where it changes nothing."""
        return {} if self.patients is None else {"train_patients": self.patients}


def checked_seeds(seeds: Sequence[int]) -> tuple[int, ...]:
    """Seeds in their order, each once.

    Raises
    ------
    BenchError
        No seed, a seed that is no whole number of 0 or more, or more than 1,000.
    """
    if len(seeds) > MOST_SEEDS:
        raise BenchError(f"{len(seeds):,} seeds are asked for; at most {MOST_SEEDS:,} are run")
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise BenchError(f"seed {str(seed)[:40]}: a seed is a whole number of 0 or more")
    return tuple(dict.fromkeys(seeds))


def variants_of(request: Request, folds: Folds, protocol: Protocol) -> list[Variant]:
    """Variants of every method of a request, the first seed with all patients first.

    Raises
    ------
    BenchError
        Seeds or numbers of patients that cannot be run.
    """
    seeds = checked_seeds(request.seeds or (request.seed,))
    limits = patient_limits(folds, protocol, tuple(request.train_patients) or (None,))

    def name(seed: int, patients: int | None) -> str:
        words = [] if patients is None else [f"{patients} patient{'s' if patients > 1 else ''}"]
        words += [f"seed {seed}"] if len(seeds) > 1 else []
        return ", ".join(words)

    return [Variant(seed, limit, name(seed, limit)) for limit in limits for seed in seeds]


def without_variants(request: Request, what: str) -> None:
    """Refuse a request with several runs a method, for commands that make one.

    Parameters
    ----------
    request
        The request.
    what
        What makes one run, for the message.

    Raises
    ------
    BenchError
        The request has seeds, a test dataset or numbers of training patients.
    """
    for name in ("seeds", "test_dataset", "train_patients"):
        if getattr(request, name):
            option = f"--{name.replace('_', '-')}"
            raise BenchError(f"{option} is an option of 'bench run'; {what} takes none")
