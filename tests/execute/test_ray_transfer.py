"""Jobs on their way to a node and back, without Ray: an object is the array itself here."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from bench.data.card import FileCard
from bench.errors import DataError, StoreError
from bench.execute.executors import ray_object_store
from bench.execute.executors.base import JobWatcher
from bench.execute.executors.local import run_jobs
from bench.execute.executors.parcels import pack
from bench.execute.executors.ray_object_store import ObjectStore, SentFile, move_in
from bench.execute.executors.ray_transfer import SharedDisk
from bench.execute.plan import make_plan
from bench.execute.request import Request
from tests.cli.tiny_dataset import SECTIONS, write_tiny_dataset


def put(path):
    """Parts of three bytes or more, so that files have several."""
    content = np.frombuffer(path.read_bytes(), dtype=np.uint8)
    return SentFile(tuple(np.array_split(content, 3)))


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch):
    monkeypatch.setattr(ray_object_store, "_put", put)
    monkeypatch.setattr(ray_object_store, "_get", lambda reference: reference)


@pytest.fixture
def here(damaged, tmp_path):
    """Plans methods on the first fold of a tiny dataset that the test may damage."""

    def plan(*methods):
        request = Request(
            methods=methods,
            dataset=str(damaged.card),
            data_root=damaged.root,
            results=tmp_path / "here",
            oracles=False,
            folds=(0,),
        )
        return make_plan(request)

    return plan


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """Cache folder of another machine."""
    folder = tmp_path / "node"
    monkeypatch.setenv("SPOTBENCH_CACHE", str(folder))
    return folder


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def paths_of(job):
    found = [job.run.path, job.source.dataset.root]
    found += [job.twin.path] if job.twin else []
    return found + ([job.method_spec.checkpoint] if job.method_spec.checkpoint else [])


def test_a_node_has_nothing_but_what_was_sent(here, damaged, tmp_path, elsewhere):
    (job,) = here("coordinates").jobs()
    serial, away = tmp_path / "serial", tmp_path / "away"
    run_jobs([job], JobWatcher())
    shutil.move(job.folder.path, serial)
    transfer = ObjectStore()
    parcel = transfer.parcel(job)
    shutil.move(damaged.root, away)
    shutil.rmtree(elsewhere)
    with parcel.opened() as there:
        assert all(path.is_relative_to(elsewhere) for path in paths_of(there))
        assert run_jobs([there], JobWatcher()) == []
        result = parcel.result(there)
    assert not job.folder.is_done()
    assert not there.run.results.exists()
    transfer.take(job, result)
    assert job.folder.is_done()
    assert job.folder.state().fit_key == replace(job.folder, path=serial).state().fit_key
    for name in ("scores.parquet", "genes.parquet"):
        assert (job.folder.path / name).read_bytes() == (serial / name).read_bytes()
    left = [path.name for path in job.run.path.iterdir()]
    assert left == ["fold-0"]


def test_the_sections_of_a_test_dataset_are_sent_too(damaged, tmp_path, elsewhere):
    other = write_tiny_dataset(tmp_path / "other", "other", (*SECTIONS, "A3", "Y1"))
    sections = yaml.safe_load(other.card.read_text())["sections"][len(SECTIONS) :]
    sections[0]["name"] = "A1"  # a name that a training section has too
    other.edit_card(sections=sections, published_order=["A1", "Y1"])
    request = Request(
        methods=("mean",),
        dataset=str(damaged.card),
        data_root=damaged.root,
        test_dataset=str(other.card),
        test_data_root=other.root,
        results=tmp_path / "here",
        oracles=False,
    )
    (job,) = make_plan(request).jobs()
    assert SharedDisk(tmp_path).parcel(job).job.source.tested.root.is_absolute()
    transfer = ObjectStore()
    parcel = transfer.parcel(job)
    for root in (damaged.root, other.root):
        shutil.move(root, f"{root}-away")
    shutil.rmtree(elsewhere)
    with parcel.opened() as there:
        assert there.source.tested.root.is_relative_to(elsewhere)
        assert run_jobs([there], JobWatcher()) == []
        result = parcel.result(there)
    transfer.take(job, result)
    scores = job.folder.read_table("scores.parquet")
    assert set(scores["section"]) == {"A1@other", "Y1", ""}


def test_small_images_come_back(here, tmp_path, elsewhere):
    jobs = here("shuffled:ridge", "ridge").jobs()
    job = next(job for job in jobs if job.method_spec.label == "ridge")
    transfer = ObjectStore()
    parcel = transfer.parcel(job)
    with parcel.opened() as there:
        image = there.run.results / "images" / "tiny" / "A1-0.jpg"
        image.parent.mkdir(parents=True)
        image.write_bytes(b"small")
        there.folder.path.mkdir(parents=True)
        (there.folder.path / "fold.json").write_text("{}")
        there.folder.finish("fit", "score")
        result = parcel.result(there)
    transfer.take(job, result)
    assert (job.run.results / "images" / "tiny" / "A1-0.jpg").read_bytes() == b"small"


def test_a_control_takes_the_fit_of_its_method_along(here, elsewhere):
    jobs = {job.method_spec.label: job for job in here("ridge", "shuffled:ridge").jobs()}
    fitted = jobs["ridge"].folder
    fitted.path.mkdir(parents=True)
    (fitted.path / "model").mkdir()
    (fitted.path / "model" / "network.bin").write_bytes(b"fitted")
    fitted.finish("fit", "score")
    parcel = ObjectStore().parcel(jobs["shuffled:ridge"])
    with parcel.opened() as there:
        assert there.twin.fold(0).is_done()
        assert contents(there.twin.fold(0).path) == contents(fitted.path)


def test_files_and_folders_of_settings_travel(here, tmp_path, elsewhere, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "weights"
    (folder / "sub").mkdir(parents=True)
    (folder / "sub" / "a.bin").write_bytes(b"a")
    (folder / "linked.bin").symlink_to(folder / "sub" / "a.bin")
    checkpoint = tmp_path / "released.pt"
    checkpoint.write_bytes(b"checkpoint")
    (job,) = here("mean").jobs()
    config = {"weights": "weights", "encoder": "densenet121", "inner": [str(checkpoint)]}
    method_spec = replace(job.method_spec, config=config, checkpoint=Path("released.pt"))
    job = replace(job, method_spec=method_spec)
    parcel = ObjectStore().parcel(job)
    sent = contents(folder)
    for path in (folder, checkpoint):
        shutil.move(path, path.with_name("gone-" + path.name))
    for _ in range(2):  # the second time from the node's cache
        with parcel.opened() as there:
            received = there.method_spec.config
            assert Path(received["weights"]).is_relative_to(elsewhere)
            assert contents(Path(received["weights"])) == sent
            assert received["encoder"] == "densenet121"
            assert Path(received["inner"][0]).read_bytes() == b"checkpoint"
            assert there.method_spec.checkpoint == Path(received["inner"][0])
            assert there.method_spec.checkpoint.name == "released.pt"


def test_files_are_received_once_and_mended_if_damaged(here, elsewhere, monkeypatch):
    (job,) = here("mean").jobs()
    parcel = ObjectStore().parcel(job)
    with parcel.opened() as there:
        root = there.source.dataset.root
    before = contents(root)
    written = []
    monkeypatch.setattr(SentFile, "write", lambda self, path: written.append(path))
    with parcel.opened():
        pass
    assert written == []
    monkeypatch.undo()
    monkeypatch.setenv("SPOTBENCH_CACHE", str(elsewhere))
    monkeypatch.setattr(ray_object_store, "_get", lambda reference: reference)
    counts = next(root.glob("counts/*"))
    counts.write_bytes(b"damaged")
    with parcel.opened():
        assert contents(root) == before


def test_a_file_that_changed_after_planning_is_refused(here, damaged, elsewhere):
    (job,) = here("mean").jobs()
    damaged.spots("B1").write_text(damaged.spots("B1").read_text() + "9\t9\t1\t1\n")
    parcel = ObjectStore().parcel(job)
    with (
        pytest.raises(DataError, match=r"B1.tsv: the file changed on its way to node"),
        parcel.opened(),
    ):
        pass


def test_each_file_is_sent_once(here, monkeypatch):
    sent = []
    monkeypatch.setattr(ray_object_store, "_put", lambda path: sent.append(path) or put(path))
    transfer = ObjectStore()
    for job in here("mean", "coordinates").jobs():
        transfer.parcel(job)
    assert len(sent) == len(set(sent)) == 12  # counts and spots of six sections


def with_stores(job):
    """The job with each section's counts in a Zarr store, and its image inside that."""
    dataset = job.source.dataset
    sections, hashes = [], {}
    for section in dataset.card.sections:
        store = f"{section.name}.zarr"
        for name in ("zarr.json", "images/he/zarr.json", "images/he/c/0", "empty"):
            path = dataset.root / store / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("" if name == "empty" else f"{name} of {section.name}")
        files = {"counts": FileCard(path=store), "image": FileCard(path=f"{store}/images/he")}
        sections.append(section.model_copy(update={"files": files}))
        if section.name in dataset.hashes:
            hashes[section.name] = {r: f.verify(dataset.root / f.path) for r, f in files.items()}
    card = dataset.card.model_copy(update={"sections": tuple(sections)})
    changed = replace(dataset, card=card, hashes=hashes)
    return replace(job, source=replace(job.source, dataset=changed))


