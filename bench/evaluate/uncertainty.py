"""How sure a mean over sections is, and whether one method beats another."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import special

RESAMPLES = 4000
"""Resamples of a bootstrap, and random sign flips of a permutation test."""

PATIENTS_FOR_A_TEST = 6
"""With fewer patients no two-sided permutation over patients can fall below 0.05."""

_EXACT_PATIENTS = 14


@lru_cache(maxsize=4)
def _times_drawn(sections: tuple[int, ...], resamples: int, seed: int) -> np.ndarray:
    """How often each section is in each resample of patients: the same for all rows of a table.

    Parameters
    ----------
    sections
        Number of sections of each patient.
    resamples, seed
        See :func:`bootstrap_interval`.

    Returns
    -------
    (resamples, sections) float array
        Sections in the order of their patients.
    """
    rng, of_patient = np.random.default_rng(seed), np.array(sections)
    first, rows = np.cumsum(of_patient) - of_patient, np.arange(resamples)
    times = np.zeros((resamples, of_patient.sum()))
    for _ in sections:
        chosen = rng.integers(len(sections), size=resamples)
        number = of_patient[chosen]
        picked = (rng.random((resamples, of_patient.max())) * number[:, None]).astype(np.intp)
        for place in range(of_patient.max()):
            drawn = place < number
            np.add.at(times, (rows[drawn], (first[chosen] + picked[:, place])[drawn]), 1.0)
    return times


def bootstrap_interval(
    values: np.ndarray,
    patients: Sequence[str],
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Interval of a mean over sections that resamples patients, then their sections.

    Resampling both levels would count the spread within patients twice: patient means are
    first shrunk to what is due to patients alone (Carpenter, Goldstein and Rasbash, Applied
    Statistics 52(4), 2003). Percentiles are widened for the small number of patients
    (Hesterberg, The American Statistician 69(4), 2015): plain ones cover too little.

    Parameters
    ----------
    values : (sections,) a score of each section; NaN ones are left out
    patients : (sections,) patient of each section
    level : coverage
    resamples, seed : of the bootstrap

    Returns
    -------
    tuple of two floats
        NaN where fewer than two patients have a value.

    Examples
    --------
    >>> low, high = bootstrap_interval(np.array([1.0, 1.0, 3.0, 3.0]), list("AABB"))
    >>> low < 2.0 < high
    True
    """
    values = np.asarray(values, dtype=np.float64)
    names = np.asarray(patients)
    if values.shape != names.shape or values.ndim != 1:
        raise ValueError(f"{values.shape} values of {names.shape} patients; one of each a section")
    if not 0 < level < 1:
        raise ValueError(f"level must be between 0 and 1, not {level}")
    defined = ~np.isnan(values)
    values, names = values[defined], names[defined]
    unique, of_patient = np.unique(names, return_inverse=True)
    count = len(unique)
    if count < 2:
        return float("nan"), float("nan")
    sections = np.bincount(of_patient)
    values = _two_levels(values, of_patient, sections)
    times = _times_drawn(tuple(sections.tolist()), resamples, seed)
    means = times @ values[np.argsort(of_patient, kind="stable")] / times.sum(axis=1)
    student = special.stdtrit(count - 1, (1 + level) / 2)
    tail = special.ndtr(-np.sqrt(count / (count - 1)) * student)
    # numpy.quantile by its definition, several times as fast.
    places = np.array([tail, 1 - tail]) * (resamples - 1)
    low, high = np.interp(places, np.arange(resamples), np.sort(means))
    return float(low), float(high)


def _two_levels(values: np.ndarray, of_patient: np.ndarray, sections: np.ndarray) -> np.ndarray:
    """Values whose patient means vary as patients do, and whose residuals as sections do."""
    means = np.bincount(of_patient, weights=values) / sections
    residuals = values - means[of_patient]
    repeated = len(values) - len(sections)
    within = (residuals**2).sum() / repeated if repeated else 0.0
    between = max(means.var(ddof=1) - within * (1 / sections).mean(), 0.0)
    noise = within / sections
    # One section of a patient tells nothing of the spread within, which stays in its mean.
    share = np.divide(between, between + noise, out=np.ones_like(means), where=noise > 0)
    shrink = np.sqrt(np.where(sections > 1, share, 1.0))
    widen = np.sqrt(sections / np.maximum(sections - 1, 1))
    centre = values.mean()
    shrunk = centre + shrink * (means - centre)
    made = shrunk[of_patient] + widen[of_patient] * residuals
    return made + (centre - made.mean())


