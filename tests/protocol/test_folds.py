import json
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import BenchError, DataError, LeakError
from bench.protocol.folds import (
    Fold,
    Folds,
    SectionFacts,
    balanced_groups,
    check_folds,
    make_folds,
    read_folds,
    write_folds,
)
from bench.protocol.rules import BY_SECTION, PUBLISHED, STRICT


def facts_of(layout, images=True):
    """Facts for patients with the given spots per section, interleaved as cards may be."""
    facts = [
        SectionFacts(
            name=f"P{patient}s{section}",
            patient=f"P{patient}",
            spots=spots,
            image_hash=f"sha256:{patient}-{section}" if images else None,
        )
        for patient, sections in enumerate(layout)
        for section, spots in enumerate(sections)
    ]
    return sorted(facts, key=lambda fact: fact.name[::-1])


def layouts(fewest, most):
    sections = st.lists(st.integers(1, 5000), min_size=1, max_size=4)
    return st.lists(sections, min_size=fewest, max_size=most)


def patients_of(names):
    return {name.partition("s")[0] for name in names}


@settings(max_examples=60)
@given(layout=layouts(2, 25))
def test_strict_folds_test_every_section_once_on_patients_never_seen(layout):
    facts = facts_of(layout)
    folds = make_folds("d", facts, STRICT)
    tested = Counter(name for fold in folds.folds for name in fold.test)
    assert tested == Counter(fact.name for fact in facts)
    assert [fold.index for fold in folds.folds] == list(range(len(folds.folds)))
    for fold in folds.folds:
        used = [*fold.train, *fold.validation, *fold.test]
        assert sorted(used) == sorted(fact.name for fact in facts)
        assert not patients_of(fold.test) & patients_of(fold.train + fold.validation)
        assert fold.train


@settings(max_examples=60)
@given(layout=layouts(3, 25))
def test_strict_validation_is_one_whole_training_patient(layout):
    facts = facts_of(layout)
    for fold in make_folds("d", facts, STRICT).folds:
        (held,) = patients_of(fold.validation)
        assert set(fold.validation) == {f.name for f in facts if f.patient == held}
        assert held not in patients_of(fold.train)


@pytest.mark.parametrize("patients", [3, 5, 10])
def test_every_patient_is_left_out_once_and_validates_once_up_to_ten_patients(patients):
    folds = make_folds("d", facts_of([[10, 20]] * patients), STRICT).folds
    assert len(folds) == patients
    assert all(len(patients_of(fold.test)) == 1 for fold in folds)
    held = [patients_of(fold.validation).pop() for fold in folds]
    assert len(set(held)) == patients


@settings(max_examples=60)
@given(layout=layouts(11, 30))
def test_above_ten_patients_there_are_eight_folds_balanced_by_spots(layout):
    facts = facts_of(layout)
    folds = make_folds("d", facts, STRICT).folds
    assert len(folds) == 8
    spots = {fact.patient: 0 for fact in facts}
    for fact in facts:
        spots[fact.patient] += fact.spots
    groups = [patients_of(fold.test) for fold in folds]
    loads = [sum(spots[patient] for patient in group) for group in groups]
    for group, load in zip(groups, loads, strict=True):
        # The greedy bound: a group was the lightest when it took its last, smallest patient.
        assert load - min(spots[patient] for patient in group) <= min(loads)


def test_equal_patients_give_groups_of_equal_size():
    groups = balanced_groups({f"P{i}": 100 for i in range(24)}, 8)
    assert sorted(map(len, groups)) == [3] * 8
    assert sorted(patient for group in groups for patient in group) == sorted(
        f"P{i}" for i in range(24)
    )


@settings(max_examples=40)
@given(layout=layouts(1, 12).filter(lambda layout: sum(map(len, layout)) >= 2))
def test_published_folds_leave_each_section_out_in_the_given_order(layout):
    facts = facts_of(layout)
    folds = make_folds("d", facts, PUBLISHED).folds
    names = [fact.name for fact in facts]
    assert [fold.test for fold in folds] == [(name,) for name in names]
    for fold in folds:
        assert fold.train == tuple(name for name in names if name not in fold.test)
        assert fold.validation == ()


