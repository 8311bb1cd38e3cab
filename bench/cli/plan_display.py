"""The plan of a run as text: its fits, and how many of them are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.report.seeds import shown_seeds

if TYPE_CHECKING:
    from bench.execute.plan import Plan


def render_plan(plan: Plan, *, as_json: bool, width: int) -> str:
    """Table of the fits of a plan, a row a method and number of training patients.

    Parameters
    ----------
    plan
        The plan.
    as_json
        For machines, in place of a text.
    width
        Columns of the terminal.
    """
    import pandas as pd

    from bench.report.formats import Format, write_table

    rows: dict[tuple[str, int | None], dict[str, Any]] = {}
    seeds: dict[tuple[str, int | None], list[int]] = {}
    for run in plan.runs:
        key = (run.method_spec.label, run.facts.get("train_patients"))
        row = rows.setdefault(key, {"runs": 0, "fits": 0, "stored": 0})
        row["runs"] += 1
        row["fits"] += len(run.jobs)
        row["stored"] += sum(job.folder.state("tables").done for job in run.jobs)
        seeds.setdefault(key, []).append(int(run.facts["seed"]))
    table = pd.DataFrame(
        [
            {
                "method": label,
                "train patients": "all" if limit is None else str(limit),
                "seeds": shown_seeds(seeds[label, limit]),
                **row,
            }
            for (label, limit), row in rows.items()
        ]
    )
    totals = {name: int(table[name].sum()) for name in ("runs", "fits", "stored")}
    notes = [
        f"In total {totals['fits']} fits of {totals['runs']} runs; {totals['stored']} folds are"
        " stored and are kept if data, code and versions are unchanged."
    ]
    how: Format = "json" if as_json else "text"
    return write_table(table, table.astype(str), notes, how, title=plan.summary, width=width)
