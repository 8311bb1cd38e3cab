"""SpotBench: benchmark methods that predict spatial gene expression from H&E histology.

From a notebook::

    import bench

    sections = bench.load_dataset("demo")            # AnnData by section name
    table = bench.run(["mean", "coordinates"], "demo")  # DataFrame, one row a method
    table = bench.tables("demo")                     # all stored runs
    adata = bench.predict("slide.tif", "demo", "ridge", spots="spots.csv")  # a new image
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
    """Sections of a dataset.

    Parameters
    ----------
    name
        Dataset name or path of a card.
    data_root
        Folder of its files; see the option of ``bench run``.
    sections
        Names, all that are on this machine where None.

    Returns
    -------
    dict of str to AnnData
        Raw counts (spots x genes) by section name.
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
    """Run methods on a dataset and return their table; what is finished is not run again.

    The options of ``bench run``, which has the details.

    Parameters
    ----------
    method
        Name, path of a Python file, class, or several of these. A class may be defined anywhere,
        a notebook included; it is sent to the worker processes.
    dataset
        Name, or the path of a card.
    protocol
        Name, or the path of a YAML file.
    panel
        Genes: a rule such as ``hvg:500``, a list of the card, or a file of symbols; None: the
        protocol's.
    aliases
        Table of gene symbols by which genes are renamed.
    folds
        Numbers of the folds that are run; None: all.
    preset
        ``authors``, or ``quick`` for machines without a GPU.
    settings
        Values by ``setting``, for every method that has it, or by ``method.setting``.
    seed, seeds
        All randomness follows from the seed; each of several seeds is a run of its own.
    test_dataset, test_data_root
        Another dataset that is tested on after a fit on all patients of `dataset`, and the folder
        of its files.
    train_patients
        Numbers of training patients in each fold, each a run of its own; None stands for all.
    device, precision, compile
        Where networks run; what image encoders compute in; whether they are compiled.
    data_root, results
        Folder of the dataset's files, None for the default one; folder of the results.
    tracking
        MLflow tracking URI, or ``none``; None: the default database in the results folder.
    force
        Whether finished folds are done again.
    oracles
        Whether the table has the row of the depth oracle.
    encoders, random_encoders
        Image encoders of which every method that has one gets a row each; whether a control of
        random weights stands beside each.
    jobs
        Number of worker processes.

    Returns
    -------
    DataFrame
        One row a method; see :func:`bench.report.tables.score_table`.

    Raises
    ------
    bench.errors.BenchError
        The request cannot be met.
    bench.errors.TrainingError
        A method failed in a fold; the other folds have been finished and kept.
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

    Parameters
    ----------
    dataset
        Name of the dataset.
    protocol
        Name of the protocol.
    results
        Folder of the results.

    Returns
    -------
    DataFrame
        One row a run; see :func:`bench.report.tables.score_table`.
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
    grid: float | None = None,
    mask: str | Path | None = None,
    um_per_px: float | None = None,
    image_scale: float = 1.0,
    protocol: str | None = None,
    run: str | None = None,
    fold: int | None = None,
    refit: bool = False,
    genes: Sequence[str] = (),
    min_pcc: float = MIN_PCC,
    device: str = Request.device,
    precision: str = Request.precision,
    data_root: str | Path | None = None,
    results: str | Path = Request.results,
    tracking: str | None = None,
) -> AnnData:
    """Predict the expression of an H&E image with the models of a stored run or of a `bundle`.

    The options of ``bench predict``, which has the details.

    Parameters
    ----------
    image
        Image file, or whole slide.
    dataset, method, protocol, run, results
        Stored run: dataset, method, protocol, beginning of the key, folder of the results.
    bundle
        File of ``bench export``, ``models:/...`` of an MLflow store, or ``hf://OWNER/REPO``, in
        place of a stored run.
    tracking
        MLflow tracking URI of a bundle ``models:/...``; None: the default database in the results
        folder.
    spots
        File of spots, or a DataFrame with pixel coordinates ``x`` and ``y``, optionally
        ``array_row`` and ``array_col``, indexed by spot.
    grid, mask
        Pitch in micrometres of a grid over the tissue, in place of spots; PNG file to which the
        tissue is drawn.
    um_per_px
        Micrometres a full-resolution pixel; None: that of the image's metadata.
    image_scale
        Pixels of the image file per full-resolution pixel of the spots.
    fold, refit
        Number of the fold whose model predicts, None for the mean of all; whether the method is
        fitted once on all sections.
    genes
        Genes in the order of the result; empty: all.
    min_pcc
        PCC on unseen sections from which a gene counts as predictable.
    device, precision
        Where networks run, and what image encoders compute in.
    data_root
        Folder of the dataset's files; None: the default one.

    Returns
    -------
    AnnData
        Predictions (spots x genes), reliability of the genes in ``var``, of the spots in ``obs``;
        see :func:`bench.prediction.predicting.predict_image`.

    Raises
    ------
    bench.errors.BenchError
        The run, the image or the spots cannot be used.
    """
    from dataclasses import replace

    from bench.prediction.predicting import PredictionRequest, predict_image
    from bench.tracking.named_bundle import named_bundle

    request = PredictionRequest(
        image=Path(image),
        bundle=None if bundle is None else Path(bundle),
        dataset=dataset,
        method=method,
        spots=Path(spots) if isinstance(spots, str) else spots,
        grid=grid,
        mask=None if mask is None else Path(mask),
        protocol=protocol,
        run=run,
        results=Path(results),
        fold=fold,
        refit=refit,
        um_per_px=um_per_px,
        image_scale=image_scale,
        genes=tuple(genes),
        min_pcc=min_pcc,
        data_root=Path(data_root) if data_root is not None else None,
        device=device,
        precision=precision,
    )
    if bundle is None:
        return predict_image(request)
    with named_bundle(str(bundle), request.results, tracking) as path:
        return predict_image(replace(request, bundle=path))