@settings(max_examples=20)
@given(layout=layouts(2, 15), protocol=st.sampled_from([STRICT, PUBLISHED]))
def test_the_same_facts_give_the_same_folds(layout, protocol):
    first = make_folds("d", facts_of(layout), protocol)
    second = make_folds("d", facts_of(layout), protocol)
    assert first == second
    assert first.hash == second.hash


def test_the_hash_changes_with_every_part_of_the_folds():
    folds = make_folds("d", facts_of([[1, 2], [3], [4, 5]]), STRICT)
    first = folds.folds[0]
    swapped = first.model_copy(update={"train": first.validation, "validation": first.train})
    turned = first.model_copy(update={"train": first.train[::-1]})
    moved = first.model_copy(update={"index": 7})
    others = [
        folds.model_copy(update={"dataset": "e"}),
        folds.model_copy(update={"protocol": "other"}),
        folds.model_copy(update={"protocol_hash": "0"}),
        folds.model_copy(update={"patients": {**folds.patients, "P0s0": "P1"}}),
        folds.model_copy(update={"folds": folds.folds[:-1]}),
        folds.model_copy(update={"folds": folds.folds[::-1]}),
        *(
            folds.model_copy(update={"folds": (changed, *folds.folds[1:])})
            for changed in (swapped, moved, turned)
        ),
    ]
    hashes = [folds.hash, *(other.hash for other in others)]
    assert len(set(hashes)) == len(hashes)


def test_two_patients_validate_on_a_section_of_the_one_training_patient():
    folds = make_folds("d", facts_of([[5, 5, 5], [5, 5]]), STRICT).folds
    assert len(folds) == 2
    by_test = {patients_of(fold.test).pop(): fold for fold in folds}
    assert by_test["P0"].train == ("P1s0",)
    assert by_test["P0"].validation == ("P1s1",)
    assert set(by_test["P1"].train) == {"P0s0", "P0s1"}
    assert by_test["P1"].validation == ("P0s2",)


def test_two_patients_of_one_section_train_without_validation():
    folds = make_folds("d", facts_of([[5], [5]]), STRICT).folds
    assert [(fold.train, fold.validation, fold.test) for fold in folds] == [
        (("P1s0",), (), ("P0s0",)),
        (("P0s0",), (), ("P1s0",)),
    ]


def test_one_patient_is_refused_with_what_would_work():
    with pytest.raises(
        BenchError, match=r"belong to 1 patient.*by-section, which splits by section, works"
    ) as caught:
        make_folds("d", facts_of([[5, 5]]), STRICT)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "protocol"), [([[5]], PUBLISHED), ([], PUBLISHED), ([], STRICT)]
)
def test_too_few_sections_are_refused(layout, protocol):
    with pytest.raises(BenchError, match=r"needs at least 2|0 section"):
        make_folds("d", facts_of(layout), protocol)


FACTS = facts_of([[1, 1], [1, 1], [1, 1]])


def folds_with(**changes):
    """Honest strict folds of three patients, the first fold changed as asked."""
    folds = make_folds("d", FACTS, STRICT)
    first = folds.folds[0].model_copy(update=changes)
    return folds.model_copy(update={"folds": (first, *folds.folds[1:])})


def test_honest_folds_pass_the_check():
    check_folds(folds_with(), FACTS, STRICT)


TRAIN, VALIDATION, TEST = ("P2s0", "P2s1"), ("P1s0", "P1s1"), ("P0s0", "P0s1")


