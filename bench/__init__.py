"""SpotBench: benchmark methods that predict spatial gene expression from H&E histology.

From a notebook::

    import bench

    sections = bench.load_dataset("demo")            # AnnData by section name
    table = bench.run(["mean", "coordinates"], "demo")  # DataFrame, one row per run
    table = bench.tables("demo")                     # all stored runs
    adata = bench.predict("slide.tif", "demo", "ridge", spots="spots.csv")  # a new image
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.execute.executors.options import ExecutorOptions
from bench.execute.request import Request
from bench.prediction import MIN_PCC
from bench.version import __version__

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

    from bench.method import Method

    MethodLike = str | Path | type[Method]

__all__ = ["__version__", "load_dataset", "predict", "run", "tables"]


def load_dataset(
    name: str, *, data_root: str | Path | None = None, sections: Sequence[str] | None = None
) -> dict[str, AnnData]:
    """Read the sections of a dataset.

    Parameters
    ----------
    name
        Dataset name, or path of a card.
    data_root
        Folder with the files of the dataset; None: ``$SPOTBENCH_DATA/<name>``, or the data folder
        of the user.
    sections
        Names of sections; None: all whose files are on this machine.

    Returns
    -------
    dict of str to AnnData
        By section name, raw counts (spots, genes) in ``X``. Each value is a copy.

    Raises
    ------
    bench.errors.BenchError
        The dataset or a section is unknown, or its files are missing or damaged.
    """
    from bench.data.dataset import open_dataset
    from bench.registry import dataset_card

    root = Path(data_root) if data_root is not None else None
    dataset = open_dataset(dataset_card(name), root, images=False, names=sections)
    return {section.name: section.adata.copy() for section in dataset}


def run(
    method: MethodLike | Sequence[MethodLike],
    dataset: str,
    *,
    protocol: str = Request.protocol,
    panel: str | None = Request.panel,
    aliases: str | Path | None = Request.aliases,
    folds: Sequence[int] | None = Request.folds,
    preset: str = Request.preset,
    settings: Mapping[str, Any] | None = None,
    seed: int = Request.seed,
    device: str = Request.device,
    precision: str = Request.precision,
    compile: bool = Request.compile,  # noqa: A002 - named as the option and as torch has it
    data_root: str | Path | None = Request.data_root,
    results: str | Path = Request.results,
    tracking: str | None = None,
    force: bool = Request.force,
    oracles: bool = Request.oracles,
    encoders: Sequence[str] = Request.encoders,
    random_encoders: bool = Request.random_encoders,
    seeds: Sequence[int] = Request.seeds,
    test_dataset: str | None = Request.test_dataset,
    test_data_root: str | Path | None = Request.test_data_root,
    train_patients: Sequence[int | None] = Request.train_patients,
    jobs: int = ExecutorOptions.jobs,
) -> pd.DataFrame:
    """Run methods on a dataset and return the table of their scores.

    Finished folds are kept and not computed again. Parameters are the options of ``bench run``.

    Parameters
    ----------
    method
        Name, path of a Python file, class, or several of these. A class may be defined anywhere,
        also in a notebook; it is sent to the worker processes.
    dataset
        Dataset name, or path of a card.
    protocol
        Protocol name, or path of a YAML file.
    panel
        Genes to predict: a rule such as ``hvg:500``, the name of a gene list of the card, or a
        file of gene symbols; None: the panel of the protocol.
    aliases
        Table of gene symbols; genes are renamed to the approved symbols.
    folds
        Numbers of the folds to run; None: all.
    preset
        Settings to start from: ``authors`` for those of the paper, or ``quick`` for a machine
        without a GPU.
    settings
        Values by ``setting``, for every method that has it, or by ``method.setting``.
    seed, seeds
        Seed of all random numbers; several seeds for one run each.
    test_dataset, test_data_root
        Dataset to test on after fitting on all patients of `dataset`, and the folder with its
        files.
    train_patients
        Numbers of training patients in each fold, one run each; None in the list: all patients.
    device, precision, compile
        Device that networks run on; number format of image encoders; whether image encoders are
        compiled.
    data_root, results
        Folder with the files of the dataset, None: the default one; results folder.
    tracking
        MLflow tracking URI, or ``none``; None: the default database in the results folder.
    force
        Whether finished folds are fitted and scored again.
    oracles
        Whether the depth oracle is scored too.
    encoders, random_encoders
        Image encoders, one run each for every method that has an encoder; whether each encoder is
        also run with random weights, as a control.
    jobs
        Number of worker processes.

    Returns
    -------
    DataFrame
        One row per run; see :func:`bench.report.tables.score_table`.

    Raises
    ------
    bench.errors.BenchError
        A name is unknown, an option is not allowed, or data are missing or damaged.
    bench.errors.TrainingError
        A method failed in at least one fold; the other folds are finished and kept.
    """
    from bench.errors import TrainingError
    from bench.execute.executors.base import JobWatcher
    from bench.execute.executors.choose import make_executor
    from bench.execute.run import run_request
    from bench.execute.transfers import check_cards
    from bench.fetch.fetch import fetch_if_absent
    from bench.registry import dataset_card, reference_to
    from bench.report.tables import score_table
    from bench.tracking.upload import Tracker, tracking_uri

    methods = method if isinstance(method, Sequence) and not isinstance(method, str) else [method]
    test_root = Path(test_data_root) if test_data_root is not None else None
    if test_dataset:
        check_cards(dataset_card(dataset), dataset_card(test_dataset))
        fetch_if_absent(dataset_card(test_dataset), test_root)
    fetch_if_absent(dataset_card(dataset), Path(data_root) if data_root is not None else None)
    results = Path(results)
    uri = tracking_uri(tracking, results)
    result = run_request(
        Request(
            methods=tuple(map(reference_to, methods)),
            dataset=dataset,
            protocol=protocol,
            panel=panel,
            aliases=Path(aliases) if aliases is not None else None,
            folds=None if folds is None else tuple(folds),
            preset=preset,
            settings=dict(settings or {}),
            seed=seed,
            device=device,
            precision=precision,
            compile=compile,
            data_root=Path(data_root) if data_root is not None else None,
            results=results,
            force=force,
            oracles=oracles,
            encoders=tuple(encoders),
            random_encoders=random_encoders,
            seeds=tuple(seeds),
            test_dataset=test_dataset,
            test_data_root=test_root,
            train_patients=tuple(train_patients),
        ),
        executor=make_executor(ExecutorOptions(jobs=jobs)),
        uploads=Tracker(
            uri, results, JobWatcher().warn, dataset, Path(data_root) if data_root else None
        ),
    )
    if result.failures:
        first = result.failures[0]
        raise TrainingError(
            f"{len(result.failures)} folds failed, first {first.label} fold {first.fold}:"
            f" {first.reason}"
        )
    return score_table(result.runs)


def tables(
    dataset: str, *, protocol: str = Request.protocol, results: str | Path = Request.results
) -> pd.DataFrame:
    """Table of all stored runs on a dataset under a protocol, as ``bench tables`` has it.

    Rows have the names that ``bench runs label`` gave them. A failed run is left out once a later
    run of the same method has a finished fold.

    Runs whose record is damaged are left out.

    Parameters
    ----------
    dataset
        Name of the dataset.
    protocol
        Name of the protocol.
    results
        Results folder.

    Returns
    -------
    DataFrame
        One row per run; see :func:`bench.report.tables.score_table`.
    """
    from bench.inventory import named_runs, without_replaced
    from bench.report.tables import newest, score_table
    from bench.stored_runs import stored_runs

    runs = newest(stored_runs(Path(results), dataset, protocol))
    return score_table(named_runs(without_replaced(runs)))


def predict(
    image: str | Path,
    dataset: str = "",
    method: str = "",
    *,
    bundle: str | Path | None = None,
    spots: str | Path | pd.DataFrame | None = None,
    grid: float | str | None = None,
    mask: str | Path | None = None,
    um_per_px: float | None = None,
    image_scale: float = 1.0,
    protocol: str | None = None,
    run: str | None = None,
    fold: int | None = None,
    refit: bool = False,
    genes: str | Sequence[str] | None = None,
    min_pcc: float = MIN_PCC,
    device: str = Request.device,
    precision: str = Request.precision,
    data_root: str | Path | None = None,
    results: str | Path = Request.results,
    tracking: str | None = None,
) -> AnnData:
    """Predict gene expression from an H&E image.

    The model is a stored run, named by `dataset` and `method`, or a `bundle`. Parameters are the
    options of ``bench predict``.

    Parameters
    ----------
    image
        File of an image or whole-slide image.
    dataset, method, protocol, run, results
        Stored run: dataset, method, protocol, first characters of its key, results folder.
    bundle
        Model in place of a stored run: file of ``bench export``, ``models:/...`` of an MLflow
        store, or ``hf://OWNER/REPO``.
    tracking
        MLflow tracking URI of a bundle ``models:/...``; None: the default database in the results
        folder.
    spots
        File with positions of spots, or DataFrame indexed by spot with full-resolution pixel
        coordinates ``x`` and ``y``, optionally ``array_row`` and ``array_col``.
    grid, mask
        In place of spots, distance in micrometres between the points of a grid over the tissue, as
        a number or a text such as ``100um``; PNG file to write the tissue mask to.
    um_per_px
        Micrometres per full-resolution pixel; None: read from the metadata of the image.
    image_scale
        Pixels of the image file per full-resolution pixel of the spots.
    fold, refit
        Number of the fold whose model is used, None: mean of the models of all folds; whether one
        model is fitted on all sections and used instead.
    genes
        Genes to predict, in the order of the result, as a sequence or a comma-separated text; None:
        all genes of the model.
    min_pcc
        Minimum PCC on unseen sections for a gene to be marked as predictable.
    device, precision
        Device that networks run on; number format of image encoders.
    data_root
        Folder with the files of the dataset; None: the default one.

    Returns
    -------
    AnnData
        Predictions (spots, genes) in ``X``; reliability of genes in ``var`` and of spots in
        ``obs``; see :func:`bench.prediction.predicting.predict_image`.

    Raises
    ------
    bench.errors.BenchError
        An argument is of another type, or the run, the image or the spots cannot be used.
    """
    from dataclasses import replace

    from bench.errors import BenchError
    from bench.prediction.arguments import distance, file_path, gene_names, number, whole_number
    from bench.prediction.outputs import check_outputs
    from bench.prediction.predicting import PredictionRequest, predict_image
    from bench.tracking.named_bundle import named_bundle

    if isinstance(spots, str | PathLike):
        spots = file_path("spots", spots)
    elif spots is not None and not hasattr(spots, "columns"):
        raise BenchError(
            f"spots of type {type(spots).__name__}: must be the path of a file or a DataFrame"
        )
    texts = {
        "dataset": dataset,
        "method": method,
        "protocol": protocol,
        "run": run,
        "device": device,
        "precision": precision,
        "tracking": tracking,
    }
    for name, text in texts.items():
        if not isinstance(text, str | None):
            raise BenchError(f"{name} of type {type(text).__name__}: must be a text")
    request = PredictionRequest(
        image=file_path("image", image),
        bundle=None if bundle is None else file_path("bundle", bundle),
        dataset=dataset,
        method=method,
        spots=spots,
        grid=distance("--grid", grid),
        mask=None if mask is None else file_path("mask", mask),
        protocol=protocol,
        run=run,
        results=file_path("results", results),
        fold=whole_number("fold", fold),
        refit=refit,
        um_per_px=number("um_per_px", um_per_px),
        image_scale=image_scale,
        genes=gene_names(genes),
        min_pcc=min_pcc,
        data_root=None if data_root is None else file_path("data_root", data_root),
        device=device,
        precision=precision,
    )
    positions = request.spots if isinstance(request.spots, Path) else None
    check_outputs([], request.image, spots=positions, bundle=request.bundle, mask=request.mask)
    if bundle is None:
        return predict_image(request)
    with named_bundle(str(bundle), request.results, tracking) as path:
        return predict_image(replace(request, bundle=path))
