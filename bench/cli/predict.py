"""The command that predicts an image without expression."""

from __future__ import annotations

import sys
from contextlib import ExitStack, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from bench.cli.apps import app
from bench.cli.help_pages import OUTPUT, WHERE, HelpCommand, examples
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
from bench.prediction import MIN_PCC
from bench.prediction.arguments import distance, gene_names
from bench.prediction.places import check_place

StoredDatasetOption = Annotated[
    str | None,
    typer.Option(
        "--dataset", "-d", metavar="NAME", help="Dataset of a stored run.", show_default=False
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--method", "-m", metavar="NAME", help="Method of a stored run.", show_default=False
    ),
]
RunOption = Annotated[
    str | None,
    typer.Option(
        metavar="KEY",
        help="First characters of the key of a run, as 'bench runs list' prints it.",
        show_default="the only run",
    ),
]
FoldOption = Annotated[
    int | None,
    typer.Option(
        metavar="N",
        min=0,
        help="Number of the fold whose model is used.",
        show_default="mean of the models of all folds",
    ),
]
RefitOption = Annotated[
    bool,
    typer.Option("--refit", help="Use one model that is fitted on all sections; it is stored."),
]

_FILES = "[MODEL] IMAGE"


class _PredictCommand(HelpCommand):
    """Writes the usage of arguments of which the first may be absent."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What stands behind the name of the command."""
        return ["[OPTIONS]", _FILES]


@app.command(
    "predict",
    cls=_PredictCommand,
    epilog=examples(
        "bench predict model.spotbench slide.tif --grid 100um --out map.html",
        "bench predict slide.tif -d her2st -m mclstexp --spots spots.csv -o out.h5ad",
    ),
)
@with_groups
def predict_command(
    where: ExecutorGroup,
    files: Annotated[
        list[str],
        typer.Argument(
            metavar=_FILES,
            help="H&E image; before it, unless a stored run is named, the model: a .spotbench file,"
            " models:/... (MLflow) or hf://OWNER/REPO (Hugging Face).",
        ),
    ],
    out: Annotated[
        list[Path],
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File to write: .html, .h5ad, .zarr, .csv, .geojson, .png or .pdf. Repeatable.",
        ),
    ],
    dataset: StoredDatasetOption = None,
    method: ModelOption = None,
    spots: Annotated[
        Path | None,
        typer.Option(
            "--spots",
            metavar="FILE",
            help="Positions of spots: tissue_positions of Space Ranger, a CSV file with columns"
            " barcode, x and y, or .h5ad.",
            show_default=False,
        ),
    ] = None,
    grid: Annotated[
        str | None,
        typer.Option(
            metavar="MICROMETRES",
            help="Predict on a grid over the tissue; distance of its points, such as 100um.",
            show_default="spots of --spots",
        ),
    ] = None,
    mask: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="With --grid: PNG file to write the tissue mask to.",
            show_default=False,
        ),
    ] = None,
    um_per_px: Annotated[
        float | None,
        typer.Option(
            "--um-per-px",
            metavar="X",
            help="Micrometres per pixel of the spot coordinates.",
            show_default="read from the image",
        ),
    ] = None,
    image_scale: Annotated[
        float,
        typer.Option(
            "--image-scale",
            metavar="X",
            help="Image pixels per pixel of the spot coordinates; below 1 for a reduced image.",
        ),
    ] = 1.0,
    protocol: StoredProtocolOption = None,
    run: RunOption = None,
    fold: FoldOption = None,
    refit: RefitOption = False,
    genes: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Genes to predict, comma-separated.",
            show_default="all genes of the model",
        ),
    ] = None,
    min_pcc: Annotated[
        float,
        typer.Option(
            "--min-pcc",
            metavar="X",
            help="Minimum PCC on unseen sections for a gene to be marked as predictable.",
        ),
    ] = MIN_PCC,
    device: DeviceOption = DEFAULT_DEVICE,
    precision: Annotated[
        Precision,
        typer.Option(
            "--precision",
            help="Number format of image encoders; auto: as in the fits.",
            rich_help_panel=WHERE,
        ),
    ] = DEFAULT_PRECISION,
    data_root: DataRootOption = None,
    results: ResultsOption = Request.results,
    tracking: Annotated[
        str | None,
        typer.Option(
            metavar="URI",
            help="MLflow tracking URI for a model models:/...",
            show_default="$MLFLOW_TRACKING_URI or SQLite in the results folder",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
) -> None:
    """Predict gene expression from an H&E image.

    The model is a bundle (.spotbench file) or a stored run, named by --dataset and --method.
    Positions are those of --spots, or a grid over the tissue (--grid).
    """
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
    request = PredictionRequest(
        image=image,
        bundle=Path(bundle[0]) if bundle else None,
        dataset=dataset or "",
        method=method or "",
        spots=spots,
        grid=distance("--grid", grid),
        mask=mask,
        protocol=protocol,
        run=run,
        results=results,
        fold=fold,
        refit=refit,
        um_per_px=um_per_px,
        image_scale=image_scale,
        genes=gene_names(genes),
        min_pcc=min_pcc,
        data_root=data_root,
        device=device.value,
        precision=precision.value,
    )
    check_outputs(out, image, spots=spots, bundle=request.bundle, mask=mask)
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


@app.command(
    "export",
    epilog=examples(
        "bench export --dataset demo --method ridge --out ridge.spotbench",
        "bench export --out results.spotbench.zip",
    ),
)
def export_command(
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File to write. NAME.spotbench: models, for 'bench predict' on any machine."
            " NAME.h5ad: stored predictions of the test sections, for scanpy and squidpy."
            " NAME.spotbench.zip: results, for 'bench import'.",
        ),
    ],
    dataset: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            "-d",
            metavar="NAME",
            help="Dataset of the stored runs; required except for results.",
            show_default="results: all",
        ),
    ] = None,
    method: Annotated[
        str | None,
        typer.Option(
            "--method",
            "-m",
            metavar="NAMES",
            help="Method of the stored run; of results several, comma-separated.",
            show_default="results: all",
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
            help="Results: add predictions and the measured expression.",
        ),
    ] = False,
    study: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Results: YAML file that describes them.", show_default=False
        ),
    ] = None,
    results: ResultsOption = Request.results,
) -> None:
    """Write models, predictions or results into one file.

    The suffix of --out decides which.
    """
    if out.name.endswith(".spotbench.zip"):
        check_place("--out", out)
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
    bundle: Annotated[
        Path, typer.Argument(metavar="NAME.spotbench", help="Bundle of 'bench export'.")
    ],
    repository: Annotated[str, typer.Argument(metavar="OWNER/REPO", help="Model repository.")],
    private: Annotated[
        bool, typer.Option("--private", help="Create the repository as private.")
    ] = False,
    dry_run: Annotated[
        Path | None,
        typer.Option(
            "--dry-run",
            metavar="FOLDER",
            help="Write the model card into this folder and upload nothing.",
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
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="File to write: NAME.spotbench."),
    ],
) -> None:
    """Download a bundle from Hugging Face and check its hashes."""
    from bench.prediction.hub_bundles import pull_bundle

    pull_bundle(repository, out)
    say(str(out))
