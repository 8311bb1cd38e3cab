"""Figures: which there are, what is in them, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from bench.cli import reporting
from bench.errors import BenchError, UnknownNameError
from bench.report.comparison_figures import (
    comparison_figures,
    cost_figure,
    rank_figure,
    score_figure,
)
from bench.report.drawing import draw_figures, write_figures
from bench.report.figure_style import figure_style, styled
from bench.report.maps import domain_maps, gene_maps, shown_genes
from bench.report.method_figures import encoder_figure, gene_scatter
from bench.report.paper import paper_table
from bench.report.section_maps import section_map, stored_sections
from bench.report.summary_figures import summary_figure
from bench.report.tables import newest
from bench.stored_runs import StoredRun, stored_runs
from tests.cli.tiny_dataset import call, write_plugin
from tests.report.test_tables import store  # noqa: F401 - a fixture


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
    assert set(figures) == {"scores", "genes", "critical-difference"}, "one method has no cost plot"
    for figure in figures.values():
        figure.canvas.draw()
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3]
        assert (pixels != 255).any(axis=2).mean() > 0.01
    assert comparison_figures([]) == {}


def test_the_score_figure_shows_every_run_and_the_ceiling(runs):
    axes = comparison_figures(runs)["scores"].axes[0]
    labels = [label.get_text() for label in axes.get_yticklabels()]
    assert set(labels) == {"looker", "mean (control)", "coordinates (control)", "depth (oracle)"}
    (legend,) = axes.figure.legends
    kinds = [text.get_text() for text in legend.get_texts()]
    assert kinds[:3] == ["method", "control", "oracle"]
    assert kinds[3].startswith("noise ceiling")


@pytest.mark.parametrize(("ceiling", "drawn"), [(0.24, True), (0.9, False)])
def test_a_far_ceiling_does_not_squeeze_the_methods(store, ceiling, drawn):  # noqa: F811
    sections = [f"{patient}{number}" for patient in "ABC" for number in (1, 2)]
    changes = {
        name: {"pcc_acg": 0.1 + 0.02 * n, "ceiling_acg": ceiling} for n, name in enumerate(sections)
    }
    axes = score_figure([store("ridge", changes=changes)[0]]).axes[0]
    rules = [line for line in axes.get_lines() if line.get_linestyle() == "--"]
    assert bool(rules) == drawn
    assert axes.get_xlim()[1] < 0.5
    (legend,) = axes.figure.legends
    said = legend.get_texts()[-1].get_text()
    assert said == ("noise ceiling" if drawn else "noise ceiling 0.90, beyond the axis")


def copies(runs, *labels):
    """The method of the runs under other labels."""
    (method,) = (run for run in runs if run.facts["kind"] == "method")
    return [
        StoredRun(
            method.folder,
            {**method.facts, "label": label, "key": f"{number:x}{label}{'0' * 11}"},
            (0, 1, 2),
        )
        for number, label in enumerate(labels)
    ]


def test_controls_have_no_cost_and_one_method_has_no_cost_plot(runs):
    assert cost_figure(runs) is None
    texts = {text.get_text() for text in cost_figure([*runs, *copies(runs, "b")]).axes[0].texts}
    assert texts == {"looker", "b"}


def test_encoders_of_a_method_are_compared_and_one_encoder_is_not(runs):
    assert encoder_figure(runs) is None
    assert encoder_figure(copies(runs, "looker[uni]", "other[gigapath]")) is None
    figure = encoder_figure(copies(runs, "looker[uni]", "looker[random-uni]", "looker[vit]"))
    labels = {label.get_text() for label in figure.axes[0].get_yticklabels()}
    assert labels == {"uni", "vit"}
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["looker", "random weights"]


def test_two_methods_are_compared_gene_by_gene(runs):
    assert gene_scatter(runs) is None
    figure = gene_scatter(copies(runs, "a", "b"))
    axes = figure.axes[0]
    assert "0 of 40 genes" in axes.get_title()
    assert {axes.get_xlabel(), axes.get_ylabel()} == {"PCC of a gene, a", "PCC of a gene, b"}
    assert all(text.get_style() == "italic" for text in axes.texts)


def test_several_datasets_give_scores_and_ranks(store):  # noqa: F811
    runs = {
        name: [store(label, protocol=name)[0] for label in ("ridge", "knn")]
        + [store("mean", "control", protocol=name)[0]]
        for name in ("a", "b")
    }
    figure = summary_figure(paper_table(runs))
    scores, ranks = figure.axes
    assert [label.get_text() for label in scores.get_xticklabels()] == ["a", "b"]
    texts = [text.get_text() for text in ranks.texts]
    assert sorted(texts) == ["1", "1", "2", "2", "–", "–"]


def test_widths_and_fonts_are_those_asked_for(runs, tmp_path):
    done = [run for run in runs if run.facts["kind"] != "oracle"]
    for purpose, width, inches in (("paper", 85, 85 / 25.4), ("talk", None, 10)):
        with styled(figure_style(purpose, width)):
            figure = score_figure(done)
        assert figure.get_size_inches()[0] == pytest.approx(inches)
    with styled(figure_style("paper", 85)):
        (pdf, svg) = write_figures({"scores": score_figure(done)}, tmp_path, ("pdf", "svg"))
    assert b"/TrueType" in pdf.read_bytes() or b"/Type0" in pdf.read_bytes()
    assert b"/Type3" not in pdf.read_bytes()
    assert "<text" in svg.read_text()
    assert ">looker<" in svg.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--width-mm", "5"), "choose 50 to 500"),
        (("--format", "gif"), "unknown format of figures 'gif'"),
        (("--format", ","), "unknown format of figures ''"),
        (("--score", "mse"), "over several datasets"),
        (("-d", "tiny,other"), "no run on other"),
        (("-d", "tiny,tiny2", "--gene", "A"), "maps of one dataset"),
    ],
)
def test_figures_that_cannot_be_drawn_are_refused(bench_out, tmp_path, options, message):
    refused = bench_out("figures", "-d", "tiny", "--out", tmp_path / "out", *options)
    assert refused.status == 2
    assert message in refused.stderr
    assert not (tmp_path / "out").exists()


def test_labels_of_equal_points_do_not_lie_on_one_another(runs):
    axes = cost_figure([run for run in runs if run.facts["kind"] != "method"] * 2).axes[0]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert len(boxes) > 1
    assert not any(box.count_overlaps(boxes[:number]) for number, box in enumerate(boxes))


def test_with_three_methods_only_methods_are_ranked(runs):
    three = copies(runs, *"abc")
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
    assert titles[0] == "measured"
    assert any(title.startswith("looker\nPCC ") for title in titles)
    assert any(title == "mean (control)\nPCC undefined" for title in titles)
    names = [text for axes in figure.axes for text in axes.texts if text.get_text() in genes]
    assert [text.get_text() for text in names] == genes
    assert all(text.get_style() == "italic" for text in names)
    assert "ln(1 + counts per 10,000)" in figure.get_suptitle()


def test_a_map_has_a_scale_bar_where_the_scale_is_known(runs):
    found = section_map(runs, "A1")
    assert found.micrometres_per_pixel is None, "the card of this dataset is not installed"
    figure = gene_maps(replace(found, micrometres_per_pixel=2.0), found.genes[:1])
    assert [t.get_text() for t in figure.axes[0].texts if "µm" in t.get_text()] == ["50 µm"]
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


@pytest.mark.slow
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

    kept = reporting.stored_by_protocol
    monkeypatch.setattr(reporting, "stored_by_protocol", stored)
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
