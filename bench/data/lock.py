"""The lock file of a data folder: hashes of files whose card names none.

The first download of such a file records its hash; later downloads and every use of the file must
match it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from bench.data.card import DatasetCard, FileCard, InsidePath
from bench.errors import DataError
from bench.faults import first_fault

LOCK = "spotbench-lock.json"
"""Name of the lock file in a data folder."""

_MAX_BYTES = 64 << 20


class Entry(BaseModel):
    """Hash of a file when it was first fetched, or locked by ``bench data verify --lock``.

    Attributes
    ----------
    sha256, size
        Hash and bytes of the file in the data folder.
    url
        Address it was fetched from; None where the user put it there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    size: Annotated[int, Field(ge=0)]
    url: str | None = None


_ENTRIES = TypeAdapter(dict[InsidePath, Entry])


class LockedFile(FileCard):
    """A file whose hash comes from the lock file, not from the card."""

    def _differs(self, actual: str, stated: str) -> str:
        remedy = f"if the change is meant, delete the entry {self.path} of {LOCK}"
        return f"{actual}, {LOCK} says {stated}; {remedy}"


def read_lock(root: Path) -> dict[str, Entry]:
    """Entries of a data folder's lock file by path; none where there is no such file.

    Raises
    ------
    DataError
        The file cannot be read, or is no lock file.
    """
    path = root / LOCK
    mend = "restore it, or delete it to trust the files that are there"
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{path}: larger than any lock file; {mend}")
        return _ENTRIES.validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    except ValidationError as error:
        raise DataError(f"{path}: not a lock file ({first_fault(error)}); {mend}") from error


def locked(card: DatasetCard, root: Path) -> DatasetCard:
    """The card with the hashes of the lock file in those files that name none.

    Archives are not locked: a server may pack them again with other bytes, while their members,
    which are locked, stay the same.

    Raises
    ------
    DataError
        The lock file is damaged.
    """
    entries = read_lock(root)
    if not entries:
        return card

    def lock(file: FileCard) -> FileCard:
        entry = entries.get(file.path)
        if entry is None or file.hash is not None:
            return file
        size = entry.size if file.size is None else file.size
        known = {"hash": f"sha256:{entry.sha256}", "size": size}
        return LockedFile.model_validate({**file.model_dump(), **known})

    sections = tuple(
        section.model_copy(update={"files": {r: lock(f) for r, f in section.files.items()}})
        for section in card.sections
    )
    panels = {
        name: panel.model_copy(update={"file": lock(panel.file)}) if panel.file else panel
        for name, panel in card.panels.items()
    }
    index = lock(card.index) if card.index else None
    return card.model_copy(update={"sections": sections, "panels": panels, "index": index})
