"""The command that predicts an image without expression."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from bench.cli.apps import app
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
from bench.files import one_line, printable
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

_FILES = "[BUNDLE] IMAGE"


def _tell(line: str) -> None:
    typer.echo(printable(line), err=True)


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
def predict_command(
    files: Annotated[
        list[Path],
        typer.Argument(
            metavar=_FILES, help="Bundle of 'bench export', if any; then the H&E image."
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
) -> None:
    """Predict the expression of an image with the models of a stored run or a bundle."""
    from bench.prediction.outputs import check_outputs, write_prediction
    from bench.prediction.predicting import PredictionRequest, predict_image

    if len(files) > 2:
        raise BenchError(f"one bundle and one image are taken, not {len(files)} files")
    *bundle, image = files
    check_outputs(out, image)
    request = PredictionRequest(
        image=image,
        bundle=bundle[0] if bundle else None,
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
    with redirect_stdout(sys.stderr):
        adata = predict_image(request, _tell)
        written = [write_prediction(adata, path) for path in out]
    notes = adata.uns["spotbench"]["notes"].splitlines()
    for note in [*notes, *(note for one in written for note in one.notes)]:
        _tell(f"note: {note}")
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
            " NAME.spotbench.zip: results, which others import.",
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
    """Write models or predictions of a stored run, or results, into one file."""
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
        raise BenchError(f"{out}: is of one run; name it with --dataset and --method")
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
    with redirect_stdout(sys.stderr):
        export = export_predictions if out.suffix == ".h5ad" else export_bundle
        export(request, out, _tell)
    say(str(out))
