"""Progress of tuning."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import TaskID

from bench.cli.run_display import RunDisplay
from bench.tune.results import Tuned, best_trial
from bench.tune.slots import counts, holders, settled
from bench.tune.study import StudySpec
from bench.tune.tuning import TuningWatcher

if TYPE_CHECKING:
    from optuna import Study


class TuningDisplay(RunDisplay, TuningWatcher):
    """A bar a study, then the bars of the refit; one line a study in a file."""

    _study: TaskID | None = None

    def study_started(self, spec: StudySpec, inner: int) -> None:
        """Say what is searched on what."""
        said = f"{spec.kind.name} fold {spec.job.fold}"
        self.print(f"{said}: tuning on {inner} inner folds of its training sections")
        timed = spec.request.timeout is not None
        total = None if timed else spec.request.trials
        self._study = self.bars.add_task(f"{said} trials", total=total, note="reading data")

    def study_progress(self, spec: StudySpec, study: Study) -> None:
        """Move the bar and show the best value so far."""
        if self._study is None:
            return
        trials = study.get_trials(deepcopy=False)
        done = sum(map(settled, holders(trials).values()))
        note = ""
        if counts(trials)["complete"]:
            note = f"best {spec.request.objective} {best_trial(spec, trials).value:.4f}"
        self.bars.update(self._study, completed=done, note=note)

    def study_done(self, spec: StudySpec, tuned: Tuned | None, said: str) -> None:
        """Say what came of it."""
        if self._study is not None:
            self.bars.remove_task(self._study)
            self._study = None
        line = f"{spec.kind.name} fold {spec.job.fold}: {said or 'no trial'}"
        if tuned is not None:
            line += f"; {spec.request.objective} {tuned.value:.4f} on the inner folds"
            if tuned.default_value is not None:
                line += f" (default settings {tuned.default_value:.4f})"
            line += f", {tuned.seconds:.0f} s"
        self.print(line)