def test_a_zarr_store_is_sent_with_the_image_inside(here, elsewhere, monkeypatch):
    sent = []
    monkeypatch.setattr(ray_object_store, "_put", lambda path: sent.append(path) or put(path))
    (job,) = here("mean").jobs()
    job = with_stores(job)
    dataset = job.source.dataset
    parcel = ObjectStore().parcel(job)
    assert len(sent) == len(set(sent)) == 4 * len(dataset.hashes)
    names = [f"{name}.zarr" for name in dataset.hashes]
    for _ in range(2):  # the second time over what was damaged and what was left
        with parcel.opened() as there:
            root = there.source.dataset.root
            assert root.is_relative_to(elsewhere)
            for name in names:
                assert contents(root / name) == contents(dataset.root / name)
        (root / names[0] / "zarr.json").write_text("damaged")
        (root / names[1] / "left").write_text("of a task that was killed")


def test_a_store_that_changed_after_planning_is_refused(here, elsewhere):
    (job,) = here("mean").jobs()
    job = with_stores(job)
    name = next(iter(job.source.dataset.hashes))
    (job.source.dataset.root / f"{name}.zarr" / "more").write_text("more")
    parcel = ObjectStore().parcel(job)
    with pytest.raises(DataError, match="changed on its way"), parcel.opened():
        pass