def permutation_test(differences: np.ndarray, patients: Sequence[str], *, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference under sign flips of whole patients.

    All flips are tried up to 14 patients, random ones beyond. Sections of a patient keep
    together: they are not independent.

    Parameters
    ----------
    differences : (sections,) score of one method less that of another; NaN ones are left out
    patients : (sections,) patient of each section
    seed : of the random flips

    Returns
    -------
    float
        NaN where no patient has a difference.
    """
    table = pd.DataFrame({"d": np.asarray(differences, dtype=np.float64), "p": list(patients)})
    sums = table.dropna().groupby("p")["d"].sum().to_numpy()
    if not len(sums):
        return float("nan")
    if len(sums) <= _EXACT_PATIENTS:
        flips = (np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1
        signs, ours = 1 - 2 * flips, 0
    else:
        rng = np.random.default_rng(seed)
        signs, ours = rng.choice([-1, 1], size=(RESAMPLES, len(sums))), 1
    observed, flipped = abs(sums.sum()), np.abs(signs @ sums)
    # Rounding must not make the observed assignment smaller than itself.
    extreme = np.sum(flipped >= observed * (1 - 1e-12) - 1e-300)
    return float((extreme + ours) / (len(signs) + ours))


@dataclass(frozen=True)
class Comparison:
    """One method against another on the same sections.

    Attributes
    ----------
    first, second
        Names; the difference is first less second.
    difference, low, high
        Mean over sections and its 95 % interval.
    sections, patients
        How many both have.
    wilcoxon, permutation
        Two-sided p-values: signed ranks over sections, which takes them as independent, and sign
        flips over patients.
    wilcoxon_holm, permutation_holm
        The same after Holm's correction over all pairs.
    """

    first: str
    second: str
    difference: float
    low: float
    high: float
    sections: int
    patients: int
    wilcoxon: float
    permutation: float
    wilcoxon_holm: float = float("nan")
    permutation_holm: float = float("nan")

    @property
    def has_power(self) -> bool:
        """Whether the permutation over patients can fall below 0.05 at all."""
        return self.patients >= PATIENTS_FOR_A_TEST


def compare_pairs(
    scores: Mapping[str, pd.Series],
    patients: Mapping[str, str],
    *,
    seed: int = 0,
    outside: Collection[str] = (),
    against: str | None = None,
) -> list[Comparison]:
    """All pairs of methods, compared on the sections that both have.

    Parameters
    ----------
    scores : one score by section name, for each method
    patients : patient of each section
    seed : of the resampling
    outside : methods whose pairs do not count for the correction and are not corrected
    against : method that every pair has; all pairs where None

    Returns
    -------
    list of Comparison
        In the order of the methods; a pair without common sections is left out. The corrected
        p values of pairs outside the correction are NaN.
    """
    comparisons = []
    for first, second in combinations(scores, 2):
        if against is not None and against not in {first, second}:
            continue
        both = pd.concat([scores[first], scores[second]], axis=1, join="inner").dropna()
        if both.empty:
            continue
        differences = (both.iloc[:, 0] - both.iloc[:, 1]).to_numpy(dtype=np.float64)
        names = [patients[section] for section in both.index]
        low, high = bootstrap_interval(differences, names, seed=seed)
        comparisons.append(
            Comparison(
                first=first,
                second=second,
                difference=float(differences.mean()),
                low=low,
                high=high,
                sections=len(differences),
                patients=len(set(names)),
                wilcoxon=_wilcoxon(differences),
                permutation=permutation_test(differences, names, seed=seed),
            )
        )
    counted = [not {one.first, one.second} & set(outside) for one in comparisons]
    wilcoxon, permutation = (
        holm(
            [
                getattr(one, test) if own else math.nan
                for one, own in zip(comparisons, counted, strict=True)
            ]
        )
        for test in ("wilcoxon", "permutation")
    )
    return [
        Comparison(**{**vars(one), "wilcoxon_holm": w, "permutation_holm": p})
        for one, w, p in zip(comparisons, wilcoxon, permutation, strict=True)
    ]


def _wilcoxon(differences: np.ndarray) -> float:
    if not np.any(differences):
        return 1.0
    from scipy import stats

    return float(stats.wilcoxon(differences).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment; NaN stay NaN and count for nothing."""
    from statsmodels.stats.multitest import multipletests

    values = np.asarray(p_values, dtype=np.float64)
    adjusted = np.full(len(values), np.nan)
    defined = ~np.isnan(values)
    if defined.any():
        adjusted[defined] = multipletests(values[defined], method="holm")[1]
    return [float(value) for value in adjusted]
