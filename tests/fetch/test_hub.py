"""Datasets on Hugging Face: a faked hub that lists, serves, refuses or fails."""

from __future__ import annotations

from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError

from bench.data.dataset import open_dataset
from bench.data.lock import read_lock
from bench.errors import BenchError, DataError
from bench.fetch.fetch import fetch_dataset
from bench.registry import collection, dataset_card
from tests.cli.tiny_dataset import assert_refused
from tests.cli.tiny_dataset import call as bench
from tests.datasets.hest_task import write_task

SAMPLES = ("TENX95", "TENX99", "NCBI783", "NCBI785")


@pytest.fixture(scope="module")
def repository(tmp_path_factory):
    """A repository with one task; not to be changed."""
    folder = tmp_path_factory.mktemp("hest-bench")
    write_task(folder / "IDC", SAMPLES)
    (folder / "IDC" / "patches_vis").mkdir()
    (folder / "IDC" / "patches_vis" / "TENX95.png").write_bytes(b"picture")
    (folder / "fm_v1").mkdir()
    (folder / "fm_v1" / "weights.pt").write_bytes(b"weights")
    return folder


def refusal(status):
    response = SimpleNamespace(status_code=status, headers={}, request=None, url="u")
    kind = GatedRepoError if status == 403 else HfHubHTTPError
    return kind("Access to dataset is restricted", response=response)


@pytest.fixture
def hub(repository, monkeypatch):
    """The faked hub: what was asked for, and faults by path that it answers with."""
    state = SimpleNamespace(asked=[], faults={}, listing=None, added=[])

    def listed(self, repo, path, *, recursive, revision, repo_type):
        assert (repo, recursive, repo_type) == ("MahmoodLab/hest-bench", True, "dataset")
        if state.listing is not None:
            raise state.listing
        files = [p for p in (repository / path).rglob("*") if p.is_file()]
        names = [(p.relative_to(repository).as_posix(), p.stat().st_size) for p in files]
        yield SimpleNamespace(path=path)  # a folder has no size
        for name, size in [*names, *state.added]:
            yield SimpleNamespace(path=name, size=size)

    def downloaded(repo, name, *, revision, repo_type, local_dir):
        state.asked.append(name)
        if name in state.faults:
            raise state.faults[name]
        place = local_dir / name
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes((repository / name).read_bytes())
        return str(place)

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_tree", listed)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", downloaded)
    return state


def files_in(root):
    names = (p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())
    return {name for name in names if ".lock" not in name and not name.startswith("spotbench-")}


WANTED = {
    *(f"adata/{name}.h5ad" for name in SAMPLES),
    *(f"patches/{name}.h5" for name in SAMPLES),
    *(f"splits/{side}_{index}.csv" for side in ("train", "test") for index in range(4)),
    "var_50genes.json",
}


def test_the_task_is_fetched_checked_and_kept(hub, tmp_path):
    root = tmp_path / "hest-idc"
    card = dataset_card("hest:IDC")
    outcome = fetch_dataset(card, root)
    assert outcome.complete
    assert set(outcome.fetched) == files_in(root) == WANTED
    assert set(read_lock(root)) == WANTED
    assert not (root / ".downloads" / "hub").exists()
    assert list(open_dataset(card, root).hashes) == list(SAMPLES)
    hub.asked.clear()
    again = fetch_dataset(card, root)
    assert (set(again.kept), again.fetched, hub.asked) == (WANTED, [], [])


def test_sections_are_fetched_with_the_files_that_all_need(hub, tmp_path):
    outcome = fetch_dataset(dataset_card("hest-idc"), tmp_path / "d", sections=["TENX99"])
    others = {name for name in WANTED if any(s in name for s in SAMPLES if s != "TENX99")}
    assert set(outcome.fetched) == WANTED - others


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("when", ["listing", "download"])
def test_a_gated_repository_is_one_line_with_its_page(hub, tmp_path, status, when):
    if when == "listing":
        hub.listing = refusal(status)
    else:
        hub.faults["IDC/var_50genes.json"] = refusal(status)
    with pytest.raises(DataError) as caught:
        fetch_dataset(dataset_card("hest-idc"), tmp_path / "d")
    message = str(caught.value)
    assert "https://huggingface.co/datasets/MahmoodLab/hest-bench" in message
    assert "HF_TOKEN" in message
    assert "\n" not in message


