"""The tiny dataset and its commands, as in the tests of the command line."""

from tests.cli.conftest import (  # noqa: F401 - fixtures are found by their names
    bench,
    bench_process,
    damaged,
    plugins,
    results,
    run_together,
    tiny,
)
