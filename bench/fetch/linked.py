"""A data folder that is a link to a folder which has the dataset's files already."""

from __future__ import annotations

from pathlib import Path

from bench.data.card import DatasetCard
from bench.errors import DataError
from bench.fetch.outcome import Outcome
from bench.fetch.verify import wanted_files


def link_folder(card: DatasetCard, source: Path, root: Path) -> Outcome:
    """Make the data folder of a dataset a link to a folder of its files; none is copied.

    Parameters
    ----------
    card
        The dataset.
    source
        Folder of its files, or, of a dataset on Hugging Face, a copy of the repository.
    root
        Data folder, which must not hold files yet.

    Raises
    ------
    DataError
        The folder is missing or incomplete, or the data folder holds files.
    """
    if not source.is_dir():
        raise DataError(f"{source}: no such folder")
    if card.hub is not None and (source / card.hub.folder).is_dir():
        source = source / card.hub.folder
    files = [path for path, wanted in wanted_files(card).items() if wanted.needed]
    missing = [path for path in files if not (source / path).is_file()]
    if missing:
        raise DataError(
            f"{source}: {len(missing)} of {len(files)} files of {card.name} are missing, first"
            f" {missing[0]}"
        )
    if root.is_symlink() and root.resolve() == source.resolve():
        return Outcome(kept=files)
    if root.exists() or root.is_symlink():
        raise DataError(f"{root}: is there already; remove it, or name another --data-root")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        root.symlink_to(source.resolve(), target_is_directory=True)
    except OSError as error:
        raise DataError(f"{root}: cannot be made ({error.strerror or error})") from error
    return Outcome(kept=files)
