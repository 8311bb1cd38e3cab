"""Predictions on other machines: the request that is sent, and the result that comes back."""

from __future__ import annotations

import platform
import zipfile
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.encoders.declaration import PRETRAINED
from bench.errors import BenchError, DataError
from bench.execute.encoders import prepare_encoder
from bench.execute.executors.ray_node import installation
from bench.execute.executors.ray_transfer import absolute_text
from bench.files import atomic_write, canonical_hash, one_line
from bench.prediction.bundle import CONTENT, read_content
from bench.prediction.fitted import check_image
from bench.prediction.predicting import PredictionRequest, opened_model
from bench.sources import code_hash

if TYPE_CHECKING:
    from anndata import AnnData

_PATHS = ("image", "bundle", "spots", "mask", "results", "data_root")
_CODE = ("bench.prediction.predicting", "bench.prediction.outputs")
_OF_TORCHVISION = "densenet121"


def absolute_request(request: PredictionRequest) -> PredictionRequest:
    """The same request with absolute paths, for machines that see the same disk."""
    changes: dict[str, Any] = {}
    for name in _PATHS:
        value = getattr(request, name)
        if isinstance(value, Path):
            changes[name] = value.absolute()
    for name in ("dataset", "method"):
        changes[name] = absolute_text(getattr(request, name))
    return replace(request, **changes)


def request_to_json(request: PredictionRequest) -> dict[str, Any]:
    """A request as JSON.

    Raises
    ------
    BenchError
        Its spots are a table, which is not sent.
    """
    if not isinstance(request.spots, Path | None):
        raise BenchError("spots are sent to a cluster as a file; write the table into one")
    values = {of.name: getattr(request, of.name) for of in fields(request)}
    return {name: str(of) if isinstance(of, Path) else of for name, of in values.items()}


def request_from_json(content: Mapping[str, Any]) -> PredictionRequest:
    """The request of :func:`request_to_json`.

    Raises
    ------
    DataError
        It is of another version of the package.
    """
    values = dict(content)
    try:
        for name in _PATHS:
            values[name] = None if values[name] is None else Path(values[name])
        return PredictionRequest(**{**values, "genes": tuple(values["genes"])})
    except (KeyError, TypeError) as error:
        raise DataError(
            f"not a request of this version of the package: {one_line(error)}"
        ) from error


def check_before_sending(request: PredictionRequest) -> None:
    """Open the model and fetch weights that anybody may fetch, since nodes do not download.

    Raises
    ------
    BenchError
        The model, its weights or the image are not there.
    """
    check_image(request.image)
    with opened_model(replace(request, refit=False)) as (model, _):
        for fit in model.fits:
            prepare_encoder(fit.config, {})
            if (
                fit.config.get("encoder") == _OF_TORCHVISION
                and fit.config.get("weights") in PRETRAINED
            ):
                from bench.blocks.encoders import image_encoder

                image_encoder(_OF_TORCHVISION, "imagenet")


def request_key(request: PredictionRequest) -> str:
    """Hash of a request, of the state of its files and of the code."""
    asked, files = request_to_json(request), {}
    for name in ("image", "bundle", "spots"):
        path = getattr(request, name)
        if not isinstance(path, Path) or not path.exists():
            continue
        if path.is_dir():  # fetched, into a folder with another name at each call
            asked[name] = canonical_hash(read_content(path).model_dump(mode="json"))
        else:
            facts = path.stat()
            files[name] = [facts.st_size, facts.st_mtime_ns]
    return canonical_hash([asked, files, versions()])


def versions() -> dict[str, str]:
    """Versions that must be equal on all machines."""
    return {**installation(), "code of predictions": code_hash(_CODE)[:12]}


def check_versions(expected: Mapping[str, str]) -> None:
    """Compare the versions of this machine with the caller's :func:`versions`.

    Raises
    ------
    BenchError
        A version differs.
    """
    here = versions()
    for name in {**here, **expected}:
        if here.get(name) != expected.get(name):
            raise BenchError(
                f"node {platform.node()} has {name} {here.get(name)}, the caller has"
                f" {expected.get(name)}; install the same versions on all nodes, or submit again"
            )


def packed_bundle(folder: Path, path: Path) -> Path:
    """Write the members of a bundle in a folder into one file."""
    content = read_content(folder)
    with atomic_write(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name in (CONTENT, *content.files):
            archive.write(folder / name, name, zipfile.ZIP_DEFLATED)
    return path


def read_result(path: Path, request: PredictionRequest) -> AnnData:
    """A prediction that another machine has written.

    Raises
    ------
    DataError
        It cannot be read.
    """
    import anndata

    try:
        adata = anndata.read_h5ad(path)
        (of,) = adata.uns["spatial"].values()
        of["metadata"]["source_image_path"] = str(request.image)
    except (OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({one_line(error)})") from error
    return adata
