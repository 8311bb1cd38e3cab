"""The command that predicts an image without expression."""

from __future__ import annotations

import sys
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from bench.cli.apps import app
from bench.cli.option_groups import ExecutorGroup, with_groups
from bench.cli.options import (
    DEFAULT_DEVICE,
    DEFAULT_PRECISION,
    DataRootOption,
    DeviceOption,
    Precision,
    ResultsOption,
    StoredProtocolOption,
    names,
)
from bench.cli.sharing import export_results_command
from bench.cli.terminal import say
from bench.errors import BenchError
from bench.execute.request import Request
from bench.files import one_line
from bench.prediction import MIN_PCC

StoredDatasetOption = Annotated[
    str | None, typer.Option("--dataset", "-d", help="Dataset of a stored run.", show_default=False)
]
ModelOption = Annotated[
    str | None, typer.Option("--method", "-m", help="Method of a stored run.", show_default=False)
]
RunOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY", help="First characters of the run's key.", show_default="the only run"
    ),
]
FoldOption = Annotated[
    int | None,
    typer.Option(min=0, help="Predict with the model of one fold.", show_default="all, mean"),
]
RefitOption = Annotated[
    bool, typer.Option("--refit", help="Fit once on all sections and keep that model.")
]

_FILES = "[MODEL] IMAGE"


def _micrometres(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text.removesuffix("um"))
    except ValueError:
        raise BenchError(f"--grid {one_line(text, 20)}: write a pitch such as 100um") from None


class _PredictCommand(TyperCommand):
    """Writes the usage of arguments of which the first may be absent."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What stands behind the name of the command."""
        return ["[OPTIONS]", _FILES]


@app.command("predict", cls=_PredictCommand)
@with_groups
def predict_command(
    where: ExecutorGroup,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar=_FILES,
            help="Bundle file, models:/... or hf://OWNER/REPO, if any; then the H&E image.",
        ),
    ],
    out: Annotated[
        list[Path],
        typer.Option(
            "--out",
            "-o",
            help="File to write: .html, .h5ad, .zarr, .csv, .geojson, .png or .pdf; repeatable.",
        ),
    ],
    dataset: StoredDatasetOption = None,
    method: ModelOption = None,
    spots: Annotated[
        Path | None,
        typer.Option(
            "--spots",
            help="Spots: tissue_positions of Space Ranger, a CSV with barcode, x and y, or .h5ad.",
            show_default=False,
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="100um", help="Pitch of a grid over the tissue.", show_default="read spots"
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(help="PNG file to draw the tissue to.", show_default=False),
    ] = None,
    um_per_px: Annotated[
        float | None,
        typer.Option(
            "--um-per-px",
            help="Micrometres a pixel of the spots.",
            show_default="of the image's metadata",
        ),
    ] = None,
    image_scale: Annotated[
        float,
        typer.Option(
            "--image-scale", help="Pixels of the image a pixel of the spots; below 1 if reduced."
        ),
    ] = 1.0,
    protocol: StoredProtocolOption = None,
    run: RunOption = None,
    fold: FoldOption = None,
    refit: RefitOption = False,
    genes: Annotated[
        str | None, typer.Option(help="Genes, comma-separated.", show_default="all of the model")
    ] = None,
    min_pcc: Annotated[
        float,
        typer.Option(
            "--min-pcc", help="PCC on unseen sections from which a gene counts as predictable."
        ),
    ] = MIN_PCC,
    device: DeviceOption = DEFAULT_DEVICE,
    precision: Annotated[
        Precision, typer.Option("--precision", help="Of image encoders; auto: that of the fits.")
    ] = DEFAULT_PRECISION,
    data_root: DataRootOption = None,
    results: ResultsOption = Request.results,
    tracking: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="MLflow store of a model models:/...",
            show_default="MLFLOW_TRACKING_URI or SQLite in the results folder",
        ),
    ] = None,
) -> None:
    """Predict the expression of an image with the models of a stored run or a bundle."""
    from bench.cli.prediction_display import PredictionDisplay
    from bench.prediction.executing import predict_with
    from bench.prediction.finished_stripes import FinishedStripes
    from bench.prediction.outputs import check_outputs, write_prediction
    from bench.prediction.predicting import PredictionRequest
    from bench.tracking.named_bundle import named_bundle

    if len(files) > 2:
        raise BenchError(f"one bundle and one image are taken, not {len(files)} files")
    *bundle, name = files
    image = Path(name)
    check_outputs(out, image)
    request = PredictionRequest(
        image=image,
        bundle=Path(bundle[0]) if bundle else None,
        dataset=dataset or "",
        method=method or "",
        spots=spots,
        grid=_micrometres(grid),
        mask=mask,
        protocol=protocol,
        run=run,
        results=results,
        fold=fold,
        refit=refit,
        um_per_px=um_per_px,
        image_scale=image_scale,
        genes=names(genes),
        min_pcc=min_pcc,
        data_root=data_root,
        device=device.value,
        precision=precision.value,
    )
    finished = FinishedStripes()
    with redirect_stdout(sys.stderr), PredictionDisplay() as watcher, ExitStack() as fetched:
        if bundle:
            path = fetched.enter_context(named_bundle(bundle[0], results, tracking))
            request = replace(request, bundle=path)
        adata = predict_with(where.options(), request, watcher, finished)
        written = [write_prediction(adata, path) for path in out]
        finished.forget()
        notes = adata.uns["spotbench"]["notes"].splitlines()
        for note in [*notes, *(note for one in written for note in one.notes)]:
            watcher.say(f"note: {note}")
    for path in (path for one in written for path in one.paths):
        say(str(path))