def test_a_file_that_fails_does_not_stop_the_others(hub, tmp_path):
    hub.faults["IDC/patches/TENX95.h5"] = ConnectionError("reset\nby peer")
    outcome = fetch_dataset(dataset_card("hest-idc"), tmp_path / "d")
    assert outcome.failed == {"patches/TENX95.h5": "reset by peer"}
    assert set(outcome.fetched) == WANTED - {"patches/TENX95.h5"}
    hub.faults.clear()
    assert fetch_dataset(dataset_card("hest-idc"), tmp_path / "d").fetched == ["patches/TENX95.h5"]


def test_a_hub_that_cannot_be_reached_is_one_line(hub, tmp_path):
    hub.listing = ConnectionError("no route\nto host")
    with pytest.raises(DataError, match=r"cannot be reached \(no route to host\)"):
        fetch_dataset(dataset_card("hest-idc"), tmp_path / "d")
    assert files_in(tmp_path) == set()


def test_a_listed_path_outside_of_the_folder_is_refused(hub, tmp_path):
    hub.added = [("IDC/../../x", 1)]
    with pytest.raises(DataError, match="not in IDC"):
        fetch_dataset(dataset_card("hest-idc"), tmp_path / "d")


def test_a_changed_file_is_named_and_fetched_again_by_force(hub, tmp_path):
    root, card = tmp_path / "d", dataset_card("hest-idc")
    fetch_dataset(card, root)
    (root / "splits" / "test_0.csv").write_text("sample_id\nTENX99\n")
    assert list(fetch_dataset(card, root).failed) == ["splits/test_0.csv"]
    assert fetch_dataset(card, root, force=True).fetched == ["splits/test_0.csv"]


def test_nine_tasks_form_the_collection():
    names = collection("hest")
    assert len(names) == 9
    assert {dataset_card(name).name for name in names} == set(names)
    assert dataset_card("hest:LYMPH_IDC").name == "hest-lymph-idc"
    with pytest.raises(BenchError, match="hest stands for 9 datasets"):
        dataset_card("hest")


def test_patients_of_the_tasks_are_those_of_the_metadata(shared_folder):
    import pandas as pd

    path = shared_folder / "data" / "hest" / "HEST_v1_1_0.csv"
    table = pd.read_csv(path, encoding="utf-8-sig").set_index("id")
    of_table = table["dataset_title"] + table["patient"].fillna("Patient 1").str.lower()
    for name in collection("hest"):
        card = dataset_card(name)
        groups = {section.name: of_table[section.name] for section in card.sections}
        wanted = 4 if name == "hest-coad" else len(set(groups.values()))
        assert len(card.patients) == wanted, name
    assert len(dataset_card("hest-ccrcc").patients) == 24
    sizes = [len(dataset_card(name).sections) for name in collection("hest")]
    assert sum(sizes) == 70


@pytest.mark.parametrize("whole", [True, False])
def test_a_folder_that_is_here_becomes_the_data_folder(repository, tmp_path, monkeypatch, whole):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "own"))
    source = repository if whole else repository / "IDC"
    done = bench("data", "get", "hest:IDC", "--from", source)
    assert done.status == 0, done.stderr
    assert (tmp_path / "own" / "hest-idc").resolve() == (repository / "IDC").resolve()
    assert bench("data", "get", "hest-idc", "--from", source).status == 0
    shown = bench("data", "show", "hest-idc", "--json")
    assert shown.status == 0, shown.stderr


def test_an_incomplete_folder_is_refused(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path / "own"))
    done = bench("data", "get", "hest-skcm", "--from", repository / "IDC")
    assert_refused(done, "4 of 4 files of hest-skcm are missing, first adata/TENX115.h5ad")
    assert not (tmp_path / "own").exists()


def test_a_data_folder_with_files_is_not_replaced(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path))
    (tmp_path / "hest-idc").mkdir()
    assert_refused(bench("data", "get", "hest-idc", "--from", repository), "is there already")
