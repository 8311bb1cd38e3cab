"""Folds: one division of the sections for all methods, checked for leakage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.data.card import join_names
from bench.errors import BenchError, DataError, LeakError
from bench.faults import first_fault
from bench.files import canonical_hash, write_json
from bench.protocol.rules import BY_SECTION, Protocol


@dataclass(frozen=True)
class SectionFacts:
    """Facts about a section that splitting uses.

    Attributes
    ----------
    name, patient
        Name and patient in the card.
    spots
        Number of spots, for balancing; 1 if not used.
    image_hash
        Hash of the image file, None without an image.
    block_of
        Identifier that all blocks of one divided section share; None where it is not divided.
    """

    name: str
    patient: str
    spots: int = 1
    image_hash: str | None = None
    block_of: str | None = None


class Fold(BaseModel):
    """One train / validation / test division, by section name."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    index: int
    train: tuple[str, ...]
    validation: tuple[str, ...]
    test: tuple[str, ...]


class Folds(BaseModel):
    """All folds of a dataset under a protocol; shared by all methods."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    dataset: str
    protocol: str
    protocol_hash: str
    patients: dict[str, str]
    folds: tuple[Fold, ...]

    @property
    def hash(self) -> str:
        """SHA-256 over all fields."""
        return canonical_hash(self.model_dump(mode="json"))


def make_folds(
    dataset: str,
    facts: Sequence[SectionFacts],
    protocol: Protocol,
    listed: Sequence[Fold] | None = None,
    groups: Sequence[Sequence[str]] = (),
) -> Folds:
    """Divide sections by the rules of the protocol.

    Parameters
    ----------
    dataset
        Name written into the folds.
    facts
        Usable sections, in the order in which folds are numbered.
    protocol
        Rules of the division.
    listed
        Folds that the dataset ships, for a protocol that takes them.
    groups
        Test patients of each fold, for a protocol that takes them from the card; patients without
        a usable section are left out. Empty where the protocol's rule applies.

    Raises
    ------
    BenchError
        Too few patients or sections for the protocol, or no listed folds.
    LeakError
        The result violates the protocol (see :func:`check_folds`).
    """
    if protocol.split == "listed":
        if not listed:
            raise BenchError(f"protocol {protocol.name} takes the folds that a dataset ships")
        divided = list(listed)
    else:
        by_section = protocol.split == "section"
        divided = (
            _by_section(facts, protocol) if by_section else _by_patient(facts, protocol, groups)
        )
    folds = Folds(
        dataset=dataset,
        protocol=protocol.name,
        protocol_hash=protocol.hash,
        patients={fact.name: fact.patient for fact in facts},
        folds=tuple(divided),
    )
    check_folds(folds, facts, protocol)
    return folds


_DIVIDE = "'bench data add --blocks 4' divides each section of a folder of yours into four"


def _by_section(facts: Sequence[SectionFacts], protocol: Protocol) -> list[Fold]:
    if len(facts) < 2:
        raise BenchError(
            f"protocol {protocol.name} leaves one section out and needs at least 2 sections,"
            f" but {len(facts)} can be used; {_DIVIDE}"
        )
    names = [fact.name for fact in facts]
    return [
        Fold(
            index=index,
            train=tuple(name for name in names if name != test),
            validation=(),
            test=(test,),
        )
        for index, test in enumerate(names)
    ]


def _by_patient(
    facts: Sequence[SectionFacts], protocol: Protocol, given: Sequence[Sequence[str]] = ()
) -> list[Fold]:
    sections: dict[str, list[str]] = defaultdict(list)
    spots: dict[str, int] = defaultdict(int)
    for fact in facts:
        sections[fact.patient].append(fact.name)
        spots[fact.patient] += fact.spots
    patients = list(sections)
    if len(patients) < 2:
        if len(facts) < 2:
            raise BenchError(
                f"protocol {protocol.name} leaves one patient out, but {len(facts)} section can be"
                f" used; sections of two patients are needed, or {BY_SECTION.name}: {_DIVIDE}"
            )
        raise BenchError(
            f"protocol {protocol.name} leaves one patient out, but the {len(facts)} usable"
            f" sections belong to {len(patients)} patient; --protocol {BY_SECTION.name}, which"
            " splits by section, works with one patient; its scores do not apply to new patients"
        )
    groups = [[patient for patient in group if patient in sections] for group in given]
    groups = [group for group in groups if group]
    if groups:
        left = [patient for patient in patients if not any(patient in g for g in groups)]
        if left:
            raise BenchError(f"patient {join_names(left)} is in no fold that the card lists")
    elif len(patients) <= protocol.leave_one_out_up_to:
        groups = [[patient] for patient in patients]
    else:
        groups = balanced_groups(spots, protocol.grouped_folds)

    folds = []
    for index, test in enumerate(groups):
        # The validation patient follows the test patients, so that every patient is used once.
        after = patients[patients.index(test[-1]) + 1 :] + patients
        training = [patient for patient in patients if patient not in test]
        held = next(patient for patient in after if patient in training)
        if len(training) > 1:
            validation = sections[held]
        else:
            # One training patient: its last section is for validation, if another is left to train.
            validation = sections[held][1:][-1:]
        folds.append(
            Fold(
                index=index,
                train=tuple(
                    fact.name
                    for fact in facts
                    if fact.patient not in test and fact.name not in validation
                ),
                validation=tuple(validation),
                test=tuple(fact.name for fact in facts if fact.patient in test),
            )
        )
    return folds


def balanced_groups(spots: Mapping[str, int], groups: int) -> list[list[str]]:
    """Divide patients into `groups` groups of about equal spots: largest first, into the smallest.

    Parameters
    ----------
    spots
        Spots of each patient.
    groups
        Number of groups, at most the number of patients.
    """
    members: list[list[str]] = [[] for _ in range(min(groups, len(spots)))]
    weights = [0] * len(members)
    for patient in sorted(spots, key=lambda name: (-spots[name], name)):
        lightest = weights.index(min(weights))
        members[lightest].append(patient)
        weights[lightest] += spots[patient]
    return members


def check_folds(folds: Folds, facts: Sequence[SectionFacts], protocol: Protocol) -> None:
    """Raise if folds have a leak that the protocol forbids.

    Every protocol forbids a section, or an image, on both sides of a test split, and every
    section must be tested exactly once; listed folds may leave a section untested. Under a patient
    split, no patient may be on both sides.
    Under a section split, blocks of one section share its image; the audit reports them.

    Raises
    ------
    LeakError
        A leak; the message names the fold and the shared data.
    """
    by_name = {fact.name: fact for fact in facts}
    tested: list[str] = []
    for fold in folds.folds:
        unknown = {*fold.train, *fold.validation, *fold.test} - set(by_name)
        if unknown:
            raise LeakError(f"fold {fold.index}: unknown sections {sorted(unknown)}")
        if not fold.train or not fold.test:
            raise LeakError(f"fold {fold.index}: training or test side is empty")
        sides = (fold.train, fold.validation, fold.test)
        if len({*fold.train, *fold.validation, *fold.test}) != sum(map(len, sides)):
            raise LeakError(f"fold {fold.index}: a section is on two sides")
        seen = [by_name[name] for name in (*fold.train, *fold.validation)]
        test = [by_name[name] for name in fold.test]
        shared_images = {f.image_hash for f in seen if f.image_hash} & {f.image_hash for f in test}
        if protocol.split == "section":
            shared_images = {i for i in shared_images if not _of_one_section((*seen, *test), i)}
        if shared_images:
            pair = [f.name for f in (*seen, *test) if f.image_hash in shared_images]
            raise LeakError(
                f"fold {fold.index}: the same image on both sides of the test split"
                f" (sections {join_names(pair)})"
            )
        kept = {f.image_hash for f in seen if f.image_hash and f.name in fold.validation}
        kept &= {f.image_hash for f in seen if f.name in fold.train}
        # Validation stops the training early; it may be of a block beside the training blocks.
        if any(not _of_one_section(seen, image) for image in kept):
            raise LeakError(f"fold {fold.index}: the same image in training and in validation")
        if protocol.split == "patient":
            shared = {f.patient for f in seen} & {f.patient for f in test}
            if shared:
                raise LeakError(
                    f"fold {fold.index}: patient {join_names(sorted(shared))} on both sides of"
                    f" the test split, which protocol {protocol.name} forbids"
                )
        tested.extend(fold.test)
    if protocol.split == "listed":
        twice = sorted({name for name in tested if tested.count(name) > 1})
        if twice:
            raise LeakError(f"folds: section {join_names(twice)} is tested in two folds")
    elif sorted(tested) != sorted(by_name):
        raise LeakError("folds: every section must be tested exactly once")


def _of_one_section(facts: Sequence[SectionFacts], image_hash: str | None) -> bool:
    """Whether all that show an image are blocks of one section."""
    sections = {fact.block_of for fact in facts if fact.image_hash == image_hash}
    return len(sections) == 1 and None not in sections


def write_folds(folder: Path, folds: Folds) -> Path:
    """Write the folds to a file named by their hash, which all their runs refer to."""
    path = folder / f"folds-{folds.hash[:12]}.json"
    if not path.is_file():
        write_json(path, folds.model_dump(mode="json"))
    return path


def read_folds(path: Path) -> Folds:
    """Read a folds file; :class:`DataError` if it is missing, damaged or renamed."""
    try:
        folds = Folds.model_validate_json(path.read_text(encoding="utf-8"))
    except ValidationError as error:
        raise DataError(f"{path}: not a folds file ({first_fault(error)})") from error
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error})") from error
    if path.stem != f"folds-{folds.hash[:12]}":
        raise DataError(f"{path}: content does not match the hash in its name")
    return folds
