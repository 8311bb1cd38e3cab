"""Check of folds and rules for leakage from test to training data."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np

from bench.cache import JsonCache
from bench.data.alignment import section_alignment
from bench.data.card import join_names
from bench.data.images.image import thumbnail
from bench.data.section import Section
from bench.errors import LeakError
from bench.protocol.folds import Fold, Folds
from bench.protocol.rules import Protocol

NEAR_IMAGES = 0.1
"""Maximum share of differing bits of the perceptual hashes of equal images."""

FEWEST_COUNTS = 20
"""Minimum counts of a compared spot; spots with fewer counts may agree by chance."""

_HASH_SIDE = 16
_THUMBNAIL = 1024


@dataclass(frozen=True)
class Finding:
    """One leak of information from a test section into training.

    Attributes
    ----------
    kind
        Key of :data:`TITLES`.
    message
        One line.
    folds
        Affected folds.
    forbidden
        Whether the protocol forbids it.
    """

    kind: str
    message: str
    folds: tuple[int, ...]
    forbidden: bool

    @property
    def title(self) -> str:
        """Heading of this kind of finding."""
        return TITLES[self.kind]


_LISTS = {
    "published": "the gene panel is a published list, chosen with the test sections included",
    "listed": "the gene panel is a given list; whether the test sections chose it is not known",
    "total": "the gene panel is chosen by total counts over all sections, test sections included",
}

TITLES = {
    "patient": "Same-patient leak",
    "image": "Same-image leak",
    "block": "Blocks of one section",
    "distance": "Overlapping patches",
    "counts": "Repeated counts",
    "panel": "Panel leak",
    "heg": "HEG leak",
    "scale": "Scale",
    "alignment": "Spots off the tissue",
    "patients": "Two patients",
    "caution": "Known problem of the data",
}
"""Headings of the kinds of findings."""


def audit(
    folds: Folds,
    sections: Mapping[str, Section],
    protocol: Protocol,
    cautions: Sequence[str] = (),
) -> list[Finding]:
    """Search for every known kind of leak.

    Parameters
    ----------
    folds
        Division of the sections.
    sections
        All sections of the folds by name; sections without an image are not compared by image.
    protocol
        Rules of the division. Under a patient split, any data shared by two sides are forbidden.
    cautions
        Known problems that the dataset's card names.

    Returns
    -------
    list of Finding
        Findings; empty if there is no leak.
    """
    return [
        *shared_data(folds, sections, protocol),
        *_alignments(folds, sections),
        *_two_patients(folds, protocol),
        *rule_findings(folds, protocol),
        *(Finding("caution", one, _every(folds), forbidden=False) for one in cautions),
    ]


def shared_data(folds: Folds, sections: Mapping[str, Section], protocol: Protocol) -> list[Finding]:
    """Patients, images and counts that are on both sides; parameters as for :func:`audit`."""
    return [
        *_patients(folds, protocol),
        *_blocks(folds, sections, protocol),
        *_images(folds, sections, protocol),
        *_counts(folds, sections, protocol),
    ]


def check_audit(findings: Sequence[Finding], protocol: Protocol) -> None:
    """Raise if a finding is forbidden by the protocol.

    Raises
    ------
    LeakError
        The first forbidden finding, and how many there are.
    """
    forbidden = [finding for finding in findings if finding.forbidden]
    if forbidden:
        more = f" (and {len(forbidden) - 1} more; see 'bench audit')" if forbidden[1:] else ""
        raise LeakError(f"protocol {protocol.name} forbids: {forbidden[0].message}{more}")


def encode_findings(findings: Sequence[Finding]) -> dict[str, Any]:
    """Encode findings as JSON values."""
    return {"findings": [vars(finding) for finding in findings]}


def decode_findings(content: Any) -> list[Finding]:
    """Decode the result of :func:`encode_findings`."""
    return [Finding(**{**one, "folds": tuple(one["folds"])}) for one in content["findings"]]


def rule_findings(folds: Folds, protocol: Protocol) -> list[Finding]:
    """Findings on rules of the protocol that use test sections."""
    every = _every(folds)
    findings = []
    if protocol.panel in _LISTS:
        findings.append(
            Finding(
                "panel",
                _LISTS[protocol.panel],
                every,
                forbidden=False,
            )
        )
    if protocol.heg == "test":
        findings.append(
            Finding(
                "heg",
                "the highly expressed genes are read off the test section's own truth",
                every,
                forbidden=False,
            )
        )
    if protocol.target.total == "gene":
        findings.append(
            Finding(
                "scale",
                "truth is scaled by each gene's total over the test section's own spots, which"
                " leaves spot depth in it",
                every,
                forbidden=False,
            )
        )
    return findings


def _every(folds: Folds) -> tuple[int, ...]:
    return tuple(fold.index for fold in folds.folds)


def _two_patients(folds: Folds, protocol: Protocol) -> list[Finding]:
    """Folds as shipped that train on one patient and test on the other."""
    patients = sorted(set(folds.patients.values()))
    if protocol.split != "listed" or len(patients) != 2:
        return []
    return [
        Finding(
            "patients",
            f"all sections are of two patients ({join_names(patients)}): a fold trains on one"
            " alone, and neither an interval nor a test over patients applies to new ones",
            _every(folds),
            forbidden=False,
        )
    ]


def _seen(fold: Fold) -> tuple[str, ...]:
    return (*fold.train, *fold.validation)


def _patients(folds: Folds, protocol: Protocol) -> list[Finding]:
    affected = {}
    for fold in folds.folds:
        test = {folds.patients[name] for name in fold.test}
        shared = test & {folds.patients[name] for name in _seen(fold)}
        if shared:
            affected[fold.index] = shared
    if not affected:
        return []
    patients = sorted(set().union(*affected.values()))
    return [
        Finding(
            "patient",
            f"in {len(affected)} of {len(folds.folds)} folds other sections of the test section's"
            f" patient are in training (patients {join_names(patients)})",
            tuple(affected),
            protocol.split == "patient",
        )
    ]


def _blocks(folds: Folds, sections: Mapping[str, Section], protocol: Protocol) -> list[Finding]:
    """Training and test spots of one section, a finding a section."""
    divided: dict[str, dict[str, int]] = {}
    affected: dict[str, set[int]] = {}
    for fold in folds.folds:
        for name in fold.test:
            tested = sections[name]
            if tested.block_of is None:
                continue
            seen = [sections[other] for other in _seen(fold)]
            beside = [other.spatial for other in seen if other.block_of == tested.block_of]
            if beside:
                close = _close_spots(np.vstack(beside), tested.spatial, tested.patch_pixels)
                divided.setdefault(tested.block_of, {})[name] = close
                affected.setdefault(tested.block_of, set()).add(fold.index)
    return [
        Finding(
            "block",
            f"training and test spots are of one section, divided into {join_names(close)};"
            f" {sum(close.values())} test spots lie within a patch width of the border, where"
            " patches overlap with those of training spots",
            tuple(sorted(affected[section])),
            protocol.split == "patient",
        )
        for section, close in divided.items()
    ]


def _images(folds: Folds, sections: Mapping[str, Section], protocol: Protocol) -> list[Finding]:
    prints = {
        name: _perceptual_hash(section)
        for name, section in sections.items()
        if section.image is not None and section.image_hash is not None
    }
    findings = []
    for (first, second), indices in _pairs_across(folds).items():
        if first not in prints or second not in prints:
            continue
        block_of = sections[first].block_of
        if block_of is not None and block_of == sections[second].block_of:
            continue  # reported as blocks of one section
        same_file = sections[first].image_hash == sections[second].image_hash
        if not same_file and np.mean(prints[first] != prints[second]) >= NEAR_IMAGES:
            continue
        what = "the same image" if same_file else "nearly the same image"
        findings.append(
            Finding(
                "image",
                f"sections {first} and {second} have {what} on both sides of the test split",
                indices,
                protocol.split == "patient",
            )
        )
        edge = max(sections[first].patch_pixels, sections[second].patch_pixels)
        close = _close_spots(sections[first].spatial, sections[second].spatial, edge)
        if close:
            findings.append(
                Finding(
                    "distance",
                    f"{close} spots of section {second} lie within one patch width of spots of"
                    f" section {first} across the test split",
                    indices,
                    protocol.split == "patient",
                )
            )
    return findings


def _pairs_across(folds: Folds) -> dict[tuple[str, str], tuple[int, ...]]:
    """Pairs (seen, tested) in alphabetical order, with the folds in which they occur."""
    pairs: dict[tuple[str, str], set[int]] = {}
    for fold in folds.folds:
        for pair in product(_seen(fold), fold.test):
            first, second = sorted(pair)
            pairs.setdefault((first, second), set()).add(fold.index)
    return {pair: tuple(sorted(indices)) for pair, indices in sorted(pairs.items())}


def _perceptual_hash(section: Section) -> np.ndarray:
    """(256,) bool: coarse structure of an image, independent of its size and compression."""
    import imagehash

    assert section.image is not None
    key = hashlib.sha256(str(section.image_hash).encode()).hexdigest()
    bits = _FINGERPRINTS.get(key)
    if bits is None:
        image, _ = thumbnail(
            section.image, section.max_image_pixels, _THUMBNAIL, section.image_hash
        )
        bits = imagehash.phash(image, hash_size=_HASH_SIDE).hash.ravel()
        _FINGERPRINTS.put(key, {"phash": "".join("01"[int(bit)] for bit in bits)})
    return bits


def _decode_bits(content: Any) -> np.ndarray:
    return np.array([int(bit) for bit in content["phash"]], dtype=bool).reshape(_HASH_SIDE**2)


_FINGERPRINTS = JsonCache("fingerprints", _decode_bits)
"""Perceptual hashes by the hash of the image file."""


def _close_spots(first: np.ndarray, second: np.ndarray, edge: float) -> int:
    """Number of the second spots nearer than `edge` pixels to one of the first."""
    from scipy.spatial import cKDTree

    return int((cKDTree(first).query(second)[0] < edge).sum())


def _counts(folds: Folds, sections: Mapping[str, Section], protocol: Protocol) -> list[Finding]:
    signatures = {name: _signatures(section) for name, section in sections.items()}
    findings = []
    for (first, second), indices in _pairs_across(folds).items():
        shared = len(signatures[first] & signatures[second])
        if shared:
            findings.append(
                Finding(
                    "counts",
                    f"{shared} spots of sections {first} and {second} have the same counts on both"
                    " sides of the test split",
                    indices,
                    protocol.split == "patient",
                )
            )
    return findings


def _alignments(folds: Folds, sections: Mapping[str, Section]) -> list[Finding]:
    """Findings on misaligned images: no leaks, but they invalidate the scores as well."""
    every = tuple(fold.index for fold in folds.folds)
    findings = []
    for names in _whole_sections(sections):
        # A block alone may lie better on tissue elsewhere in the image by chance.
        spatial = np.vstack([sections[name].spatial for name in names])
        alignment = section_alignment(sections[names[0]], spatial)
        if alignment is not None and alignment.warning:
            message = f"section {join_names(names)}: {alignment.warning}"
            findings.append(Finding("alignment", message, every, forbidden=False))
    return findings


def _whole_sections(sections: Mapping[str, Section]) -> list[list[str]]:
    """Names of sections, the blocks of one together."""
    names: dict[str, list[str]] = {}
    for name, section in sections.items():
        names.setdefault(section.block_of or f"section {name}", []).append(name)
    return list(names.values())


def _signatures(section: Section) -> set[tuple[int, int]]:
    """One pair of numbers per spot, equal for equal counts regardless of the order of genes."""
    counts = section.adata.X.tocsr().astype(np.uint64)
    digests = [hashlib.sha256(str(gene).encode()).digest() for gene in section.adata.var_names]
    weights = np.array([np.frombuffer(digest[:16], dtype="<u8") for digest in digests])
    enough = np.asarray(counts.sum(axis=1)).ravel() >= FEWEST_COUNTS
    # Overflow of the sums is harmless: they are hashes.
    values = [np.asarray(counts @ weights[:, side]).ravel()[enough] for side in (0, 1)]
    return set(zip(*(value.tolist() for value in values), strict=True))
