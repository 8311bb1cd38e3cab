"""The audit finds every leak that is planted, and none where there is none."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy.spatial.distance import cdist

from bench.cache import JsonCache
from bench.data.alignment import section_alignment
from bench.errors import LeakError
from bench.protocol.audit import audit, check_audit, decode_findings, encode_findings
from bench.protocol.folds import Fold, SectionFacts, make_folds
from bench.protocol.rules import HEST, PUBLISHED, STRICT, Protocol

BY_SECTION = Protocol(name="sections", version=1, title="t", split="section")


def picture(seed, side=200):
    """A picture with structure of its own."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)


@pytest.fixture
def make(make_section, tmp_path):
    """Four sections of two patients, each with counts and an image of its own."""

    def build(images=None, counts=None):
        sections = {}
        for number, name in enumerate(("A1", "A2", "B1", "B2")):
            drawn = np.random.default_rng(number).poisson(3, (30, 50))
            if counts and name in counts:
                drawn = counts[name](drawn)
            path = tmp_path / f"{name}.png"
            (images or {}).get(name, picture(number)).save(path)
            sections[name] = make_section(
                name, name[0], drawn, image=path, image_hash=f"sha256:{path}-{id(images)}"
            )
        return sections

    return build


def findings_of(sections, protocol):
    facts = [SectionFacts(s.name, s.patient, 1, s.image_hash) for s in sections.values()]
    return audit(make_folds("small", facts, protocol), sections, protocol)


def kinds(findings):
    return [finding.kind for finding in findings]


def test_clean_sections_under_a_patient_split_have_no_finding(make, own_cache):
    assert findings_of(make(), STRICT) == []
    check_audit([], STRICT)


def test_sections_of_one_patient_on_both_sides_are_found_and_allowed_by_a_section_split(
    make, own_cache
):
    (finding,) = findings_of(make(), BY_SECTION)
    assert (finding.kind, finding.folds, finding.forbidden) == ("patient", (0, 1, 2, 3), False)
    assert "patients A, B" in finding.message
    check_audit([finding], BY_SECTION)


@pytest.mark.parametrize(
    "change",
    [
        lambda image: image,
        lambda image: image.resize((123, 123)),
        lambda image: image.filter(ImageFilter.GaussianBlur(2)),
        lambda image: image.point(lambda value: min(255, int(value * 1.2))),
    ],
    ids=["copy", "smaller", "blurred", "brighter"],
)
def test_nearly_the_same_image_of_two_patients_is_found_and_forbidden(make, own_cache, change):
    sections = make(images={"B1": change(picture(0))})
    findings = findings_of(sections, STRICT)
    assert kinds(findings) == ["image", "distance"]
    assert all(finding.forbidden for finding in findings)
    assert "A1 and B1 have nearly the same image" in findings[0].message
    assert findings[0].folds == (0, 1)
    with pytest.raises(LeakError, match=r"A1 and B1 .*and 1 more"):
        check_audit(findings, STRICT)


def test_repeated_counts_are_found_whatever_the_order_of_spots(make, own_cache):
    first = np.random.default_rng(0).poisson(3, (30, 50))

    def with_two_spots_of_a1(counts):
        counts[5], counts[9] = first[20], first[1]
        return counts

    (finding,) = findings_of(make(counts={"B2": with_two_spots_of_a1}), STRICT)
    assert (finding.kind, finding.forbidden) == ("counts", True)
    assert finding.message.startswith("2 spots of sections A1 and B2 have the same counts")


def test_repeated_counts_are_found_whatever_the_order_of_genes(make_section, own_cache):
    counts = np.random.default_rng(0).poisson(3, (10, 40))
    order = np.random.default_rng(1).permutation(40)
    names = [f"G{number}" for number in range(40)]
    sections = {
        "A1": make_section("A1", "A", counts, names),
        "B1": make_section("B1", "B", counts[:4][:, order], [names[i] for i in order]),
    }
    (finding,) = findings_of(sections, STRICT)
    assert finding.message.startswith("4 spots")


def test_nearly_empty_spots_agree_by_chance_and_are_no_finding(make, own_cache):
    def empty(counts):
        counts[:10] = 0
        counts[:10, 3] = 19
        return counts

    assert findings_of(make(counts={"A1": empty, "B1": empty}), STRICT) == []


def test_the_published_rules_are_named_and_forbidden_by_nobody(make, own_cache):
    protocol = PUBLISHED.model_copy(update={"sections": "all"})
    findings = findings_of(make(), protocol)
    assert kinds(findings) == ["patient", "panel", "heg", "scale"]
    assert not any(finding.forbidden for finding in findings)
    assert all("\n" not in finding.message for finding in findings)


def test_findings_are_stored_and_a_damaged_file_counts_as_absent(make, own_cache):
    findings = findings_of(make(), BY_SECTION)
    stored = JsonCache("audits", decode_findings)
    assert stored.get("key") is None
    stored.put("key", encode_findings(findings))
    assert stored.get("key") == findings
    for text in ("", "[]", "{}", '{"findings": [{"kind": 1}]}', '{"findings": 3}'):
        stored.path("key").write_text(text)
        assert stored.get("key") is None


