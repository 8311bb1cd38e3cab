"""Figures: which there are, what is in them, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.cli import reporting
from bench.errors import BenchError, UnknownNameError
from bench.report.comparison_figures import comparison_figures, cost_figure, rank_figure
from bench.report.drawing import draw_figures
from bench.report.maps import domain_maps, gene_maps, section_map, shown_genes, stored_sections
from bench.report.tables import newest
from bench.stored_runs import StoredRun, stored_runs
from tests.cli.tiny_dataset import call, write_plugin


@pytest.fixture(scope="module")
def results(tmp_path_factory, tiny):
    """Results of the controls, an oracle and a method that looks at images."""
    folder = tmp_path_factory.mktemp("figures")
    plugins = tmp_path_factory.mktemp("plugins")
    write_plugin(plugins, "looker", needs_image=True, module="figures_looker")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(plugins)
        patch.setattr("sys.dont_write_bytecode", True)
        done = call(
            *("run", "-m", "looker,mean,coordinates,depth", *tiny.options, *tiny.quick_protocol),
            *("--tracking", "none", "--results", folder),
        )
    assert done.status == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    from tests.cli.tiny_dataset import write_tiny_dataset

    return write_tiny_dataset(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def runs(results):
    return newest(stored_runs(results, "tiny", "patients"))


def test_every_figure_is_drawn_and_none_is_empty(runs):
    figures = comparison_figures(runs)
    assert set(figures) == {"scores", "genes", "cost", "critical-difference"}
    for figure in figures.values():
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
        assert (pixels != 255).any(axis=2).mean() > 0.01
    assert comparison_figures([]) == {}


def test_the_score_figure_shows_every_run_and_the_ceiling(runs):
    axes = comparison_figures(runs)["scores"].axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert set(labels) == {"looker", "mean", "coordinates", "depth"}
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["method", "control", "oracle", "noise ceiling"]


def test_controls_have_no_cost(runs):
    texts = {text.get_text() for text in cost_figure(runs).axes[0].texts}
    assert texts == {"looker"}


def test_labels_of_equal_points_do_not_lie_on_one_another(runs):
    axes = cost_figure([run for run in runs if run.facts["kind"] != "method"] * 2).axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) > 1
    assert not any(box.count_overlaps(boxes[:number]) for number, box in enumerate(boxes))


def test_with_three_methods_only_methods_are_ranked(runs):
    (method,) = (run for run in runs if run.facts["kind"] == "method")
    three = [
        StoredRun(
            method.folder, {**method.facts, "label": label, "key": f"{label}{'0' * 11}"}, (0, 1, 2)
        )
        for label in "abc"
    ]
    figure = rank_figure([*runs, *three])
    shown = " ".join(text.get_text() for text in figure.axes[0].texts)
    assert "coordinates" in " ".join(t.get_text() for t in rank_figure(runs).axes[0].texts)
    assert "coordinates" not in shown
    assert all(f"{label} (" in shown or f") {label}" in shown for label in "abc")


def test_two_runs_have_no_ranks(runs):
    assert rank_figure(runs[:2]) is None


def test_a_section_is_read_back_from_the_store(runs):
    assert stored_sections(runs) == ["A1", "A2", "B1", "B2", "C1", "C2"]
    found = section_map(runs, "B1")
    assert found.truth.shape == (30, 40)
    assert set(found.predictions) == {"looker", "mean", "coordinates"}
    assert found.image is not None
    with Image.open(found.image) as image:
        assert image.size == (200, 200)
    assert found.scale == 1.0
    with pytest.raises(UnknownNameError, match="unknown section with predictions 'B11'"):
        section_map(runs, "B11")


def test_an_image_outside_of_the_results_is_never_opened(results, runs, monkeypatch, tmp_path):
    outside = tmp_path / "secret.jpg"
    Image.new("RGB", (5, 5)).save(outside)
    for name in (str(outside), "../../etc/passwd", "runs/x", 3):
        monkeypatch.setattr(
            "bench.store.FoldFolder.facts",
            lambda self, name=name: {"images": {"B1": {"file": name, "scale": 1.0}}},
        )
        assert section_map(runs, "B1").image is None


def test_maps_stand_side_by_side_with_their_correlation(runs):
    found = section_map(runs, "A1")
    genes = shown_genes(runs, found.genes)
    assert len(genes) == 3
    figure = gene_maps(found, genes)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == f"{genes[0]}\nmeasured"
    assert any(title.startswith("looker\nPCC ") for title in titles)
    assert any(title == "mean\nundefined" for title in titles)
    with pytest.raises(BenchError, match="gene NOPE is not in the panel"):
        gene_maps(found, ["NOPE"])


def test_domains_are_drawn_where_there_are_labels(runs):
    found = section_map(runs, "A1")
    assert domain_maps(found) is None
    labels = np.where(np.arange(30) < 15, "tumour", "stroma")
    labels[0] = "undetermined"
    figure = domain_maps(replace(found, labels=labels))
    assert figure.axes[0].get_title() == "pathologist"
    assert figure.axes[1].get_title().startswith("measured\nARI ")


@pytest.mark.slow
def test_files_are_png_and_pdf_and_the_same_twice(runs, tmp_path):
    first = draw_figures(runs, tmp_path / "one", genes=["GENE3"])
    second = draw_figures(runs, tmp_path / "two", genes=["GENE3"])
    names = [path.name for path in first]
    assert {"scores.png", "scores.pdf", "genes-A1.png", "critical-difference.pdf"} <= set(names)
    for one, two in zip(first, second, strict=True):
        assert one.read_bytes() == two.read_bytes()
        start = b"\x89PNG" if one.suffix == ".png" else b"%PDF"
        assert one.read_bytes().startswith(start)


def test_the_commands_draw_and_rank_from_the_results_alone(results, bench_out):
    done = bench_out("figures", "-d", "tiny", "--section", "C2", "--gene", "GENE1,GENE2")
    assert done.status == 0, done.stderr
    assert (results / "figures" / "tiny" / "patients" / "genes-C2.png").is_file()
    ranked = bench_out("genes", "-d", "tiny", "-m", "looker", "--format", "json")
    rows = json.loads(ranked.stdout)["rows"]
    assert [row["rank"] for row in rows] == list(range(1, 41))
    refused = bench_out("genes", "-d", "tiny", "-m", "lookr")
    assert (refused.status, "did you mean looker" in refused.stderr) == (2, True)
    refused = bench_out("genes", "-d", "tiny", "-m", "looker", "--enriched")
    assert refused.status == 2
    assert "no gene of any set is in the panel" in refused.stderr


def test_a_method_stands_for_its_rows_of_all_encoders(bench_out, monkeypatch):
    def stored(*asked):
        (name, runs), *_ = kept(*asked)
        (run,) = [run for run in runs if run.facts["label"] == "looker"]
        labels = ("looker[uni]", "looker[random-uni]")
        return [(name, [replace(run, facts={**run.facts, "label": label}) for label in labels])]

    kept = reporting._stored
    monkeypatch.setattr(reporting, "_stored", stored)
    shown = bench_out("genes", "-d", "tiny", "-m", "looker", "--top", 2)
    assert shown.status == 0, shown.stderr
    assert "looker[uni] on tiny" in shown.stdout
    assert "looker[random-uni] on tiny" in shown.stdout
    one = bench_out("genes", "-d", "tiny", "-m", "looker[uni]", "--top", 2)
    assert "random" not in one.stdout


def test_gene_sets_of_a_file_are_tested(bench_out, tmp_path):
    gmt = tmp_path / "sets.gmt"
    gmt.write_text("some\t\tGENE1\tGENE2\n")
    done = bench_out("genes", "-d", "tiny", "-m", "looker", "--enriched", "--gmt", gmt)
    assert done.status == 0, done.stderr
    assert "some" in done.stdout


@pytest.fixture
def bench_out(results):
    return lambda *arguments: call(*arguments, "--results", results)