@pytest.mark.parametrize(
    ("leak", "match"),
    [
        ({"train": (*TRAIN, "P0s0")}, "fold 0: a section is on two sides"),
        ({"validation": (*VALIDATION, "P0s0")}, "fold 0: a section is on two sides"),
        ({"validation": (*VALIDATION, "P2s0")}, "fold 0: a section is on two sides"),
        ({"train": (*TRAIN, "P2s0")}, "fold 0: a section is on two sides"),
        ({"test": ("P0s0", "P0s0")}, "fold 0: a section is on two sides"),
        ({"test": ("P0s0",), "train": (*TRAIN, "P0s1")}, "fold 0: patient P0 on both sides"),
        (
            {"test": ("P0s0",), "validation": (*VALIDATION, "P0s1")},
            "fold 0: patient P0 on both sides",
        ),
        ({"test": ("P0s0",)}, "every section must be tested exactly once"),
        ({"test": (*TEST, "P1s0"), "validation": ()}, "every section must be tested exactly once"),
        ({"train": (*TRAIN, "X")}, r"fold 0: unknown sections \['X'\]"),
        ({"validation": ("X",)}, r"fold 0: unknown sections \['X'\]"),
        ({"test": (*TEST, "X")}, r"fold 0: unknown sections \['X'\]"),
        ({"train": ()}, "fold 0: training or test side is empty"),
        ({"test": ()}, "fold 0: training or test side is empty"),
    ],
)
def test_a_planted_leak_is_found_and_named(leak, match):
    honest = folds_with().folds[0]
    assert (honest.train, honest.validation, honest.test) == (TRAIN, VALIDATION, TEST)
    with pytest.raises(LeakError, match=match) as caught:
        check_folds(folds_with(**leak), FACTS, STRICT)
    assert "\n" not in str(caught.value)


def test_a_section_tested_in_two_folds_is_a_leak():
    folds = make_folds("d", FACTS, PUBLISHED)
    double = folds.folds[0].model_copy(update={"index": len(folds.folds)})
    folds = folds.model_copy(update={"folds": (*folds.folds, double)})
    with pytest.raises(LeakError, match="exactly once"):
        check_folds(folds, FACTS, PUBLISHED)


def test_a_fold_left_away_leaves_a_section_untested():
    folds = make_folds("d", FACTS, PUBLISHED)
    with pytest.raises(LeakError, match="exactly once"):
        check_folds(folds.model_copy(update={"folds": folds.folds[1:]}), FACTS, PUBLISHED)


@pytest.mark.parametrize("protocol", [STRICT, PUBLISHED])
@pytest.mark.parametrize("twin", ["P1s0", "P2s0"])
def test_one_image_under_two_names_on_both_sides_of_a_test_split_is_a_leak(protocol, twin):
    same = next(fact for fact in FACTS if fact.name == "P0s0").image_hash
    facts = [
        SectionFacts(fact.name, fact.patient, fact.spots, same if fact.name == twin else None)
        if fact.name != "P0s0"
        else fact
        for fact in FACTS
    ]
    with pytest.raises(LeakError, match="the same image on both sides") as caught:
        make_folds("d", facts, protocol)
    assert "P0s0" in str(caught.value)
    assert twin in str(caught.value)


def test_one_image_in_training_and_in_validation_is_a_leak():
    same = "sha256:1-0"
    facts = [
        SectionFacts(f.name, f.patient, f.spots, same if f.name in {"P1s0", "P2s0"} else None)
        for f in FACTS
    ]
    fold = Fold(index=0, train=TRAIN, validation=VALIDATION, test=TEST)
    others = (Fold(index=1, train=TEST, validation=(), test=(*TRAIN, *VALIDATION)),)
    folds = folds_with().model_copy(update={"folds": (fold, *others)})
    with pytest.raises(LeakError, match="image"):
        check_folds(folds, facts, STRICT)


def test_sections_of_one_patient_on_both_sides_are_allowed_by_the_published_protocol():
    folds = make_folds("d", facts_of([[1, 1]]), PUBLISHED)
    assert len(folds.folds) == 2


def test_sections_without_images_share_no_image():
    facts = facts_of([[1], [1], [1]], images=False)
    assert len(make_folds("d", facts, STRICT).folds) == 3


