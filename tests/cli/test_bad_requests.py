"""Requests that cannot be met: one line on stderr, status 2, nothing left behind."""

from __future__ import annotations

import gzip
import hashlib

import pytest
import yaml
from PIL import Image

from tests.cli.tiny_dataset import (
    GENES,
    TINY_NETWORK,
    assert_nothing_half_written,
    assert_refused,
)


@pytest.fixture
def run(bench, tiny, results):
    """Runs `mean` on a dataset, the tiny one by default."""

    def run_tiny(*arguments, dataset=tiny, method="mean", folder=results):
        call = ("run", "--method", method, *dataset.options, "--tracking", "none")
        return bench(*call, "--results", folder, *arguments)

    return run_tiny


@pytest.mark.parametrize(
    ("method", "words"),
    [
        ("maen", ["unknown method 'maen'", "did you mean mean"]),
        ("mclstxp", ["unknown method 'mclstxp'", "mclstexp"]),
        ("mean,detph", ["unknown method 'detph'", "depth"]),
        ("shuffled:mclst", ["unknown method 'mclst'", "mclstexp"]),
        ("shuffled:mean", ["does not use images"]),
        ("shuffled", ["shuffled:METHOD"]),
        ("mean,shuffled", ["shuffled:METHOD"]),
        ("", ["no method", "bench list"]),
        (" , ", ["no method", "bench list"]),
    ],
)
def test_method_that_does_not_exist(run, results, method, words):
    assert_refused(run(method=method), *words)
    assert_nothing_half_written(results)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--protocol", "strikt"), ["unknown protocol 'strikt'", "strict"]),
        (("--preset", "quik"), ["unknown preset", "'quik'", "quick"]),
        (("--set", "neighbors=3"), ["unknown setting", "'neighbors'"]),
        (("--set", "neighbours"), ["--set 'neighbours'", "key=value"]),
        (("--set", "=3"), ["--set '=3'", "key=value"]),
        (("--set", "neighbours=[1"), ["--set 'neighbours=[1'", "cannot be read"]),
        (("--folds", "a"), ["--folds 'a'", "0,2"]),
        (("--folds", ""), ["--folds ''", "0,2"]),
        (("--folds", "1,"), ["--folds '1,'", "0,2"]),
        (("--folds", "9"), ["no fold 9", "0 to 2"]),
        (("--folds", "-1"), ["no fold -1", "0 to 2"]),
    ],
)
def test_option_that_is_not_allowed(run, results, arguments, words):
    assert_refused(run(*arguments), *words)
    assert_nothing_half_written(results)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ("neighbors=3", ["unknown setting", "did you mean neighbours"]),
        ("coordinates.neighbors=3", ["unknown setting", "did you mean neighbours"]),
        ("neighbours=0", ["neighbours", "greater than or equal to 1"]),
        ("neighbours=lots", ["neighbours", "integer"]),
        ("neighbours=2.5", ["neighbours", "integer"]),
        ("mclstexp.epochs=3", ["unknown setting", "mclstexp.epochs"]),
    ],
)
def test_setting_that_is_not_allowed(run, results, setting, words):
    assert_refused(run("--set", setting, method="coordinates"), *words)
    assert_nothing_half_written(results)


def test_several_methods_take_only_their_own_settings(run, results):
    assert_refused(run("--set", "mean.neighbours=3", method="mean,coordinates"), "neighbours")
    assert_nothing_half_written(results)


def test_dataset_that_does_not_exist(bench, results):
    call = ("run", "--method", "mean", "--tracking", "none", "--results", results)
    assert_refused(bench(*call, "--dataset", "dmeo"), "unknown dataset 'dmeo'", "demo")
    assert_refused(bench(*call, "--dataset", "no/such.yaml"), "no/such.yaml", "missing")
    assert_nothing_half_written(results)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--device", "gpu"),
        ("--no-such-option",),
        ("--seed", "-1"),
        ("--seed", "one"),
    ],
)
def test_option_refused_by_the_parser(run, results, arguments):
    answer = run(*arguments)
    assert answer.status == 2
    assert arguments[0] in answer.stderr
    assert answer.stderr.startswith("bench: ")
    assert len(answer.stderr.splitlines()) == 1
    assert answer.stdout == ""
    assert not results.exists()


