"""``bench audit`` and ``bench ceiling``."""

import json
import shutil

import pandas as pd
import pytest

from tests.cli.tiny_dataset import assert_refused


def test_an_honest_dataset_has_nothing_to_report(bench, tiny):
    done = bench("audit", *tiny.where, *tiny.quick_protocol)
    assert done.status == 0
    assert "nothing found" not in done.stdout  # the card's panel is a published one
    assert "Panel leak" in done.stdout
    assert "FORBIDDEN" not in done.stdout


def test_a_copied_section_is_forbidden_and_the_run_refused(bench, damaged, results):
    damaged.write_counts("B1", damaged.read_counts("A1"))
    done = bench("audit", *damaged.where, *damaged.quick_protocol, "--json")
    assert done.status == 1
    found = json.loads(done.stdout)["findings"]
    assert {one["kind"]: one["forbidden"] for one in found} == {"counts": True, "panel": False}
    refused = bench(
        *("run", "-m", "mean", *damaged.where, *damaged.quick_protocol),
        *("--results", results, "--tracking", "none"),
    )
    assert_refused(refused, "forbids: 30 spots of sections A1 and B1 have the same counts")


def test_a_recompressed_image_is_found(bench, damaged):
    from PIL import Image

    with Image.open(damaged.image("A1")) as image:
        image.save(damaged.image("C2"), quality=60)
    done = bench("audit", *damaged.where, *damaged.quick_protocol)
    assert done.status == 1
    assert "FORBIDDEN  Same-image leak: sections A1 and C2" in done.stdout


def test_without_images_the_rest_is_audited(bench, damaged):
    shutil.rmtree(damaged.root / "images")
    done = bench("audit", *damaged.where, *damaged.quick_protocol, "--json")
    assert done.status == 0
    content = json.loads(done.stdout)
    assert len(content["sections"]) == 6
    assert content["sections_with_image"] == []


@pytest.mark.slow
def test_a_published_table_carries_its_leaks_as_footnotes(bench, tiny, results):
    done = bench(
        *("run", "-m", "mean", *tiny.where, "--protocol", "published"),
        *("--results", results, "--tracking", "none", "--json"),
    )
    assert done.status == 0, done.stderr
    notes = json.loads(done.stdout)["footnotes"]
    for title in ("Same-patient leak", "Panel leak", "HEG leak", "Scale"):
        assert sum(note.startswith(title) for note in notes) == 1


def test_the_ceiling_is_shown_by_section_and_by_gene(bench, tiny):
    options = (*tiny.where, *tiny.quick_protocol)
    done = bench("ceiling", *options, "--format", "json")
    assert done.status == 0, done.stderr
    rows = json.loads(done.stdout)["rows"]
    assert [row["section"] for row in rows] == ["A1", "A2", "B1", "B2", "C1", "C2", "all"]
    by_gene = bench("ceiling", *options, "--format", "csv", "--genes")
    import io

    genes = pd.read_csv(io.StringIO(by_gene.stdout))
    assert len(genes) == 6 * 40
    mean = genes[genes["section"] == "A1"]["ceiling"].mean()
    assert abs(rows[0]["ceiling_acg"] - mean) < 1e-12
    assert 0 < rows[-1]["ceiling_acg"] < 1
    assert bench("ceiling", *options).stdout == bench("ceiling", *options).stdout


def test_images_of_one_patient_alone_are_compared_as_far_as_they_go(bench, damaged):
    for name in ("B1", "B2", "C1", "C2"):
        damaged.image(name).unlink()
    done = bench("audit", *damaged.where, *damaged.quick_protocol, "--json")
    assert done.status == 0, done.stderr
    assert json.loads(done.stdout)["sections_with_image"] == ["A1", "A2"]


def test_a_dataset_that_may_share_patients_is_no_test_of_a_model(bench, tmp_path, monkeypatch):
    monkeypatch.setenv("SPOTBENCH_DATA", str(tmp_path))
    for pair in (("her2st", "stnet"), ("stnet", "her2st")):
        answer = bench("audit", "--dataset", pair[0], "--test-dataset", pair[1])
        assert answer.status == 1
        assert "judged by their cards" in answer.stdout
        assert "FORBIDDEN  Same-patient leak" in answer.stdout
    answer = bench("audit", "--dataset", "her2st", "--test-dataset", "cscc", "--json")
    assert answer.status == 0
    assert json.loads(answer.stdout)["findings"] == []


def test_sections_of_two_datasets_are_compared_where_both_are_here(bench, tiny, tmp_path):
    other = tiny.copy(tmp_path / "other")
    content = other.edit_card(name="other", folder=str(other.root))
    for number, section in enumerate(content["sections"]):
        section["name"], section["patient"] = f"X{number}", f"X{number // 2}"
    other.edit_card(sections=content["sections"], published_order=[])
    answer = bench("audit", *tiny.where, "--test-dataset", other.card, "--json")
    assert answer.status == 1
    found = json.loads(answer.stdout)
    assert found["compared"] == ["tiny", "other"]
    assert {f["kind"] for f in found["findings"]} == {"image", "counts", "distance"}
    assert all(f["forbidden"] for f in found["findings"])
    assert "other:X0 and tiny:A1" in str(found["findings"])


def test_a_dataset_is_no_test_of_itself(bench, tiny):
    assert_refused(bench("audit", *tiny.where, "--test-dataset", tiny.card), "tiny", "protocol")
