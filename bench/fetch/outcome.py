"""Result of a download, and the work that archives leave to it."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from bench.data.card import FileCard
from bench.fetch.download import Source


@dataclass(frozen=True)
class ByHand:
    """A file to download manually: instruction, target path, whether it is needed."""

    path: str
    how: str
    put: str
    needed: bool


@dataclass
class Outcome:
    """Result of a download.

    Attributes
    ----------
    fetched, kept
        Paths of downloaded files, and of files that existed already.
    failed
        Fault by path or address.
    by_hand
        Files to download manually.
    """

    fetched: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    by_hand: list[ByHand] = field(default_factory=list)

    @property
    def complete(self) -> bool:
        """Whether all needed files exist and none has failed."""
        return not self.failed and not any(file.needed for file in self.by_hand)


@dataclass(frozen=True)
class PackedFiles:
    """An archive, the members to extract, its path, and its source where it is missing."""

    archive: FileCard
    members: list[FileCard]
    place: Path
    source: Source | None