def test_option_with_a_slip_is_offered_the_right_one(run):
    assert_refused(run("--protocl", "strict"), "--protocl", "--protocol")


def test_device_that_is_not_here(run, results):
    import torch

    if torch.backends.mps.is_available():
        pytest.skip("this machine has every device but one")
    assert_refused(run("--device", "mps"), "device mps is not available", "--device auto")
    assert_nothing_half_written(results)


def test_main_paths_as_a_process(bench_process, tiny, results):
    call = ("run", *tiny.options, "--results", results, "--method")
    assert_refused(bench_process(*call, "maen"), "did you mean mean")
    assert not results.exists()


# --------------------------------------------------------------------------- damaged data


def lines(text):
    return "\n".join("\t".join(map(str, line)) for line in text) + "\n"


def drop_counts(data):
    data.counts("B1").unlink()


def drop_spots(data):
    data.spots("B1").unlink()


def wrong_hash(data):
    card = yaml.safe_load(data.card.read_text())
    card["sections"][2]["files"]["counts"]["hash"] = "sha256:" + "0" * 64
    data.edit_card(**card)


def wrong_size(data):
    card = yaml.safe_load(data.card.read_text())
    card["sections"][2]["files"]["spots"]["size"] = 1
    data.edit_card(**card)


def truncated_gzip(data):
    content = data.counts("B1").read_bytes()
    data.counts("B1").write_bytes(content[: len(content) // 2])


def garbage_after_gzip_magic(data):
    data.counts("B1").write_bytes(b"\x1f\x8b" + b"\x00" * 50)


def empty_counts(data):
    data.counts("B1").write_bytes(b"")


def set_count(value):
    def change(data):
        cells = data.read_counts("B1")
        cells[3][5] = value
        data.write_counts("B1", cells)

    change.__name__ = f"count_{value or 'empty'}"
    return change


def all_zero(data):
    cells = data.read_counts("B1")
    data.write_counts("B1", [cells[0], *([row[0], *["0"] * len(GENES)] for row in cells[1:])])


def spot_twice(data):
    cells = data.read_counts("B1")
    data.write_counts("B1", [*cells, cells[1]])


def spot_twice_in_positions(data):
    text = data.spots("B1").read_text()
    data.spots("B1").write_text(text + text.splitlines()[1] + "\n")


def gene_twice(data):
    cells = data.read_counts("B1")
    cells[0][2] = cells[0][1]
    data.write_counts("B1", cells)


def ragged(data):
    cells = data.read_counts("B1")
    cells[2] = cells[2][:-1]
    data.write_counts("B1", cells)


def spot_name(data):
    cells = data.read_counts("B1")
    cells[2][0] = "spot-one"
    data.write_counts("B1", cells)


def position_nan(data):
    text = data.spots("B1").read_text().splitlines()
    text[1] = "1\t1\tnan\t32"
    data.spots("B1").write_text("\n".join(text) + "\n")


def no_spot_in_common(data):
    data.spots("B1").write_text(lines([["x", "y", "pixel_x", "pixel_y"], [90, 90, 5, 5]]))


def not_a_gzip_but_text(data):
    data.counts("B1").write_text("this is\nno table\n")


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (drop_counts, ["B1", "missing"]),
        (drop_spots, ["B1", "missing"]),
        (wrong_hash, ["B1", "hash", "the card says"]),
        (wrong_size, ["B1", "bytes", "the card says 1"]),
        (truncated_gzip, ["B1", "truncated"]),
        (garbage_after_gzip_magic, ["B1", "gzip"]),
        (empty_counts, ["B1", "empty"]),
        (not_a_gzip_but_text, ["B1"]),
        (set_count("-1"), ["B1", "negative"]),
        (set_count("1.5"), ["B1", "fractional"]),
        (set_count("nan"), ["B1", "NaN"]),
        (set_count(""), ["B1", "missing value"]),
        (set_count("inf"), ["B1", "finite"]),
        (set_count("many"), ["B1", "not a number"]),
        (set_count("99999999999"), ["B1", "2^31"]),
        (all_zero, ["B1", "zero"]),
        (spot_twice, ["B1", "more than once"]),
        (spot_twice_in_positions, ["B1", "two spots"]),
        (gene_twice, ["B1", "gene 'GENE0'", "more than once"]),
        (ragged, ["B1", "not a table of counts"]),
        (spot_name, ["B1", "spot-one"]),
        (position_nan, ["B1", "coordinate"]),
        (no_spot_in_common, ["B1", "no spot in common"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_tables(run, damaged, results, damage, words):
    damage(damaged)
    assert_refused(run(dataset=damaged), *words, lines=None)
    assert_nothing_half_written(results)


@pytest.fixture
def looks_at_images(plugins):
    """Name of a quick method that reads the patches."""
    from tests.cli.tiny_dataset import write_plugin

    write_plugin(plugins, "looks", fit="[s.patches(32) for s in data.sections]", needs_image=True)
    return "looks"


def truncated_jpeg(data):
    content = data.image("B1").read_bytes()
    data.image("B1").write_bytes(content[: len(content) // 2])


def not_an_image(data):
    data.image("B1").write_bytes(b"GIF89a" + b"\x00" * 100)


def image_too_large(data):
    Image.new("RGB", (201, 200), "white").save(data.image("B1"))


def spots_outside(data):
    text = data.spots("B1").read_text().splitlines()
    text[1] = "1\t1\t2000\t32"
    data.spots("B1").write_text("\n".join(text) + "\n")


def same_image_twice(data):
    data.image("B1").write_bytes(data.image("A1").read_bytes())


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (truncated_jpeg, ["B1.jpg", "cannot be read"]),
        (not_an_image, ["B1.jpg", "cannot be read"]),
        (image_too_large, ["B1.jpg", "201 x 200", "ceiling", "40000"]),
        (spots_outside, ["B1", "1 of 30 spots", "outside"]),
        (same_image_twice, ["A1", "B1", "same image"]),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_damaged_images(run, damaged, results, looks_at_images, damage, words):
    damage(damaged)
    answer = run("--device", "cpu", dataset=damaged, method=looks_at_images)
    assert_refused(answer, *words, lines=None)
    assert_nothing_half_written(results)


def test_images_are_not_missed_by_methods_that_do_not_look(run, damaged):
    damaged.image("B1").unlink()
    assert run(dataset=damaged).status == 0


def test_undamaged_data_would_have_run(run, looks_at_images):
    assert run("--device", "cpu", method=looks_at_images).status == 0


# ------------------------------------------------------------- protocols and their panels


def test_panel_without_a_measured_gene(run, damaged, results):
    foreign = "\n".join(f"FOREIGN{number}" for number in range(5))
    (damaged.root / "panel.txt").write_text(foreign)
    symbols = hashlib.sha256(foreign.encode()).hexdigest()
    panel = {"genes": 5, "symbols_sha256": symbols, "text": "panel.txt"}
    damaged.edit_card(panels={"all": panel})
    answer = run("--protocol", "published", dataset=damaged)
    assert_refused(answer, "no gene of the panel was measured", lines=None)
    assert_nothing_half_written(results)


def test_panel_other_than_the_card_says(run, damaged, results):
    (damaged.root / "panel.txt").write_text("GENE1\nGENE2\n")
    assert_refused(run("--protocol", "published", dataset=damaged), "panel.txt", "2 symbols")
    assert_nothing_half_written(results)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ({"published_order": []}, "published list of sections"),
        ({"published_panel": None}, "published gene list"),
    ],
)
def test_published_protocol_on_an_unpublished_dataset(run, damaged, results, missing, words):
    damaged.edit_card(**missing)
    answer = run("--protocol", "published", dataset=damaged)
    assert_refused(answer, words, "use protocol strict")
    assert_nothing_half_written(results)


def test_one_patient_cannot_be_left_out(run, damaged, results):
    card = yaml.safe_load(damaged.card.read_text())
    damaged.edit_card(sections=[{**section, "patient": "A"} for section in card["sections"]])
    assert_refused(run(dataset=damaged), "leaves one patient out", "1 patient", "by-section")
    assert_nothing_half_written(results)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [broken", ["not a readable"]),
        ("just words", ["protocol"]),
        ("", ["protocol"]),
        ("name: mine\nversion: 1\n", ["title"]),
        ("name: mine\nversion: 1\ntitle: t\nsplit: spots\n", ["split"]),
        ("name: mine\nversion: 1\ntitle: t\nsplit: patient\nhvg: 3\n", ["hvg"]),
        ("name: strict\nversion: 1\ntitle: t\nsplit: patient\n", ["taken"]),
    ],
)
def test_protocol_file_that_is_broken(run, results, tmp_path, text, words):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert_refused(run("--protocol", path), "mine.yaml", *words)
    assert_nothing_half_written(results)


def test_protocol_file_that_is_missing(run, results, tmp_path):
    assert_refused(run("--protocol", tmp_path / "mine.yml"), "mine.yml")
    assert_nothing_half_written(results)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name: [broken", "not a readable YAML file"),
        ("just words", "mapping"),
        ("name: x\n", "title"),
    ],
)
def test_card_that_is_broken(run, damaged, results, text, words):
    damaged.card.write_text(text)
    assert_refused(run(dataset=damaged), "tiny.yaml", words)
    assert_nothing_half_written(results)


@pytest.mark.parametrize("path", ["../outside.tsv", "/etc/hostname", "a/../../b"])
def test_card_that_points_outside_its_folder(run, damaged, results, path):
    card = yaml.safe_load(damaged.card.read_text())
    card["sections"][0]["files"]["counts"]["path"] = path
    damaged.edit_card(**card)
    assert_refused(run(dataset=damaged), "inside the data folder")
    assert_nothing_half_written(results)


def test_data_folder_that_is_missing(run, damaged, bench, results, tmp_path):
    call = ("run", "--method", "mean", "--dataset", damaged.card, "--results", results)
    answer = bench(*call, "--data-root", tmp_path / "nowhere")
    assert_refused(answer, "nowhere", "missing", "--data-root")
    assert_nothing_half_written(results)


# ------------------------------------------------------------------- folders and weights


def test_results_folder_that_is_a_file(run, tmp_path):
    path = tmp_path / "results"
    path.write_text("mine")
    assert_refused(run(folder=path), str(path), "cannot be written", "--results")
    assert path.read_text() == "mine"


def test_results_folder_below_a_file(run, tmp_path):
    (tmp_path / "file").write_text("mine")
    assert_refused(run(folder=tmp_path / "file" / "results"), "cannot be written", "--results")


def test_results_folder_that_takes_no_writes(run):
    assert_refused(run(folder="/proc/results"), "/proc/results", "cannot be written")


def test_runs_folder_that_is_a_file(run, results):
    results.mkdir()
    (results / "runs").write_text("mine")
    assert_refused(run(), "cannot be written", lines=None)


@pytest.fixture
def run_network(run, one_thread):
    """Runs the tiny network on one fold."""

    def run_tiny(*arguments):
        return run(*TINY_NETWORK, "--folds", "0", *arguments, method="mclstexp")

    return run_tiny


def test_weight_file_that_is_missing(run_network, results, tmp_path):
    answer = run_network("--set", f"weights={tmp_path / 'no.pt'}")
    assert_refused(answer, "no.pt", "weight file is missing", lines=None)
    assert_nothing_half_written(results)


def test_weight_file_that_would_run_code(run_network, results, tmp_path):
    import pickle

    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "weights.pt"
    path.write_bytes(pickle.dumps({"weight": Payload()}))
    answer = run_network("--set", f"weights={path}")
    assert_refused(answer, "weights.pt", lines=None)
    assert not (tmp_path / "ran").exists()
    assert_nothing_half_written(results)


def test_weight_file_that_would_run_code_in_the_zip_format(run_network, results, tmp_path):
    import torch

    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "ran"), "w"))

    path = tmp_path / "weights.pth"
    torch.save({"weight": Payload()}, path)
    (tmp_path / "ran").unlink(missing_ok=True)
    answer = run_network("--set", f"weights={path}")
    assert_refused(answer, "weights.pth", "more than tensors", lines=None)
    assert not (tmp_path / "ran").exists()
    assert_nothing_half_written(results)


