"""All checks, and running them on a method."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bench.contract.check import Check, Result, name_of, run_check, title_of
from bench.contract.demo import is_quick_on_the_demo
from bench.contract.hard_folds import (
    copes_with_a_section_of_one_spot,
    copes_with_a_slide_of_one_spot,
    copes_with_constant_genes,
    copes_with_isolated_spots,
    fits_without_validation_sections,
)
from bench.contract.importing import imports_little, module_of
from bench.contract.inputs import leaves_inputs_alone, never_sees_test_expression
from bench.contract.predictions import (
    does_without_images,
    ignores_global_state,
    looks_at_images_as_it_says,
    predicts_alone_as_in_company,
    predicts_each_slide,
    reads_one_patch_a_spot_as_it_says,
    repeats_itself,
    tries_settings_of_prediction_on_one_fit,
)
from bench.contract.settings import presets_are_valid, search_space_is_valid
from bench.contract.storage import comes_back_from_its_folder, saves_plain_files_in_its_folder
from bench.contract.subject import DATASET, Subject
from bench.contract.training import (
    devices_agree,
    early_stopping_needs_validation,
    every_parameter_learns,
)
from bench.method_references import absolute, is_own
from bench.registry import check_installed, find_methods, load_method

if TYPE_CHECKING:
    from bench.execute.executors.base import JobWatcher

CHECKS: tuple[Check, ...] = (
    predicts_each_slide,
    repeats_itself,
    ignores_global_state,
    predicts_alone_as_in_company,
    reads_one_patch_a_spot_as_it_says,
    tries_settings_of_prediction_on_one_fit,
    comes_back_from_its_folder,
    saves_plain_files_in_its_folder,
    every_parameter_learns,
    never_sees_test_expression,
    leaves_inputs_alone,
    fits_without_validation_sections,
    copes_with_a_section_of_one_spot,
    copes_with_a_slide_of_one_spot,
    copes_with_isolated_spots,
    copes_with_constant_genes,
    looks_at_images_as_it_says,
    does_without_images,
    early_stopping_needs_validation,
    devices_agree,
    presets_are_valid,
    search_space_is_valid,
    imports_little,
    is_quick_on_the_demo,
)
"""Checks in the order in which they run."""


class Listener:
    """Receiver of the progress of the checks; the base class ignores it."""

    def started(self, title: str) -> None:
        """Report that a check begins."""

    def finished(self, result: Result) -> None:
        """Report the result of a check."""


def check_method(
    method: str,
    *,
    settings: Mapping[str, Any] | None = None,
    demo: bool = True,
    listener: Listener | None = None,
    jobs: Callable[[], AbstractContextManager[JobWatcher | None]] = nullcontext,
) -> list[Result]:
    """Run all checks on a method: built-in, of an installed plugin, or in a file.

    Parameters
    ----------
    method
        Name of the method, or a reference to one; see :mod:`bench.method_references`.
    settings
        Settings that replace those of every preset, as in ``bench run``.
    demo
        Whether to run it on the demo, which takes longest.
    listener
        Receives the progress.
    jobs
        Opens a watcher of the run on the demo.

    Returns
    -------
    list of Result
        One per check, in the order of :data:`CHECKS`.

    Raises
    ------
    UnknownNameError
        No such method or setting.
    BenchError
        Its module cannot be imported.
    """
    from bench.execute.method_specs import resolve_methods
    from bench.settings import own_settings

    listener, method = listener or Listener(), absolute(method)
    installed = find_methods()
    if not is_own(method):
        check_installed(method, installed)
    # Another process checks that the method can be imported and has the settings.
    resolve_methods([method], DATASET, "authors", settings or {})
    kind = load_method(method)
    module = kind.__module__ if is_own(method) else module_of(installed[method])
    changes = own_settings(kind, settings or {}, set(), method)
    results = []
    with TemporaryDirectory(prefix="bench-check-", ignore_cleanup_errors=True) as folder:
        subject = Subject(kind, Path(folder), module, jobs, method, changes)
        for check in CHECKS:
            listener.started(title_of(check))
            if check is is_quick_on_the_demo and not demo:
                left_out = "left out by --no-demo"
                result = Result(name_of(check), title_of(check), "not applicable", left_out)
            else:
                result = run_check(check, subject)
            results.append(result)
            listener.finished(result)
    return results
