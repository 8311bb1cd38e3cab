"""Reader of the legacy Spatial Transcriptomics layout.

Counts are a tab-separated table, one spot a row named ``XxY``, one gene a column, plain or
gzip-compressed. The spot file has columns ``x``, ``y``, ``pixel_x``, ``pixel_y``; its array
coordinates may be fractional and are rounded. Pathologist labels, where there are any, have
columns ``x``, ``y``, ``label``. Spots are joined on rounded (x, y); a spot that only one of the
two files knows is left out, and so is one whose ``selected`` is 0 where the spot file has that
column. ``uns["left_out"]`` counts both by reason.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata import AnnData

from bench.readers import (
    IMAGE_ENDINGS,
    LEFT_OUT,
    DataError,
    FoundSection,
    files_under,
    not_read,
    read_bytes,
    read_counts,
    read_table,
)

ROLES = ("counts", "spots")
"""Files without which a section cannot be read."""

_NAME = r"[0-9]{1,9}(?:\.[0-9]{1,9})?x[0-9]{1,9}(?:\.[0-9]{1,9})?"
_SPOTS = re.compile(rf"{_NAME}(?:\n{_NAME})*")
_MAX_POSITION = 10**9


def read(files: Mapping[str, Path]) -> AnnData:
    """Read one section.

    Parameters
    ----------
    files
        Paths by role: ``counts`` and ``spots``, optionally ``labels``.

    Returns
    -------
    AnnData
        Raw counts (spots x genes, CSR int32) in the order of the counts file.

    Raises
    ------
    DataError
        A file is missing, truncated, or not in this layout.
    """
    counts, spots, genes = _read_counts(files["counts"])
    positions = _read_positions(files["spots"])
    keys = pd.MultiIndex.from_arrays(list(spots.T), names=["x", "y"])
    if not keys.is_unique:
        x, y = keys[keys.duplicated()][0]
        raise DataError(f"{files['counts']}: spot '{x}x{y}' occurs more than once")
    both = keys.isin(positions.index)
    if not both.any():
        raise DataError(f"{files['spots']}: no spot in common with {files['counts']}")
    selected = np.zeros(len(keys), dtype=bool)
    selected[both] = positions.loc[keys[both], "selected"] != 0
    if not selected.any():
        raise DataError(f"{files['spots']}: no spot of {files['counts']} is selected")
    left_out = {
        "spots without a position": int((~both).sum()),
        "spots not selected": int((both & ~selected).sum()),
    }
    keys, counts = keys[selected], counts[np.flatnonzero(selected)]
    positions = positions.loc[keys]

    columns, rows = spots[selected].T
    obs = pd.DataFrame(
        {
            "array_row": rows,
            "array_col": columns,
            "in_tissue": np.ones(len(keys), dtype=np.int64),
            "label": _read_labels(files["labels"], keys) if "labels" in files else "",
        },
        index=[f"{x}x{y}" for x, y in spots[selected].tolist()],
    )
    return AnnData(
        X=counts,
        obs=obs,
        var=pd.DataFrame(index=pd.Index(genes)),
        obsm={"spatial": positions[["pixel_x", "pixel_y"]].to_numpy(dtype=np.float64)},
        uns={LEFT_OUT: {reason: number for reason, number in left_out.items() if number}},
    )


def _read_counts(path: Path) -> tuple[sp.csr_matrix, np.ndarray, list[str]]:
    """Counts, (spots, 2) int64 array positions (x, y), genes."""
    counts, names, genes = read_counts(path)
    # All names at once: one by one they take as long as the counts.
    together = "\n".join(names)
    if names and not _SPOTS.fullmatch(together):
        wrong = next(name for name in names if not _SPOTS.fullmatch(name) or "\n" in name)
        raise DataError(f"{path}: '{wrong[:40]}' is not a spot name like '10x16'")
    numbers = together.replace("x", "\n").split("\n") if names else []
    # Adjusted coordinates, such as 13.075x7.032, round to those of the array.
    spots = np.rint(np.array(numbers, dtype=np.float64)).astype(np.int64)
    return counts, spots.reshape(-1, 2), genes


def _by_array_position(table: pd.DataFrame, path: Path) -> pd.DataFrame:
    if (table[["x", "y"]].abs() > _MAX_POSITION).any(axis=None):
        raise DataError(f"{path}: an array coordinate is beyond {_MAX_POSITION}")
    index = pd.MultiIndex.from_arrays(
        [np.rint(table["x"]).astype(np.int64), np.rint(table["y"]).astype(np.int64)],
        names=["x", "y"],
    )
    if not index.is_unique:
        x, y = index[index.duplicated()][0]
        raise DataError(f"{path}: two spots round to array position {x}x{y}")
    return table.set_index(index)


def _read_positions(path: Path) -> pd.DataFrame:
    columns = ["x", "y", "pixel_x", "pixel_y"]
    first = read_bytes(path).partition(b"\n")[0].decode("utf-8", "replace")
    selects = "selected" in [name.strip() for name in first.split("\t")]
    table = read_table(path, [*columns, *(["selected"] if selects else [])], flags=["selected"])
    if not selects:
        table["selected"] = 1
    if not np.isfinite(table.to_numpy(dtype=np.float64)).all():
        raise DataError(f"{path}: a coordinate is missing or not finite")
    return _by_array_position(table, path)


def _read_labels(path: Path, keys: pd.MultiIndex) -> np.ndarray:
    table = read_table(path, ["x", "y", "label"], text=["label"])
    # Some published label files hold rows without coordinates: nothing to join them on.
    table = table.dropna(subset=["x", "y"])
    labels = _by_array_position(table, path)["label"]
    return labels.reindex(keys).fillna("").astype(str).to_numpy()


def discover(folder: Path) -> list[FoundSection]:
    """Sections in a folder: counts ``NAME.tsv`` or ``NAME_stdata.tsv``, plain or gzip-compressed.

    The spot file has ``selection`` and the section's name in its own; the image has the name in
    its own or in its folder's, and labels are ``NAME_labeled_coordinates.tsv``.
    """
    files = files_under(folder)
    tables = [path for path in files if _is_table(path)]
    spots = [path for path in tables if "selection" in path.name]
    labels = [path for path in tables if "labeled_coordinates" in path.name]
    sections = []
    for counts in tables:
        if counts in spots or counts in labels:
            continue
        name = _stem(counts).removesuffix("_stdata")
        # A repository may put its own number before the name.
        names = [name, name.partition("_")[2]] if re.match(r"GSM[0-9]+_", name) else [name]
        own = [path for path in spots if _belongs(path, names)]
        if len(own) != 1:
            if spots or "stdata" in counts.name:
                said = "no spot file" if not own else f"{len(own)} spot files"
                sections.append(
                    not_read(
                        names[-1],
                        f"{said} with 'selection' and the section's name in its own belongs to"
                        f" {counts}",
                    )
                )
            continue
        parts = {"counts": counts, "spots": own[0]}
        labelled = [path for path in labels if _belongs(path, names)]
        if len(labelled) == 1:
            parts["labels"] = labelled[0]
        images = [
            path
            for path in files
            if path.suffix.lower() in IMAGE_ENDINGS
            and (_belongs(path, names) or path.parent.name in names)
        ]
        assumed = []
        if len(images) == 1:
            parts["image"] = images[0]
        else:
            assumed.append(
                f"{len(images)} images have the section's name; none is used"
                if images
                else "no image was found; only methods that need none can run"
            )
        sections.append(FoundSection(names[-1], parts, 200.0, 100.0, assumed=tuple(assumed)))
    return sections


def _is_table(path: Path) -> bool:
    return path.name.endswith((".tsv", ".tsv.gz"))


def _stem(path: Path) -> str:
    return path.name.partition(".")[0]


def _belongs(path: Path, names: list[str]) -> bool:
    """Whether a file's name holds one of the names as a word."""
    return any(
        re.search(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", _stem(path))
        for name in names
    )