def test_weight_file_of_another_network(run_network, results, tmp_path):
    import torch
    from safetensors.torch import save_file

    path = tmp_path / "weights.safetensors"
    save_file({"elsewhere": torch.zeros(3)}, path)
    answer = run_network("--set", f"weights={path}")
    assert_refused(answer, "weights.safetensors", "tensors missing", lines=None)
    assert_nothing_half_written(results)


def test_weight_file_that_is_truncated(run_network, results, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b'\x08\x00\x00\x00\x00\x00\x00\x00{"a":')
    answer = run_network("--set", f"weights={path}")
    assert_refused(answer, "weights.safetensors", "not a readable weight file", lines=None)
    assert_nothing_half_written(results)


def test_encoder_that_does_not_exist(run_network, results):
    answer = run_network("--set", "encoder=lcnet_05")
    assert_refused(answer, "unknown encoder 'lcnet_05'", "lcnet_050", lines=None)
    assert_nothing_half_written(results)


@pytest.mark.slow
def test_torchvision_weights_that_cannot_be_fetched(bench_process, tiny, results, tmp_path):
    proxies = ("HTTPS_PROXY", "HTTP_PROXY", "https_proxy", "http_proxy")
    env = dict.fromkeys(proxies, "http://127.0.0.1:9") | {"NO_PROXY": "", "no_proxy": ""}
    env["TORCH_HOME"] = str(tmp_path / "torch")
    call = ("run", "--method", "mclstexp", *tiny.options, *TINY_NETWORK, "--folds", "0")
    call += ("--set", "weights=imagenet", "--set", "encoder=densenet121", "--tracking", "none")
    answer = bench_process(*call, *tiny.quick_protocol, "--results", results, env=env)
    assert_refused(answer, "densenet121", "cannot be fetched", "'none'", lines=None)
    assert_nothing_half_written(results)


