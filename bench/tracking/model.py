"""Fitted methods as MLflow models: plain files that this package reads, and no code.

A logged model is the fold's ``model`` folder beside one JSON file and the other members of a
bundle of this fold, see :mod:`bench.prediction.bundle`. MLflow calls
:func:`_load_pyfunc` of this module to read it; the method's class is the installed one.
"""

from __future__ import annotations

import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import BenchError, ConfigError, DataError
from bench.files import one_line, write_json
from bench.method import Precision
from bench.prediction.bundle import CONTENT, read_content
from bench.prediction.bundle_writing import write_members
from bench.prediction.fitted import LARGE_IMAGE, load_fitted, predict_slide
from bench.prediction.new_image import new_image, stripes
from bench.prediction.slides import TrainedScale, slide_of_image, takes_micrometres
from bench.prediction.spots import ImageSpots
from bench.prediction.stored_models import fold_config
from bench.store import MODEL
from bench.stored_runs import StoredRun
from bench.tracking.fetching import fetched_folder
from bench.tracking.logged_bundle import DatasetOnHand, fold_bundle
from bench.tracking.logged_files import COLUMNS, DATA, FACTS, SCALE

if TYPE_CHECKING:
    import pandas as pd

    from bench.data.card import DatasetCard
    from bench.data.inputs import Slide
    from bench.method import Method


class _Content(BaseModel):
    """Facts about a model in addition to the files saved by the method."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    method: str
    config: dict[str, Any]
    panel: tuple[str, ...] = Field(min_length=1)
    patch_pixels: int | None
    max_image_pixels: int | None
    seed: int
    precision: Precision


class FittedModel:
    """A fitted method that predicts a table of spots.

    Attributes
    ----------
    method
        The fitted method.
    panel
        Predicted genes, in the order of the columns.
    """

    def __init__(
        self,
        method: Method,
        content: _Content,
        device: str,
        scales: Sequence[float] = (),
        um_per_px: float | None = None,
    ) -> None:
        self.method = method
        self.panel = content.panel
        self._content = content
        self._device = device
        self._scales = scales
        self._um_per_px = um_per_px

    def predict(self, spots: pd.DataFrame) -> pd.DataFrame:
        """Predict the expression of spots from their images and coordinates.

        The scale of an image is that of the column ``um_per_px``, else of the change
        ``um_per_px`` of the loaded model, else of the image's metadata. Patches are resampled to
        the scale of the training as :func:`bench.predict` does; a warning says so.

        Parameters
        ----------
        spots
            One row a spot; spots of one image are one section. ``image``: path of the image
            file, or any name of the section for a method that looks at no image; ``x``, ``y``:
            centre in pixels of that image; ``array_col``, ``array_row``: integer coordinates
            on the array; optionally ``um_per_px``: micrometres a pixel, one value an image, NaN
            where it is not known.

        Returns
        -------
        DataFrame
            (spots, panel) float32 on the target scale of the run's protocol, with the index
            of `spots`.

        Raises
        ------
        DataError
            A column is missing or invalid, an image cannot be read, the size of patches is not
            known, the scale is beyond four times that of the training, or it is not known and
            the method takes patches in micrometres.
        """
        import pandas as pd

        missing = [name for name in COLUMNS if name not in spots]
        if missing:
            raise DataError(
                f"spots to predict lack {', '.join(missing)}; needed are {', '.join(COLUMNS)}"
            )
        values = np.empty((len(spots), len(self.panel)), dtype=np.float32)
        images = spots["image"].astype(str)
        places = [np.flatnonzero(images == image) for image in dict.fromkeys(images)]
        # All are looked at before the first is predicted.
        slides = [self._slide(spots.iloc[rows]) for rows in places]
        for rows, slide in zip(places, slides, strict=True):
            values[rows] = self._predicted(slide)
        return pd.DataFrame(values, index=spots.index, columns=list(self.panel))

    def _predicted(self, slide: Slide) -> np.ndarray:
        from bench.method import Context

        content = self._content
        context = Context(seed=content.seed, device=self._device, precision=content.precision)
        values = np.empty((len(slide), len(self.panel)), dtype=np.float32)
        for rows, part in stripes(slide, self.method.reads_section):
            values[rows] = predict_slide(self.method, part, self.panel, context)
        return values

    def _slide(self, spots: pd.DataFrame) -> Slide:
        from bench.data.inputs import Slide

        path = Path(str(spots["image"].iloc[0]))
        try:
            spatial = spots[["x", "y"]].to_numpy(dtype=np.float64)
            array = spots[["array_col", "array_row"]].to_numpy(dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"spots of {path.name}: places must be numbers ({error})") from error
        if not (np.isfinite(spatial).all() and (array == np.rint(array)).all()):
            raise DataError(
                f"spots of {path.name}: x and y must be finite, array_col and array_row whole"
            )
        array_xy = array.astype(np.int64)
        if not self.method.needs_image:
            pixels = self._content.patch_pixels or 0
            return Slide(path.stem, array_xy, spatial, pixels, None)
        if self._content.patch_pixels is None:
            raise DataError(
                "the size of patches is not known, because the dataset's card was not available"
                " when the model was logged; load it with model_config={'patch_pixels': ...}"
            )
        largest = self._content.max_image_pixels or LARGE_IMAGE
        image = new_image(path, largest, self._scale_of(spots, path), 1.0)
        label, configs = self._content.method, [self._content.config]
        trained = TrainedScale(
            label, self._content.patch_pixels, takes_micrometres(configs), self._scales
        )
        names = tuple(str(name) for name in spots.index)
        slide, notes = slide_of_image(image, ImageSpots(names, spatial, array_xy), trained)
        for note in notes:
            warnings.warn(f"{path.name}: {note}", stacklevel=4)
        return slide

    def _scale_of(self, spots: pd.DataFrame, path: Path) -> float | None:
        """Micrometres a pixel that the table states, or that the model was loaded with."""
        if SCALE not in spots:
            return self._um_per_px
        try:
            stated = np.unique(spots[SCALE].to_numpy(dtype=np.float64))
        except (TypeError, ValueError) as error:
            raise DataError(f"spots of {path.name}: {SCALE} must be a number") from error
        if len(stated) != 1 or not (np.isnan(stated[0]) or 0 < stated[0] < np.inf):
            raise DataError(f"spots of {path.name}: {SCALE} must be one number above 0 an image")
        return self._um_per_px if np.isnan(stated[0]) else float(stated[0])


def fetch_model(uri: str, tracking: str | None = None, **changes: Any) -> FittedModel:
    """Load a logged model from a store that need not be trusted.

    Only files are fetched. References of the store to Python modules and code, which
    ``mlflow.pyfunc.load_model`` would follow, are ignored.

    Parameters
    ----------
    uri
        ``models:/m-...`` from the tag ``model`` of a fold's run, or another location of the
        model's files.
    tracking
        MLflow tracking URI; None: MLflow's default.
    changes
        ``device``, ``patch_pixels``, ``max_image_pixels`` or ``um_per_px`` to use instead of what
        was logged.

    Raises
    ------
    DataError
        It is not a model logged by this package, or cannot be fetched.
    UnknownNameError
        Its method is not installed.
    ConfigError
        Its settings are not those of the installed method, or a change cannot be made.
    """
    with fetched_folder(uri, DATA, tracking) as folder:
        return _load_pyfunc(folder, changes)


def save_model(
    folder: Path,
    run: StoredRun,
    index: int,
    card: DatasetCard | None,
    model_id: str | None = None,
    data: DatasetOnHand | None = None,
) -> None:
    """Write the metadata that MLflow needs about a fold's model into a new folder.

    The files saved by the method are not copied: they belong into ``model`` of that folder. The
    other members of a bundle are written, where the method can predict a new image.

    Parameters
    ----------
    folder
        Folder to make.
    run, index
        The run, and the number of the fold.
    card
        Card of the dataset, with the size of patches; None if not available.
    model_id
        The store's id of the model.
    data
        The dataset, for the scale and the patches of the training; None if not available.
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    fold = run.folder.fold(index).facts()
    card = card or (data.card if data else None)
    content = {
        "method": run.facts["method"],
        "config": fold_config(run, index),
        "panel": fold["panel"],
        "patch_pixels": card.patch_pixels if card else None,
        "max_image_pixels": card.max_image_pixels if card else None,
        "seed": run.facts["seed"],
        "precision": fold["precision"],
    }
    packages = [item for item in run.facts["packages"].items() if item[1] != "absent"]
    with tempfile.TemporaryDirectory() as made:
        described = Path(made) / Path(DATA).name
        write_json(described / FACTS, content)
        if data is not None:
            # A model that predicts no new image, or of a file, is read by fetch_model alone.
            with suppress(BenchError):
                write_members(described, fold_bundle(run, index, data), left_out=f"{MODEL}/")
        with _versions_unchecked():
            mlflow.pyfunc.save_model(
                path=str(folder),
                loader_module=__name__,
                data_path=str(described),
                mlflow_model=Model(model_id=model_id, model_uuid=model_id),
                # Stated, so that MLflow does not load the model to infer it.
                pip_requirements=[f"{name}=={version}" for name, version in packages],
                # Values that load_model(..., model_config=...) may change.
                model_config=dict.fromkeys(("device", "patch_pixels", "max_image_pixels", SCALE)),
            )


