"""The commands. Each is thin over a function; heavy imports stay inside the commands."""

from __future__ import annotations

import os
import shlex
import signal
import sys

import typer

from bench.cli import (
    checking,
    data,
    encoders,
    executing,
    features,
    listing,
    reporting,
    running,
    tracking,
)
from bench.cli.options import DONE, INTERRUPTED, REFUSED, TERMINATED
from bench.cli.terminal import complain
from bench.errors import BenchError, DetachedError

app = typer.Typer(
    name="bench",
    help="Benchmark methods that predict spatial gene expression from H&E histology.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data_app = typer.Typer(
    help="Fetch, check and look at datasets; add your own.", no_args_is_help=True
)
app.add_typer(data_app, name="data")
encoders_app = typer.Typer(help="Fetch or add weights of image encoders.", no_args_is_help=True)
app.add_typer(encoders_app, name="encoders")
features_app = typer.Typer(
    help="Compute features of frozen encoders ahead of runs.", no_args_is_help=True
)
app.add_typer(features_app, name="features")

app.command("list")(listing.list_command)
app.command("run")(running.run_command)
app.command("tune")(running.tune_command)
app.command("import-weights")(running.import_weights_command)
app.command("tables")(reporting.tables_command)
app.command("report")(reporting.report_command)
app.command("figures")(reporting.figures_command)
app.command("genes")(reporting.genes_command)
app.command("ceiling")(reporting.ceiling_command)
app.command("audit")(reporting.audit_command)
data_app.command("get")(data.get_command)
data_app.command("verify")(data.verify_command)
data_app.command("show")(data.show_command)
data_app.command("preview")(data.preview_command)
data_app.command("add")(data.add_command)
encoders_app.command("get")(encoders.get_command)
encoders_app.command("add")(encoders.add_command)
features_app.command("compute")(features.compute_command)
features_app.command("show")(features.show_command)
app.command("sync")(tracking.sync_command)
app.command("ui")(tracking.ui_command)
app.command("check")(checking.check_command)
app.command("doctor")(checking.doctor_command)
app.command("execute", hidden=True)(executing.execute_command)


def main() -> None:
    """Run a command and turn what went wrong into one line and an exit status."""
    arguments = sys.argv[1:]
    terminated = []

    def terminate(*_: object) -> None:
        """Treat SIGTERM as Ctrl-C: everything is cleaned up in the same way."""
        terminated.append(True)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, terminate)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # Ray reads it from the environment alone
    try:
        status = app(args=arguments, prog_name="bench", standalone_mode=False) or DONE
        if status == INTERRUPTED:  # so typer reports Ctrl-C inside a command
            raise KeyboardInterrupt
        sys.exit(status)
    except typer.TyperException as error:
        message = error.format_message()
        if message:  # empty where typer has printed a group's help
            complain(message)
        sys.exit(REFUSED)
    except BenchError as error:
        complain(str(error))
        sys.exit(REFUSED)
    except DetachedError as error:
        complain(f"{error}; follow with: {_again(arguments)}")
        status = INTERRUPTED if error.interrupted else DONE
        sys.exit(TERMINATED if terminated else status)
    except OSError as error:
        # What reaches this place is the machine's state: a cache folder that cannot be written,
        # a disk that is full. Results go through errors of their own.
        if error.errno is None:
            raise
        complain(f"{error.filename or 'the system'}: {os.strerror(error.errno)}")
        sys.exit(REFUSED)
    except KeyboardInterrupt:
        what, status = ("terminated", TERMINATED) if terminated else ("interrupted", INTERRUPTED)
        if arguments[:1] in (["run"], ["tune"], ["import-weights"]):
            complain(f"{what}; what is finished is kept, resume with: {_again(arguments)}")
        else:
            complain(what)
        sys.exit(status)


def _again(arguments: list[str]) -> str:
    """Command that continues an interrupted one."""
    once = {"--force", "--submit-only"}
    return shlex.join(["bench", *(part for part in arguments if part not in once)])