# -------------------------------------------------------------------------------- moving in


@pytest.fixture
def done(here, tmp_path):
    """A finished fold and its files as they would arrive."""
    (job,) = here("mean").jobs()
    run_jobs([job], JobWatcher())
    return job.folder, {name: np.array(content) for name, content in pack(job.folder.path).items()}


def test_a_damaged_result_leaves_the_old_one(done):
    folder, files = done
    before = contents(folder.path)
    for broken in (
        {name: content for name, content in files.items() if name != "manifest.json"},
        {name: content for name, content in files.items() if name != "scores.parquet"},
        {**files, "scores.parquet": files["scores.parquet"][:-1]},
        {},
        {**files, "../escaped": files["scores.parquet"]},
    ):
        with pytest.raises(StoreError):
            move_in(folder, broken)
        assert contents(folder.path) == before
    assert sorted(path.name for path in folder.path.parent.iterdir()) == ["fold-0"]


def test_a_result_of_another_fold_is_refused(done):
    folder, files = done
    other = replace(folder, path=folder.path.with_name("fold-1"), index=1)
    with pytest.raises(StoreError, match="damaged"):
        move_in(other, files)
    assert not other.path.exists()


def test_a_new_result_takes_the_place_of_an_old_one(done):
    folder, files = done
    (folder.path / "failure.txt").write_text("an old reason")
    (folder.path / "scratch").mkdir()
    (folder.path / "scratch" / "checkpoint").write_text("old")
    move_in(folder, files)
    assert set(contents(folder.path)) == set(files)
    assert folder.is_done()


def test_the_manifest_comes_last(done, monkeypatch):
    folder, files = done
    (folder.path / "manifest.json").unlink()
    moves = []
    replace_file = ray_object_store.os.replace

    def recorded(source, target):
        if Path(source).parent.name.startswith("."):
            moves.append(Path(target).name)
        replace_file(source, target)

    monkeypatch.setattr(ray_object_store.os, "replace", recorded)
    move_in(folder, files)
    moved = [name for name in moves if not name.startswith(".") and name != "fold-0"]
    assert moved[-1] == "manifest.json"


# ------------------------------------------------------------------------------ shared disk


def test_a_job_for_a_shared_disk_has_absolute_paths(here, tmp_path, monkeypatch):
    (tmp_path / "weights.bin").write_bytes(b"1")
    monkeypatch.chdir(tmp_path)
    (job,) = here("mean").jobs()
    method_spec = replace(job.method_spec, config={"weights": "weights.bin", "name": "absent.bin"})
    run = replace(job.run, path=job.run.path.relative_to(tmp_path))
    transfer = SharedDisk(Path("here"))
    parcel = transfer.parcel(replace(job, method_spec=method_spec, run=run))
    monkeypatch.chdir("/")
    with parcel.opened() as there:
        assert there.run == job.run
        assert there.method_spec.config == {
            "weights": str(tmp_path / "weights.bin"),
            "name": "absent.bin",
        }
    assert not parcel.result(there).fold


def test_a_node_that_does_not_see_the_results_is_told_what_to_do(here, tmp_path):
    (job,) = here("mean").jobs()
    transfer = SharedDisk(tmp_path / "here")
    parcel = transfer.parcel(job)
    shutil.move(tmp_path / "here", tmp_path / "moved")
    (tmp_path / "here").mkdir()  # a folder of the same name on another disk
    with (
        pytest.raises(StoreError, match=r"does not see the results .*here; use --no-shared-disk"),
        parcel.opened(),
    ):
        pass


def test_a_node_that_does_not_see_the_data_is_told_what_to_do(here, damaged, tmp_path):
    (job,) = here("mean").jobs()
    parcel = SharedDisk(tmp_path / "here").parcel(job)
    shutil.move(damaged.root, tmp_path / "moved")
    with (
        pytest.raises(StoreError, match=r"does not see the data folder .*; use --no-shared-disk"),
        parcel.opened(),
    ):
        pass


def test_the_marker_of_a_call_is_removed(tmp_path):
    transfer = SharedDisk(tmp_path)
    assert len(list(tmp_path.iterdir())) == 1
    transfer.close()
    assert list(tmp_path.iterdir()) == []
