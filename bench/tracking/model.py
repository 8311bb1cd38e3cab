"""Fitted methods as MLflow models: plain files that this package reads, and no code.

A logged model is the fold's ``model`` folder beside one JSON file. MLflow calls
:func:`_load_pyfunc` of this module to read it; the method's class is the installed one.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.errors import ConfigError, DataError
from bench.files import one_line, write_json
from bench.method import Precision
from bench.prediction.fitted import image_source, load_fitted
from bench.store import MODEL
from bench.stored_runs import StoredRun

if TYPE_CHECKING:
    import pandas as pd

    from bench.data.card import DatasetCard
    from bench.data.inputs import Slide
    from bench.method import Method

COLUMNS = ("image", "x", "y", "array_col", "array_row")
"""Columns that :meth:`FittedModel.predict` needs, one row a spot."""

DATA = "data/fitted"
"""Folder of an MLflow model that MLflow passes to the loader; we chose the last name."""

_CONTENT = "spotbench.json"
_LOGGED = "models:/"


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

    def __init__(self, method: Method, content: _Content, device: str) -> None:
        self.method = method
        self.panel = content.panel
        self._content = content
        self._device = device

    def predict(self, spots: pd.DataFrame) -> pd.DataFrame:
        """Predict the expression of spots from their images and coordinates.

        Parameters
        ----------
        spots
            One row a spot; spots of one image are one section. ``image``: path of the image
            file, or any name of the section for a method that looks at no image; ``x``, ``y``:
            centre in pixels of that image; ``array_col``, ``array_row``: integer coordinates
            on the array.

        Returns
        -------
        DataFrame
            (spots, panel) float32 on the target scale of the run's protocol, with the index
            of `spots`.

        Raises
        ------
        DataError
            A column is missing or invalid, an image cannot be read, or the size
            of patches is not known.
        """
        import pandas as pd

        from bench.method import Context

        missing = [name for name in COLUMNS if name not in spots]
        if missing:
            raise DataError(
                f"spots to predict lack {', '.join(missing)}; needed are {', '.join(COLUMNS)}"
            )
        values = np.empty((len(spots), len(self.panel)), dtype=np.float32)
        images = spots["image"].astype(str)
        places = [np.flatnonzero(images == image) for image in dict.fromkeys(images)]
        slides = [self._slide(spots.iloc[rows]) for rows in places]
        context = Context(
            seed=self._content.seed, device=self._device, precision=self._content.precision
        )
        if slides:
            predicted = self.method.predict(slides, context)
            for rows, part in zip(places, predicted, strict=True):
                values[rows] = part
        return pd.DataFrame(values, index=spots.index, columns=list(self.panel))

    def _slide(self, spots: pd.DataFrame) -> Slide:
        from bench.data.inputs import Slide

        image = Path(str(spots["image"].iloc[0]))
        try:
            spatial = spots[["x", "y"]].to_numpy(dtype=np.float64)
            array = spots[["array_col", "array_row"]].to_numpy(dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise DataError(f"spots of {image.name}: places must be numbers ({error})") from error
        if not (np.isfinite(spatial).all() and (array == np.rint(array)).all()):
            raise DataError(
                f"spots of {image.name}: x and y must be finite, array_col and array_row whole"
            )
        source = None
        if self.method.needs_image:
            if self._content.patch_pixels is None:
                raise DataError(
                    "the size of patches is not known, because the dataset's card was not available"
                    " when the model was logged; load it with model_config={'patch_pixels': ...}"
                )
            source = image_source(image, spatial, self._content.max_image_pixels)
        return Slide(
            name=image.stem,
            array_xy=array.astype(np.int64),
            spatial=spatial,
            patch_pixels=self._content.patch_pixels or 0,
            patch_source=source,
        )


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
        ``device``, ``patch_pixels`` or ``max_image_pixels`` to use instead of what was logged.

    Raises
    ------
    DataError
        It is not a model logged by this package.
    UnknownNameError
        Its method is not installed.
    ConfigError
        Its settings are not those of the installed method, or a change cannot be made.
    """
    from mlflow import MlflowClient
    from mlflow.artifacts import download_artifacts

    if uri.startswith(_LOGGED):
        # MLflow itself would ask its default store for the model, whatever store is named.
        client = MlflowClient(tracking_uri=tracking)
        uri = client.get_logged_model(uri.removeprefix(_LOGGED)).artifact_location
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as made:
        folder = download_artifacts(artifact_uri=uri, tracking_uri=tracking, dst_path=made)
        return _load_pyfunc(Path(folder) / DATA, changes)


def save_model(
    folder: Path, run: StoredRun, index: int, card: DatasetCard | None, model_id: str | None = None
) -> None:
    """Write the metadata that MLflow needs about a fold's model into a new folder.

    The files saved by the method are not copied: they belong into ``model`` of that folder.

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
    """
    import mlflow.pyfunc
    from mlflow.models import Model

    fold = run.folder.fold(index).facts()
    content = {
        "method": run.facts["method"],
        "config": run.facts["config"],
        "panel": fold["panel"],
        "patch_pixels": card.patch_pixels if card else None,
        "max_image_pixels": card.max_image_pixels if card else None,
        "seed": run.facts["seed"],
        "precision": fold["precision"],
    }
    packages = [item for item in run.facts["packages"].items() if item[1] != "absent"]
    with tempfile.TemporaryDirectory() as made:
        data = Path(made) / Path(DATA).name
        write_json(data / _CONTENT, content)
        mlflow.pyfunc.save_model(
            path=str(folder),
            loader_module=__name__,
            data_path=str(data),
            mlflow_model=Model(model_id=model_id, model_uuid=model_id),
            # Stated, so that MLflow does not load the model to infer it.
            pip_requirements=[f"{name}=={version}" for name, version in packages],
            # Values that load_model(..., model_config=...) may change.
            model_config={"device": None, "patch_pixels": None, "max_image_pixels": None},
        )


def _load_pyfunc(path: str | Path, model_config: dict[str, Any] | None = None) -> FittedModel:
    """Read the data folder of a logged model; MLflow calls this by its name."""
    from bench.devices import available_devices
    from bench.registry import method_class

    folder = Path(path)
    changes = {key: value for key, value in (model_config or {}).items() if value is not None}
    device = changes.pop("device", None)
    try:
        logged = _Content.model_validate_json((folder / _CONTENT).read_bytes())
    except (OSError, ValidationError) as error:
        raise DataError(f"{folder}: no model of spotbench ({one_line(error)})") from error
    try:
        content = _Content.model_validate({**logged.model_dump(), **changes})
    except ValidationError as error:
        raise ConfigError(f"model_config: {one_line(error)}") from error
    kind = method_class(content.method)
    if device is None:
        device = available_devices()[0] if kind.needs_image else "cpu"
    return FittedModel(load_fitted(kind, content.config, folder / MODEL), content, device)