def test_written_folds_are_read_back(tmp_path):
    folds = make_folds("d", FACTS, STRICT)
    path = write_folds(tmp_path / "runs", folds)
    assert path.name == f"folds-{folds.hash[:12]}.json"
    assert read_folds(path) == folds
    assert write_folds(tmp_path / "runs", folds) == path
    assert list(path.parent.iterdir()) == [path]


def test_a_folds_file_that_was_changed_is_refused(tmp_path):
    path = write_folds(tmp_path, make_folds("d", FACTS, STRICT))
    content = json.loads(path.read_text())
    first = content["folds"][0]
    first["train"].append(first["test"].pop())
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="does not match the hash in its name"):
        read_folds(path)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"folds": []}', b"[" * 100_000],
)
def test_what_is_no_folds_file_is_refused_by_name(tmp_path, content):
    path = tmp_path / "folds-000000000000.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"folds-000000000000\.json") as caught:
        read_folds(path)
    assert "\n" not in str(caught.value)


def test_a_missing_folds_file_is_refused_by_name(tmp_path):
    with pytest.raises(DataError, match=r"folds-0\.json: cannot be read"):
        read_folds(tmp_path / "folds-0.json")


def test_a_folds_file_with_a_surplus_field_is_refused(tmp_path):
    path = write_folds(tmp_path, make_folds("d", FACTS, STRICT))
    content = json.loads(path.read_text()) | {"truth": []}
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match="truth"):
        read_folds(path)


def test_folds_cannot_be_changed_in_memory():
    folds = make_folds("d", FACTS, STRICT)
    with pytest.raises(ValueError, match="frozen"):
        folds.folds[0].train = ()
    assert isinstance(folds, Folds)


def blocks_of_one_section(*sections, image="sha256:1"):
    """Facts of four blocks of a patient's section for each name."""
    return [
        SectionFacts(f"{name}-b{number}", f"P-{name}", 1, f"{image}-{name}", f"block of {name}")
        for name in sections
        for number in range(1, 5)
    ]


def test_blocks_of_one_section_are_left_out_one_by_one_by_a_section_split():
    folds = make_folds("d", blocks_of_one_section("S"), BY_SECTION).folds
    assert [fold.test for fold in folds] == [("S-b1",), ("S-b2",), ("S-b3",), ("S-b4",)]
    assert folds[1].train == ("S-b1", "S-b3", "S-b4")


def test_a_patient_split_keeps_blocks_of_one_section_on_one_side_of_the_test_split():
    folds = make_folds("d", blocks_of_one_section("S", "T"), STRICT).folds
    assert [fold.test for fold in folds] == [
        ("S-b1", "S-b2", "S-b3", "S-b4"),
        ("T-b1", "T-b2", "T-b3", "T-b4"),
    ]
    assert folds[0].validation == ("T-b4",)
    assert folds[0].train == ("T-b1", "T-b2", "T-b3")


def test_blocks_of_one_section_under_two_patients_are_refused_by_a_patient_split():
    facts = [replace(fact, patient=fact.name) for fact in blocks_of_one_section("S")]
    with pytest.raises(LeakError, match="the same image on both sides"):
        make_folds("d", facts, STRICT)


@pytest.mark.parametrize("other", [None, "block of T"])
def test_an_image_that_a_block_shares_with_another_section_is_refused(other):
    facts = blocks_of_one_section("S")
    facts[3] = replace(facts[3], block_of=other)
    with pytest.raises(LeakError, match="the same image on both sides"):
        make_folds("d", facts, BY_SECTION)


@pytest.mark.parametrize("protocol", [STRICT, BY_SECTION])
def test_one_section_is_told_how_to_be_divided(protocol):
    with pytest.raises(BenchError, match=r"bench data add --blocks 4") as caught:
        make_folds("d", facts_of([[5]]), protocol)
    assert "by-section" in str(caught.value)
