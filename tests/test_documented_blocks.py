"""Files and code that README and the pages of docs show are what the pages say."""

from __future__ import annotations

import types

import pytest
import yaml

from bench.cli.config_file import read_config
from bench.data.card import DatasetCard
from bench.execute.executors.profile import read_profile
from bench.fetch.patients import read_patients
from bench.protocol.rules import find_protocol
from bench.registry import dataset_card, method_class
from bench.study.declaration import read_study
from tests.documented_commands import block, blocks
from tests.documented_treatments import GPU, PATIENTS

SPOT_COLUMNS = ("image", "x", "y", "array_col", "array_row")


def read_study_block(text, folder):
    path = folder / "mine.yaml"
    path.write_text(text)
    study = read_study(path)
    assert study.parts[0].seeds == (0, 1, 2)


def read_profile_block(text, folder):
    path = folder / "profile.yaml"
    path.write_text(text)
    assert read_profile(path)


def read_protocol_block(text, folder):
    path = folder / "mine.yaml"
    path.write_text(text)
    assert find_protocol(str(path)).name == "listed-genes"


def read_config_block(text, folder):
    path = folder / "run.yaml"
    path.write_text(text)
    fields = read_config(path)
    dataset_card(fields["dataset"])
    (method,) = (method_class(name) for name in fields["methods"])
    assert set(fields["config"]) <= set(method.Config.model_fields)


def read_card_block(text, folder):
    """The fields shown are fields of a card, with the rest as 'bench data add' writes it."""
    content = yaml.safe_load(text)
    content |= {"name": "mine", "licence": "the owner's", "platform": "Visium", "source": "slides"}
    content |= {"layout": "space_ranger", "spot_diameter_micrometres": 55.0}
    content["max_image_pixels"] = 10**9
    for section in content["sections"]:
        section["files"] = {"counts": {"path": "counts.h5"}}
    assert DatasetCard.model_validate(content).sections[0].micrometres_per_pixel == 0.5


def read_patients_block(text, folder):
    path = folder / "patients.csv"
    path.write_text(text)
    assert len(read_patients(path, [line.split(",")[0] for line in text.split()[1:]])) == 3


def run_api_block(text, folder):
    """Run the notebook's lines, on the demo."""
    module = types.ModuleType("notebook")
    exec(compile(text, "README.md", "exec"), vars(module))
    assert set(module.table["method"]) >= {"mean", "coordinates"}
    assert len(module.sections) == 6


def compile_model_block(text, folder):
    """Make the table of the page; its columns are those that a model's signature has."""
    compile(text, "tracking.md", "exec")
    module = types.ModuleType("notebook")
    exec(text[: text.index("mlflow.set_tracking_uri")], vars(module))
    assert set(module.spots.columns) == set(SPOT_COLUMNS)


def compile_only(text, folder):
    compile(text, "page", "exec")


METHOD = "tests/test_documented_methods.py runs and checks it"
DRAWN = "tests/prediction/test_drawn_by_others.py draws so"
READER = "tests/data/test_layouts.py installs and reads it"
TREE = "lists the files of a folder"


BLOCKS = {
    'README.md: python: import bench sections = bench.load_dataset("demo")': (
        *(run_api_block, "ran"),
    ),
    'adding-a-method.md: python: """Partial least squares on the features of a froz': (
        *(compile_only, METHOD),
    ),
    'adding-a-method.md: python: """An image encoder and a hidden layer that predic': (
        *(compile_only, METHOD),
    ),
    'adding-a-method.md: python: """A transformer over all spots of a section: each': (
        *(compile_only, METHOD),
    ),
    'adding-a-method.md: toml: [build-system] requires = ["setuptools>=77"] build': (None, METHOD),
    "clusters.md: yaml: partition: standard time: '4:00:00' cpus: 8 memory": (
        *(read_profile_block, "read as a profile"),
    ),
    GPU: (read_profile_block, "read as a profile"),
    "clusters.md: yaml: partition: preempt time: '2:00:00' cpus: 4 gpus: 1": (
        *(read_profile_block, "read as a profile"),
    ),
    "cluster.md: yaml: partition: gpu time: '08:00:00' cpus: 8 gpus: 1 me": (
        *(read_profile_block, "read as a profile"),
    ),
    'datasets.md: python: """Reader of wide tables: one CSV file per section': (
        *(compile_only, READER),
    ),
    'datasets.md: toml: [project] name = "spotbench-wide-table" version =': (None, READER),
    "datasets.md: yaml: layout: wide_table": (None, READER),
    'predict.md: python: store = spatialdata.read_zarr("slide.zarr") store.': (
        *(compile_only, DRAWN),
    ),
    'predict.md: python: sq.pl.spatial_scatter(adata, library_key="library_': (
        *(compile_only, DRAWN),
    ),
    "protocols.md: yaml: name: listed-genes version: 1 title: patient split": (
        *(read_protocol_block, "read as a protocol"),
    ),
    "tracking.md: python: import mlflow import pandas as pd spots = pd.DataF": (
        *(compile_model_block, "needs a server; tests/test_tracking_models.py loads models"),
    ),
    "studies.md: yaml: name: mine title: Two methods on my slides dataset": (
        *(read_study_block, "read as a study"),
    ),
    "tuning.md: yaml: method: mclstexp dataset: her2st protocol: strict": (
        *(read_config_block, "read as a settings file"),
    ),
    PATIENTS: (read_patients_block, "read as a table of patients"),
    "your-own-data.md: plain: slides/ V10A-123_A1/ image.tif full resolution, th": (None, TREE),
    "your-own-data.md: plain: slides/ sample/ tissue_image.tif outs/binned_outpu": (None, TREE),
    "your-own-data.md: yaml: title: 3 sections of 2 patients citation: not publ": (
        *(read_card_block, "read as a part of a card"),
    ),
    "your-own-data.md: plain: slides/ A1.h5ad raw counts, gene names in the inde": (None, TREE),
    "your-own-data.md: plain: hest/ st/TENX99.h5ad wsis/TENX99.tif metadata/TENX": (None, TREE),
    "your-own-data.md: plain: slides/ A1.zarr/ a store, or several; a store may": (None, TREE),
    "your-own-data.md: plain: slides/ A1.tsv.gz counts, a spot a row named 10x16": (None, TREE),
}
"""What is done with each block that holds no command, and why or where that is not to run it."""


def test_every_block_has_a_treatment():
    assert {one.title for one in blocks() if not one.commands} == set(BLOCKS)
    assert all(reason for _, reason in BLOCKS.values())


@pytest.mark.parametrize(
    "title",
    [
        pytest.param(title, marks=[pytest.mark.slow] if check is run_api_block else [])
        for title, (check, _) in BLOCKS.items()
        if check
    ],
)
def test_a_block_is_what_the_page_says(title, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    BLOCKS[title][0](block(title).text, tmp_path)
