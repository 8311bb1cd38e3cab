"""Request for tuning; defines the defaults of tuning."""

from __future__ import annotations

from dataclasses import dataclass, replace

from bench.errors import ConfigError
from bench.execute.request import Request
from bench.tune.choices import LEADING_SCORE, Budget, ObjectiveScore, Pruner, Sampler

MOST_TRIALS = 100_000


@dataclass(frozen=True)
class TuneRequest:
    """Methods, data and budget of tuning.

    Attributes
    ----------
    run
        Methods, dataset, protocol, folds, preset, fixed settings and the rest of a run.
    trials
        Trials of each study; a study is one method on one outer fold.
    timeout
        Seconds of trials per study and worker, None without limit; a trial that has begun is
        finished.
    jobs
        Worker processes.
    storage
        Database URL, None for a journal file in the results.
    sampler, pruner, objective
        See the enumerations.
    inner_folds
        Largest number of inner folds.
    """

    run: Request
    trials: int = 50
    timeout: float | None = None
    jobs: int = 1
    storage: str | None = None
    sampler: Sampler = Sampler.tpe
    pruner: Pruner = Pruner.hyperband
    objective: ObjectiveScore = LEADING_SCORE
    inner_folds: int = 3


def equal_budget(request: TuneRequest, budget: Budget) -> TuneRequest:
    """Request with the limits of the budget applied.

    Raises
    ------
    ConfigError
        Budget ``time`` without a timeout.
    """
    if budget == Budget.equal:
        return request
    if request.timeout is None:
        raise ConfigError("--budget time needs --timeout")
    return replace(request, trials=MOST_TRIALS)
