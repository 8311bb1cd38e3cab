"""Warnings of libraries are shown once a run at most, not once a fold or worker."""

from collections import Counter

import pytest


def warnings_in(text):
    return Counter(line.strip() for line in text.splitlines() if "Warning" in line)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_run_repeats_no_warning(bench_process, tiny, results, tmp_path, jobs):
    network = ("--preset", "quick", "--set", "stnet.epochs=1", "--set", "input_size=32")
    answer = bench_process(
        *("run", "--method", "mean,coordinates,ridge,stnet", *tiny.options, *network),
        *("--jobs", jobs, "--results", results, *tiny.quick_protocol),
        env={"SPOTBENCH_CACHE": str(tmp_path / "cache"), "PYTHONWARNINGS": ""},
    )
    assert answer.status == 0, answer
    repeated = {line: n for line, n in warnings_in(answer.stderr).items() if n > 1}
    assert repeated == {}
    assert not warnings_in(answer.stdout)