@contextmanager
def _versions_unchecked() -> Iterator[None]:
    """Without MLflow's warning that a run was fitted under other versions than are installed.

    Who loads the model is told.
    """
    logger = logging.getLogger("mlflow.utils.requirements_utils")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _load_pyfunc(path: str | Path, model_config: dict[str, Any] | None = None) -> FittedModel:
    """Read the data folder of a logged model; MLflow calls this by its name."""
    from bench.devices import available_devices
    from bench.registry import method_class

    folder = Path(path)
    changes = {key: value for key, value in (model_config or {}).items() if value is not None}
    device, um_per_px = changes.pop("device", None), changes.pop(SCALE, None)
    try:
        logged = _Content.model_validate_json((folder / FACTS).read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{folder}: no model of spotbench ({one_line(error)})") from error
    try:
        content = _Content.model_validate({**logged.model_dump(), **changes})
    except ValidationError as error:
        raise ConfigError(f"model_config: {one_line(error)}") from error
    kind = method_class(content.method)
    if device is None:
        device = available_devices()[0] if kind.needs_image else "cpu"
    scales = read_content(folder).scales if (folder / CONTENT).is_file() else ()
    fitted = load_fitted(kind, content.config, folder / MODEL)
    return FittedModel(fitted, content, device, scales, _checked_scale(um_per_px))


def _checked_scale(um_per_px: Any) -> float | None:
    if um_per_px is None:
        return None
    if not isinstance(um_per_px, int | float) or not 0 < um_per_px < np.inf:
        raise ConfigError(f"model_config: {SCALE} must be a number above 0")
    return float(um_per_px)
