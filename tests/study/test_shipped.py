"""The studies of the package: every name in them exists, every number lies in a file."""

import re
from importlib.resources import files
from pathlib import Path

import pandas as pd
import pytest
import yaml

from bench.encoders.declaration import declarations
from bench.evaluate.oracles import ORACLES
from bench.method_references import SHUFFLED
from bench.protocol.rules import PROTOCOLS
from bench.registry import dataset_card, find_methods, method_class
from bench.report.published import COLUMNS, read_published
from bench.study.declaration import find_study, studies
from bench.study.planning import members_of
from bench.study.report import published_rows_of
from tests.cli.tiny_dataset import call
from tests.conftest import REPOSITORY

ABLATIONS = Path(str(files("bench.published"))) / "ablations"


@pytest.mark.parametrize("name", studies())
def test_every_name_is_known(name):
    study = find_study(name)
    for part in study.parts:
        assert part.protocol in PROTOCOLS
        assert members_of(study.datasets_of(part))
        assert set(part.encoders) <= {*declarations()}
        for row in part.rows:
            assert row.base in {*find_methods(), *ORACLES, SHUFFLED}
            if row.settings:
                assert set(row.settings) <= set(method_class(row.base).Config.model_fields)


def test_the_study_of_the_publication_has_all_its_parts():
    study = find_study("mclstexp-2024")
    assert study.datasets == ("her2st", "cscc", "alex10x")
    parts = {part.name for part in study.parts}
    assert {"main", "position", "encoder", "distance", "lambda", "markers-her2st"} <= parts


@pytest.mark.parametrize("dataset", ["her2st", "cscc", "alex10x"])
def test_every_published_number_of_the_paper_stands_in_a_file(dataset):
    study = find_study("mclstexp-2024")
    for part in (one for one in study.parts if one.published == "beside"):
        rows = published_rows_of(part, dataset)
        names = {row.published_as for row in part.rows} - {None}
        assert set(rows["method"]) == names
        folder = ABLATIONS if part.published_in == "ablations" else None
        source = read_published(dataset, folder)
        merged = rows.merge(source, on=[*COLUMNS], how="left", indicator=True)
        assert (merged["_merge"] == "both").all()
        scores = rows.groupby("method")["score"].apply(set)
        assert scores.map({"pcc_acg", "pcc_heg", "mse", "mae"}.issubset).all()


def test_ablations_are_tables_with_a_source():
    for path in sorted(ABLATIONS.glob("*.csv")):
        table = read_published(path.stem, ABLATIONS)
        assert dataset_card(path.stem).name == path.stem
        assert (table["dataset"] == path.stem).all()
        assert len(table) == 13 * 4
        assert table["source"].str.contains("supplement").all()
        marked = table["comparable"] == "no"
        assert (table.loc[marked, "reason"].str.len() > 10).all()
    slips = read_published("alex10x", ABLATIONS).query("comparable == 'no'")
    her2st = read_published("her2st", ABLATIONS)
    position = her2st[her2st["method"].str.contains("position")]
    assert set(slips.loc[slips["score"] == "mse", "value"]) <= set(position["value"])


def test_rates_are_those_of_the_documentation():
    text = (REPOSITORY / "docs" / "performance.md").read_text(encoding="utf-8")
    names = {"mclstexp": "mclSTExp", "stnet": "ST-Net", "histogene": "HisToGene"}
    names |= {"thitogene": "THItoGene", "hist2st": "Hist2ST"}
    rates = yaml.safe_load((REPOSITORY / "bench" / "study" / "rates.yaml").read_text())
    for of_device in rates.values():
        for method, rate in of_device.items():
            lines = re.findall(rf"^\| {names[method]}, training.*$", text, re.MULTILINE)
            shown = f"{rate['images']:,}" if rate["images"] >= 1000 else str(rate["images"])
            assert any(f"| {shown} |" in line for line in lines), (method, shown)
            if "gpu_gb" in rate:
                assert any(line.endswith(f"| {rate['gpu_gb']} GB |") for line in lines)


@pytest.mark.slow
def test_without_any_data_the_published_column_is_that_of_the_files(tmp_path):
    results = tmp_path / "results"
    (tmp_path / "data").mkdir()
    said = call(
        *("study", "run", "mclstexp-2024", "--data-root", tmp_path / "data", "--device", "cpu"),
        *("--results", results, "--tracking", "none"),
    )
    assert said.status == 0, said.stderr
    for dataset in ("her2st", "cscc", "alex10x"):
        assert f"{dataset} is not here in {tmp_path / 'data' / dataset}" in said.stderr
    tables = results / "studies" / "mclstexp-2024" / "tables"
    study = find_study("mclstexp-2024")
    for part in (one for one in study.parts if one.published == "beside"):
        source = pd.concat([published_rows_of(part, name) for name in study.datasets])
        made = pd.read_csv(tables / f"{part.name}.csv")
        assert len(made) == len(source.loc[source["score"].isin(made["score"])])
        for line in source.itertuples():
            if line.score in set(made["score"]):
                same = made[(made["dataset"] == line.dataset) & (made["score"] == line.score)]
                assert line.value in set(same["value"])