@app.command("export")
def export_command(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            help="NAME.spotbench: the models, in one file that predicts on another machine."
            " NAME.h5ad: the stored predictions of the test sections, for scanpy and squidpy."
            " NAME.spotbench.zip: results that others import.",
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option("--dataset", "-d", help="Dataset; of results all.", show_default=False),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method", "-m", help="Method; of results several, or all.", show_default=False
        ),
    ] = None,
    protocol: StoredProtocolOption = None,
    run: RunOption = None,
    fold: FoldOption = None,
    refit: RefitOption = False,
    device: DeviceOption = DEFAULT_DEVICE,
    data_root: DataRootOption = None,
    with_predictions: Annotated[
        bool,
        typer.Option(
            "--with-predictions",
            help="Results: predictions too, with the measured expression beside them.",
        ),
    ] = False,
    study: Annotated[
        Path | None,
        typer.Option(help="Results: YAML file that describes them.", show_default="none"),
    ] = None,
    results: ResultsOption = Request.results,
) -> None:
    """Write models or predictions of a stored run, or results for others, into one file."""
    if out.name.endswith(".spotbench.zip"):
        export_results_command(
            out=out,
            results=results,
            dataset=dataset,
            methods=names(method),
            protocol=protocol,
            run=run,
            predictions=with_predictions,
            study=study,
        )
        return
    if not dataset or not method:
        raise BenchError("a model is of one run: name it with --dataset and --method")
    from bench.cli.prediction_display import PredictionDisplay
    from bench.prediction.exporting import export_bundle
    from bench.prediction.predicting import PredictionRequest
    from bench.prediction.stored_predictions import export_predictions

    request = PredictionRequest(
        image=Path(),
        dataset=dataset,
        method=method,
        protocol=protocol,
        run=run,
        results=results,
        fold=fold,
        refit=refit,
        data_root=data_root,
        device=device.value,
    )
    with redirect_stdout(sys.stderr), PredictionDisplay() as watcher:
        export = export_predictions if out.suffix == ".h5ad" else export_bundle
        export(request, out, watcher.say)
    say(str(out))


@app.command("push")
def push_command(
    bundle: Annotated[Path, typer.Argument(metavar="NAME.spotbench", help="A bundle.")],
    repository: Annotated[str, typer.Argument(metavar="OWNER/REPO", help="Model repository.")],
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    dry_run: Annotated[
        Path | None,
        typer.Option(
            "--dry-run",
            metavar="FOLDER",
            help="Write the model card into a folder and send nothing.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Upload a bundle and its model card to Hugging Face."""
    from bench.prediction.hub_bundles import push_bundle, write_card

    if dry_run is not None:
        say(str(write_card(bundle, repository, dry_run)))
        return
    say(push_bundle(bundle, repository, private=private))


@app.command("pull")
def pull_command(
    repository: Annotated[
        str, typer.Argument(metavar="OWNER/REPO[@REVISION]", help="Model repository.")
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write: NAME.spotbench.")],
) -> None:
    """Fetch a bundle from Hugging Face; it is compared with its hashes before it is written."""
    from bench.prediction.hub_bundles import pull_bundle

    pull_bundle(repository, out)
    say(str(out))