def blocks(make_section, tmp_path, block_of):
    """Two blocks of 25 spots at 20 px each, ten a row, of which the second follows below."""
    path = tmp_path / "shared.png"
    picture(0).save(path)
    sections = {}
    for number, (name, section_of) in enumerate(block_of.items()):
        drawn = np.random.default_rng(number).poisson(3, (25, 50))
        section = make_section(name, "A", drawn, image=path, image_hash="sha256:shared")
        section.adata.obsm["spatial"] = section.spatial + np.array([0, 20 * 3 * number])
        sections[name] = replace(section, block_of=section_of)
    return sections


def test_blocks_of_one_section_are_one_finding_with_the_spots_whose_patches_overlap(
    make_section, tmp_path, own_cache
):
    sections = blocks(make_section, tmp_path, {"S-b1": "S", "S-b2": "S"})
    facts = [SectionFacts(s.name, "A", 1, s.image_hash, s.block_of) for s in sections.values()]
    findings = audit(make_folds("small", facts, BY_SECTION), sections, BY_SECTION)
    assert kinds(findings) == ["patient", "block"]
    assert not any(finding.forbidden for finding in findings)
    # The last row of the first block has five spots, 20 px above a row of ten; a patch is 32 px.
    near = {
        name: (cdist(sections[name].spatial, sections[other].spatial).min(axis=1) < 32).sum()
        for name, other in (("S-b1", "S-b2"), ("S-b2", "S-b1"))
    }
    assert near == {"S-b1": 5, "S-b2": 6}
    assert "of one section, divided into S-b1, S-b2; 11 test spots" in findings[1].message
    assert findings[1].folds == (0, 1)
    check_audit(findings, BY_SECTION)


def test_blocks_of_one_section_are_forbidden_under_a_patient_split(
    make_section, tmp_path, own_cache
):
    sections = blocks(make_section, tmp_path, {"S-b1": "S", "S-b2": "S"})
    facts = [SectionFacts(s.name, "A", 1, s.image_hash, s.block_of) for s in sections.values()]
    findings = audit(make_folds("small", facts, BY_SECTION), sections, STRICT)
    assert [(f.kind, f.forbidden) for f in findings] == [("patient", True), ("block", True)]


def test_one_image_of_blocks_of_two_sections_is_a_same_image_leak(
    make_section, tmp_path, own_cache
):
    sections = blocks(make_section, tmp_path, {"S-b1": "S", "T-b1": "T"})
    facts = [SectionFacts(s.name, "A", 1) for s in sections.values()]
    findings = audit(make_folds("small", facts, BY_SECTION), sections, BY_SECTION)
    assert kinds(findings) == ["patient", "image", "distance"]


def test_the_spots_of_all_blocks_are_compared_with_the_tissue_together(
    make_section, tmp_path, own_cache
):
    """The last block lies off the tissue, and would lie on it mirrored; the section would not."""
    pixels = np.full((600, 600, 3), 240, dtype=np.uint8)
    pixels[:300] = (150, 70, 140)
    path = tmp_path / "shared.png"
    Image.fromarray(pixels).save(path)
    grid = np.stack(np.meshgrid(np.arange(20.0, 600, 20), np.arange(20.0, 400, 20)), -1)
    spatial = grid.reshape(-1, 2)
    rows = np.array_split(np.arange(len(spatial)), 4)
    sections = {}
    for name, spots in zip(("S-b1", "S-b2", "S-b3", "S-b4"), rows, strict=True):
        drawn = np.random.default_rng(len(sections)).poisson(3, (len(spots), 50))
        section = make_section(name, "A", drawn, image=path, image_hash="sha256:half")
        section.adata.obsm["spatial"] = spatial[spots]
        sections[name] = replace(section, block_of="S")
    facts = [SectionFacts(s.name, "A", 1, s.image_hash, s.block_of) for s in sections.values()]
    findings = audit(make_folds("small", facts, BY_SECTION), sections, BY_SECTION)
    assert kinds(findings) == ["patient", "block"]
    alone = section_alignment(sections["S-b4"])
    assert alone is not None
    assert alone.warning is not None


def test_listed_folds_name_their_leaks_and_forbid_none(make, own_cache):
    sections = make()
    facts = [SectionFacts(s.name, s.patient) for s in sections.values()]
    pairs = [(("A2", "B1"), ("A1", "B2")), (("A1", "B2"), ("A2", "B1"))]
    listed = [Fold(index=i, train=a, validation=(), test=b) for i, (a, b) in enumerate(pairs)]
    folds = make_folds("small", facts, HEST, listed)
    findings = audit(folds, sections, HEST, ["the genes were chosen over all samples"])
    assert kinds(findings) == ["patient", "patients", "panel", "caution"]
    assert "two patients (A, B)" in findings[1].message
    assert findings[3].message == "the genes were chosen over all samples"
    check_audit(findings, HEST)


def test_three_patients_are_no_finding(make, own_cache):
    sections = make()
    patients = {"A1": "A", "A2": "A", "B1": "B", "B2": "C"}
    facts = [SectionFacts(name, patient) for name, patient in patients.items()]
    listed = [Fold(index=0, train=("A1", "A2"), validation=(), test=("B1", "B2"))]
    assert kinds(audit(make_folds("small", facts, HEST, listed), sections, HEST)) == ["panel"]
