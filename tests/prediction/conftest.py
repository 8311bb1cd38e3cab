"""A run of every built-in method that looks at images, and sections as new images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

from bench.data.dataset import open_dataset
from bench.execute.request import Request
from bench.execute.run import RunResult, run_request
from bench.registry import dataset_card, find_methods, method_class
from tests.cli.tiny_dataset import TinyDataset, write_tiny_dataset

IMAGE_METHODS = sorted(
    name
    for name, found in find_methods().items()
    if found.source == "built-in" and method_class(name).needs_image
)


@dataclass(frozen=True)
class Predicted:
    """A dataset, and the results of runs on it."""

    dataset: TinyDataset
    results: Path

    @property
    def model(self) -> tuple[str, ...]:
        """Options that choose dataset and results, and the CPU."""
        return (*self.dataset.where, "--results", str(self.results), "--device", "cpu")

    def image(self, section: str) -> Path:
        """Image of a section."""
        return self.dataset.image(section)

    def spots(self, section: str, path: Path, *, array: bool = True) -> pd.DataFrame:
        """Spots of a section, also written to a file."""
        adata = open_dataset(dataset_card(str(self.dataset.card)), self.dataset.root).section(
            section
        )
        table = pd.DataFrame(adata.spatial, columns=["x", "y"], index=adata.adata.obs_names)
        if array:
            table[["array_col", "array_row"]] = adata.array_xy
        table.to_csv(path, index_label="barcode")
        return table

    def scale(self, section: str) -> float:
        """Micrometres a pixel of a section."""
        opened = open_dataset(dataset_card(str(self.dataset.card)), self.dataset.root)
        return opened.section(section).micrometres_per_pixel

    def run(self, methods: Sequence[str], folds: Sequence[int] | None = None) -> RunResult:
        """Run methods with preset tiny."""
        return run_request(
            Request(
                methods=tuple(methods),
                dataset=str(self.dataset.card),
                folds=None if folds is None else tuple(folds),
                preset="tiny",
                device="cpu",
                data_root=self.dataset.root,
                results=self.results,
                oracles=False,
            )
        )

    def stored(self, folder: Path, section: str) -> pd.DataFrame:
        """Stored predictions of a section in the folder of a fold."""
        adata = anndata.read_h5ad(folder / "predictions.h5ad")
        chosen = adata[adata.obs["section"] == section]
        spots = [name.removeprefix(f"{section}_") for name in chosen.obs_names]
        return pd.DataFrame(np.asarray(chosen.X), index=spots, columns=list(chosen.var_names))


@pytest.fixture(scope="session")
def predicted(tmp_path_factory: pytest.TempPathFactory) -> Predicted:
    """The tiny dataset with an empty results folder."""
    folder = tmp_path_factory.mktemp("predicted")
    return Predicted(write_tiny_dataset(folder / "tiny"), folder / "results")


@pytest.fixture(scope="session")
def ridge(predicted: Predicted) -> Predicted:
    """All folds of ridge."""
    result = predicted.run(["ridge"])
    assert not result.failures
    return predicted