@pytest.mark.slow
def test_timm_weights_that_cannot_be_fetched(run_network, results, tmp_path, monkeypatch):
    # Offline, because the hub's client would try again for a minute.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    answer = run_network("--set", "weights=imagenet")
    assert_refused(answer, "lcnet_050", "cannot be fetched", "bench encoders add", lines=None)
    assert_nothing_half_written(results)


# -------------------------------------------------------------------- the other commands


def test_tables_of_an_empty_folder(bench, results):
    answer = bench("tables", "--dataset", "tiny", "--results", results)
    assert_refused(answer, "no runs here", "bench run")
    assert not results.exists()


def test_tables_of_what_has_no_runs(bench, run, results):
    run("--folds", "0")
    call = ("tables", "--results", results, "--dataset")
    assert_refused(bench(*call, "tny"), "unknown dataset", "did you mean tiny")
    assert_refused(bench(*call, "tiny", "--protocol", "published"), "unknown protocol", "strict")


def test_ui_without_runs(bench, results):
    assert_refused(bench("ui", "--results", results), "nothing has been tracked", "bench run")
    assert not results.exists()


@pytest.mark.parametrize("command", ["show", "verify"])
def test_data_commands_without_the_dataset(bench, command):
    assert_refused(bench("data", command, "dmeo"), "unknown dataset 'dmeo'", "demo")


