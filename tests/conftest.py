"""What all tests share: a cache of their own, small sections, the folder of real data."""

from __future__ import annotations

import gc
import gzip
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from anndata import AnnData
from hypothesis import HealthCheck, settings

from bench.contract.small_fold import as_slide, small_fold
from bench.data.card import DatasetCard
from bench.data.inputs import Slide, TrainingData
from bench.data.section import Section

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"


# A busy machine fails no test.
settings.register_profile("tests", deadline=None, suppress_health_check=[HealthCheck.too_slow])


def pytest_configure(config: pytest.Config) -> None:
    leave_the_user_out(config)
    settings.load_profile("tests")
    config.addinivalue_line(
        "markers", "real_data: reads the folder of real data that lies beside the repository"
    )


def leave_the_user_out(config: pytest.Config) -> None:
    """Take the user's variables away; put datasets and caches into a folder of this run.

    Before the collection: parametrised tests ask for datasets and methods as they are imported.
    Workers of one run share its cache, in which several processes may work at a time: the demo
    and what is made once for a machine are made once for a run.
    """
    shared = os.environ.get("SPOTBENCH_CACHE") if hasattr(config, "workerinput") else None
    patch = pytest.MonkeyPatch()
    config.add_cleanup(patch.undo)
    folder = Path(tempfile.mkdtemp(prefix="spotbench-tests-"))
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
    for name in list(os.environ):
        if name.startswith(("SPOTBENCH_", "MLFLOW_")) or name == "RAY_ADDRESS":
            patch.delenv(name)
    patch.setenv("SPOTBENCH_DATA", str(folder / "data"))
    patch.setenv("SPOTBENCH_CACHE", shared or str(folder / "cache"))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Iterator[None]:
    """Collect without the garbage collector, which would look at all modules time and again.

    It does not look at them later either: they live as long as the tests.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_unconfigure() -> None:
    gc.unfreeze()  # libraries that count their objects at the end find them released


_COSTLY = ("tracking", "cli", "execute", "tune", "report", "contract", "methods", "test_")
"""Beginnings of the names, below ``tests``, of what starts processes and fits networks."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Costly files first: the workers of a run then end at the same time.
    def place(item: pytest.Item) -> int:
        name = item.nodeid.removeprefix("tests/")
        if name.startswith("test_architecture"):
            return len(_COSTLY)
        return next((n for n, part in enumerate(_COSTLY) if name.startswith(part)), len(_COSTLY))

    items.sort(key=place)
    for item in items:
        if "shared_folder" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.real_data)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, for a test that counts or damages what lies in it."""
    folder = tmp_path / "own-cache"
    monkeypatch.setenv("SPOTBENCH_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session")
def shared_folder() -> Path:
    """Folder ``shared`` beside the repository, which holds real data."""
    if not SHARED.is_dir():
        pytest.skip("no folder 'shared' with real data beside the repository")
    return SHARED


@pytest.fixture(scope="session")
def make_section() -> Callable[..., Section]:
    """Section in memory, from an array of counts; spots stand on a line of ten columns."""

    def make(
        name: str,
        patient: str,
        counts: np.ndarray,
        genes: Sequence[str] | None = None,
        image: Path | None = None,
        image_hash: str | None = None,
    ) -> Section:
        counts = np.asarray(counts)
        spots = np.arange(len(counts))
        names = list(genes) if genes is not None else [f"G{i}" for i in range(counts.shape[1])]
        obs = pd.DataFrame(
            {"array_row": spots // 10, "array_col": spots % 10, "in_tissue": 1, "label": ""},
            index=[f"{i % 10}x{i // 10}" for i in spots],
        )
        pixels = np.stack([50.0 + 20 * (spots % 10), 50.0 + 20 * (spots // 10)], axis=1)
        adata = AnnData(
            X=sp.csr_matrix(counts.astype(np.int32)),
            obs=obs,
            var=pd.DataFrame(index=pd.Index(names)),
            obsm={"spatial": pixels},
        )
        return Section(name, patient, adata, image, image_hash, 10**6, 1.0, 32)

    return make


@pytest.fixture(scope="session")
def write_legacy() -> Callable[..., dict[str, Path]]:
    """Write counts, a spot file and, if given, labels in the legacy layout; paths by role."""

    def write(
        folder: Path,
        counts: pd.DataFrame,
        spots: pd.DataFrame,
        labels: pd.DataFrame | None = None,
        *,
        zipped: bool = False,
        newline: str = "\n",
    ) -> dict[str, Path]:
        folder.mkdir(parents=True, exist_ok=True)
        files = {
            "counts": folder / ("counts.tsv.gz" if zipped else "counts.tsv"),
            "spots": folder / "spots.tsv",
        }
        content = counts.to_csv(sep="\t", lineterminator=newline).encode()
        files["counts"].write_bytes(gzip.compress(content) if zipped else content)
        tables = {"spots": spots}
        if labels is not None:
            files["labels"] = folder / "labels.tsv"
            tables["labels"] = labels
        for role, table in tables.items():
            content = table.to_csv(sep="\t", index=False, lineterminator=newline, na_rep="NaN")
            files[role].write_bytes(content.encode())
        return files

    return write


@pytest.fixture(scope="session")
def card_fields() -> Callable[..., dict]:
    """Fields of a card with one section ``S1`` in the legacy layout, changed as asked."""

    def fields(**changes: object) -> dict:
        files = {
            "counts": {"path": "counts.tsv"},
            "spots": {"path": "spots.tsv"},
            "image": {"path": "image.png"},
        }
        return {
            "name": "small",
            "title": "a small dataset",
            "citation": "none",
            "licence": "MIT",
            "platform": "none",
            "tissue": "none",
            "source": "made by a test",
            "layout": "legacy_st",
            "patch_pixels": 32,
            "micrometres_per_pixel": 2.0,
            "spot_diameter_micrometres": 100,
            "max_image_pixels": 1_000_000,
            "sections": [{"name": "S1", "patient": "P1", "files": files}],
            **changes,
        }

    return fields


@pytest.fixture(scope="session")
def make_card(card_fields: Callable[..., dict]) -> Callable[..., DatasetCard]:
    """Card of one section ``S1``, its fields changed as asked."""
    return lambda **changes: DatasetCard.model_validate(card_fields(**changes))


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> TrainingData:
    """A fold small enough to fit any method on in a second; not to be changed."""
    return small_fold(tmp_path_factory.mktemp("small-fold"))


@pytest.fixture(scope="session")
def slide(data: TrainingData) -> Slide:
    """A section of that fold as a method would be given it to predict."""
    return as_slide(data.validation[0])