def test_verify_tells_each_damaged_file(bench, damaged):
    good = {
        role: {"path": path.relative_to(damaged.root).as_posix(), "hash": f"sha256:{found}"}
        for role, path in (("counts", damaged.counts("A1")), ("spots", damaged.spots("A1")))
        for found in [hashlib.sha256(path.read_bytes()).hexdigest()]
    }
    card = yaml.safe_load(damaged.card.read_text())
    card["sections"][0]["files"] |= good
    damaged.edit_card(**card)
    call = ("data", "verify", damaged.card, "--data-root", damaged.root)
    assert bench(*call).status == 0
    cells = gzip.decompress(damaged.counts("A1").read_bytes())
    damaged.counts("A1").write_bytes(gzip.compress(cells, mtime=1))
    answer = bench(*call)
    assert answer.status == 2
    assert answer.stderr.startswith("bench: ")
    assert "counts/A1.tsv.gz: hash" in answer.stderr


def test_a_cache_folder_that_cannot_be_made_is_one_line(bench, results, monkeypatch):
    monkeypatch.setenv("SPOTBENCH_CACHE", "/proc/nowhere")
    call = ("run", "--method", "mean", "--dataset", "demo", "--tracking", "none")
    assert_refused(bench(*call, "--results", results), "/proc/nowhere")
    assert_nothing_half_written(results)
