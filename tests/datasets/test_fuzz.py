"""Three thousand damaged files: each is refused in one line, or read as what it says.

A reader may give a section from a damaged file only where the damage changed no more values than
it could have. The counts of the section tell spot and gene (see ``layouts``), so that a spot with
the counts or the place of another shows even where every value is plausible.
"""

from __future__ import annotations

import gzip
import io
import json
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from bench.data.section import check_section
from bench.datasets import h5ad, legacy_st, space_ranger, stnet
from bench.errors import DataError
from tests.datasets import fuzz_folders, layouts
from tests.datasets.layouts import SmallSection

Read = Callable[[Mapping[str, Path]], AnnData]


@dataclass(frozen=True)
class Verdict:
    """What a reader may make of a damaged file.

    Attributes
    ----------
    read, refuse
        Whether it may give a section, and whether it may refuse the file.
    changes
        Values of the file that may differ, names included.
    missing
        Spots that may be left out.
    genes
        Genes that may go by another name.
    """

    read: bool = True
    refuse: bool = True
    changes: int = 0
    missing: int = 0
    genes: int = 0


SAME = Verdict(refuse=False)
SAME_OR_REFUSED = Verdict()
REFUSED = Verdict(read=False)


@dataclass(frozen=True)
class Form:
    """How a file is made up, as far as damage to it goes.

    Attributes
    ----------
    kind
        ``text``, ``hdf5``, ``json`` or ``other``.
    separator
        Between the fields of a line.
    head
        Lines before the rows: 1 is a header that names the columns.
    needed
        Columns of a header that a reader cannot do without; None stands for all.
    bad
        Cells that no column of numbers may hold; the columns that hold such, by number.
    any_order
        Whether rows may stand in any order.
    repeats
        Whether a row may come twice.
    names_genes
        Whether a row that is lost costs a gene its name, and no spot.
    spread
        Values that a single byte may change.
    meaning
        Whether damage may change which spots and genes there are.
    """

    kind: str = "text"
    separator: bytes = b"\t"
    head: int = 0
    needed: tuple[bytes, ...] | None = ()
    bad: tuple[bytes, ...] = ()
    numbers: tuple[int, ...] = ()
    any_order: bool = True
    repeats: bool = False
    names_genes: bool = False
    spread: int = 1
    meaning: bool = False


NO_NUMBERS = (
    b"",
    b"nan",
    b"NaN",
    b"NA",
    b"inf",
    b"-inf",
    b"1e400",
    b"left",
    b"1,5",
    b"\xff",
    b"1 2",
)
NO_COUNTS = (*NO_NUMBERS, b"-1", b"0.5", b"3000000000", b"9" * 30, b"1e99", b"-1e-9", b"--")
ODD_CELLS = (
    *(b"-0", b"0x1F", b"1e3", b"007", b"+5", b'"', b"'", b"#", b"1e300", b"9" * 30, b"true"),
    *(b"1_000", b" 5", b"5 ", b"\x005", b"12:30", b"2020-01-01", b"1.0", b"\xc2\xa05"),
)
PLACES = (b"x", b"y", b"pixel_x", b"pixel_y")
POSITIONS = tuple(
    b"barcode in_tissue array_row array_col pxl_row_in_fullres pxl_col_in_fullres".split()
)
HDF5 = Form("hdf5")
# Pieces are compressed without a check sum, and metadata say what their bytes mean.
STORE = 4 * layouts.SPOTS * layouts.GENES
FORMS = {
    "legacy_st/counts": Form(head=1, bad=NO_COUNTS, numbers=tuple(range(1, 9)), needed=None),
    "legacy_st/spots": Form(head=1, bad=NO_NUMBERS, numbers=(0, 1, 2, 3), needed=PLACES),
    "legacy_st/labels": Form(
        head=1, bad=NO_NUMBERS[4:], numbers=(0, 1), needed=(b"x", b"y", b"label")
    ),
    "space_ranger/positions-1": Form(separator=b",", bad=NO_NUMBERS, numbers=(1, 2, 3, 4, 5)),
    "space_ranger/positions-2": Form(
        separator=b",", head=1, bad=NO_NUMBERS, numbers=(1, 2, 3, 4, 5), needed=POSITIONS
    ),
    "space_ranger/labels": Form(separator=b",", head=1, needed=(b"", b"Classification")),
    "space_ranger/mtx": Form(separator=b" ", head=3, bad=NO_COUNTS, numbers=(0, 1, 2)),
    "space_ranger/barcodes": Form(any_order=False),
    "space_ranger/features": Form(any_order=False),
    "space_ranger/scalefactors": Form("other"),
    "space_ranger/parquet": Form("other", spread=layouts.SPOTS),
    "stnet/counts": Form(head=1, bad=NO_COUNTS, numbers=tuple(range(1, 9)), needed=None),
    "stnet/spots": Form(
        separator=b",", head=1, bad=NO_NUMBERS, numbers=(1, 2), needed=(b"", b"X", b"Y")
    ),
    "stnet/labels": Form(head=1, bad=NO_NUMBERS, numbers=(1, 2), repeats=True),
    "stnet/symbols": Form(
        head=1,
        needed=(b"symbol", b"ensembl_gene_id"),
        repeats=True,
        names_genes=True,
        spread=layouts.SPOTS,
    ),
    "space_ranger/h5": HDF5,
    "space_ranger/h5-v2": HDF5,
    "h5ad/csr": HDF5,
    "h5ad/csc": HDF5,
    "h5ad/dense": HDF5,
    "h5ad/csr-gzip": HDF5,
    "h5ad/dense-gzip": HDF5,
    "hest/counts": HDF5,
    "hest/metadata": Form("json"),
    "visium_hd/counts": HDF5,
    "visium_hd/positions": Form("other", spread=layouts.SPOTS),
    "visium_hd/scalefactors": Form("json"),
    "spatialdata/metadata": Form("json", spread=STORE, meaning=True),
    "spatialdata/pieces": Form("other", spread=STORE, meaning=True),
    "spatialdata/shapes": Form("other", spread=layouts.SPOTS, meaning=True),
    "spatialdata/image": Form("other"),
}
"""Each kind of file, after the reader that reads it."""


def write_section(case: str, folder: Path) -> tuple[dict[str, Path], str, SmallSection]:
    """Write the section that holds a kind of file: paths, role of that file, what is to be read."""
    reader, _, what = case.partition("/")
    if reader == "legacy_st":
        return layouts.write_legacy(folder), what, layouts.legacy_section()
    if reader == "stnet":
        section = layouts.legacy_section()
        genes = tuple("NAN1" if gene == "nan" else gene for gene in section.genes)
        return layouts.write_stnet(folder), what, replace(section, genes=genes)
    if reader == "hest":
        return fuzz_folders.write_hest(folder), what, SmallSection()
    if reader == "visium_hd":
        return fuzz_folders.write_visium_hd(folder), what, SmallSection()
    if reader == "spatialdata":
        return fuzz_folders.write_store(folder, what), what, SmallSection()
    if reader == "h5ad":
        form, _, compression = what.partition("-")
        return layouts.write_h5ad(folder, form, compression or None), "counts", SmallSection()
    counts = what if what.startswith("h5") else "h5"
    if what in ("mtx", "barcodes", "features"):
        counts = "mtx"
    version = {"positions-2": 2, "mtx": 2, "parquet": 3}.get(what, 1)
    files = layouts.write_space_ranger(folder, counts, version)
    roles = {"mtx": "counts", "h5": "counts", "h5-v2": "counts", "parquet": "positions"}
    return files, roles.get(what, what.partition("-")[0]), SmallSection()


READERS: dict[str, Read] = {
    "legacy_st": legacy_st.read,
    "space_ranger": space_ranger.read,
    "stnet": stnet.read,
    "h5ad": h5ad.read,
    **fuzz_folders.READERS,
}


class Fault(AssertionError):
    """A reader that did what none may do."""


def judge(read: Read, files: Mapping[str, Path], truth: SmallSection, verdict: Verdict) -> bool:
    """Whether the files are read; a Fault where that or the refusal is wrong."""
    try:
        adata = read(files)
        check_section(adata, str(files["counts"]))
    except DataError as error:
        message = str(error)
        if not verdict.refuse:
            raise Fault(f"refused: {message}") from None
        if "\n" in message or not any(str(path) in message for path in files.values()):
            raise Fault(f"a message that is no line about the file: {message!r}") from None
        if len(message.replace(str(files["counts"].parent), "")) >= 400:
            raise Fault(f"a long message: {message}") from None
        return False
    except Exception as error:
        raise Fault(f"{type(error).__name__}: {error}") from error
    if not verdict.read:
        raise Fault("read, although it must be refused")
    compare(adata, truth, verdict)
    return True


def compare(adata: AnnData, truth: SmallSection, verdict: Verdict) -> None:
    """Compare a section with the true one by the names of its spots and genes."""
    spots = {name: number for number, name in enumerate(truth.names)}
    genes = {name: number for number, name in enumerate(truth.genes)}
    renamed = sum(name not in genes for name in adata.var_names)
    renamed = max(0, renamed - verdict.genes) + sum(name not in spots for name in adata.obs_names)
    rows = [row for row, name in enumerate(adata.obs_names) if name in spots]
    columns = [column for column, name in enumerate(adata.var_names) if name in genes]
    spot = np.array([spots[adata.obs_names[row]] for row in rows], dtype=int)
    gene = np.array([genes[adata.var_names[column]] for column in columns], dtype=int)
    if len(spot) < len(truth.names) - verdict.missing - verdict.changes:
        raise Fault(f"{len(truth.names) - len(spot)} spots are missing")
    if len(gene) < len(truth.genes) - verdict.genes - verdict.changes:
        raise Fault(f"{len(truth.genes) - len(gene)} genes are missing")
    if adata.X.dtype != np.int32 or adata.obsm["spatial"].dtype != np.float64:
        raise Fault("of another type")

    counts = adata.X.toarray()[np.ix_(rows, columns)]
    # An index that is wrong empties one cell and fills another.
    cells = int((counts != truth.counts[np.ix_(spot, gene)]).sum())
    if cells > 2 * verdict.changes:
        raise Fault(f"{cells} counts differ")
    place = np.column_stack([adata.obs[["array_row", "array_col"]], adata.obsm["spatial"]])[rows]
    true_place = np.column_stack([truth.row, truth.col, truth.pixels])
    moved = int((place != true_place[spot]).sum())
    labels = adata.obs["label"].to_numpy()[rows]
    true_labels = np.array(truth.labels)[spot]
    lost = int(((labels != true_labels) & (labels == "")).sum())
    # A file that holds each label once changes it for all spots that have it.
    pairs = set(zip(true_labels, labels, strict=True))
    other = sum(label not in ("", true) for true, label in pairs)
    if lost > verdict.missing + verdict.changes or other > verdict.changes:
        raise Fault(f"{lost} labels are lost, {other} differ")
    if moved + renamed + -(-cells // 2) > verdict.changes:
        raise Fault(f"{moved} coordinates, {renamed} names, {cells} counts differ")
    # Few changes can make no spot another one, however they fall.
    strange = [n for n in range(len(rows)) if (place[n] == true_place).all(axis=1).any()
               and not (place[n] == true_place[spot[n]]).all()]  # fmt: skip
    if strange:
        raise Fault(f"spot {adata.obs_names[rows[strange[0]]]} stands where another one does")


# Damage to text

Damage = Callable[[np.random.Generator, bytes, Form], tuple[bytes, Verdict] | None]


def split(content: bytes, form: Form) -> tuple[list[bytes], list[list[bytes]]]:
    lines = content.removesuffix(b"\n").split(b"\n")
    return lines[: form.head], [line.split(form.separator) for line in lines[form.head :]]


def joined(head: list[bytes], rows: list[list[bytes]], form: Form) -> bytes:
    return b"\n".join([*head, *map(form.separator.join, rows)]) + b"\n"


def table(content: bytes, form: Form) -> list[list[bytes]] | None:
    """All cells, the header's among them, where there is one and no cell holds a separator."""
    lines = [line.split(form.separator) for line in content.removesuffix(b"\n").split(b"\n")]
    return lines if form.head == 1 and len({len(line) for line in lines}) == 1 else None


def flipped(rng, content, form):
    data = bytearray(content)
    number = int(rng.integers(1, 4))
    for place in rng.choice(len(data), number, replace=False):
        data[place] ^= 1 << int(rng.integers(8))
    return bytes(data), Verdict(changes=number * form.spread)


def replaced_byte(rng, content, form):
    data = bytearray(content)
    data[rng.integers(len(data))] = rng.choice(list(b"0123456789.,-+eE \t\n\r\"'#xNa\x00\xff"))
    return bytes(data), Verdict(changes=form.spread)


def cut(rng, content, form):
    # The last field may be cut too.
    lost = {"genes": layouts.GENES} if form.names_genes else {"missing": layouts.SPOTS}
    return content[: rng.integers(len(content))], Verdict(changes=1, **lost)


def other_rows(rng, content, form):
    if not form.any_order:
        return None
    head, rows = split(content, form)
    rng.shuffle(rows)
    return joined(head, rows, form), SAME


def row_lost(rng, content, form):
    head, rows = split(content, form)
    del rows[rng.integers(len(rows))]
    # Where rows are numbered, or counted, one cannot be missing.
    counted = form.head == 3 or not form.any_order
    lost = {"genes": 1} if form.names_genes else {"missing": 1}
    return joined(head, rows, form), REFUSED if counted else Verdict(refuse=False, **lost)


def row_twice(rng, content, form):
    head, rows = split(content, form)
    rows.insert(rng.integers(len(rows)), list(rows[rng.integers(len(rows))]))
    return joined(head, rows, form), SAME if form.repeats else REFUSED


def field_more(rng, content, form):
    head, rows = split(content, form)
    row = rows[rng.integers(len(rows))]
    row.insert(rng.integers(len(row) + 1), b"7")
    # A quoted field may hold separators: the piece is of that field then.
    quoted = any(b'"' in cell for cell in row)
    return joined(head, rows, form), Verdict(changes=1) if quoted else REFUSED


def field_less(rng, content, form):
    head, rows = split(content, form)
    row = rows[rng.integers(len(rows))]
    del row[rng.integers(len(row))]
    # A quoted field may hold separators: the piece is of that field then.
    quoted = any(b'"' in cell for cell in row)
    return joined(head, rows, form), Verdict(changes=1) if quoted else REFUSED


def bad_cell(rng, content, form):
    if not form.numbers:
        return None
    head, rows = split(content, form)
    cell = form.bad[rng.integers(len(form.bad))]
    rows[rng.integers(len(rows))][form.numbers[rng.integers(len(form.numbers))]] = cell
    return joined(head, rows, form), REFUSED


def odd_cell(rng, content, form):
    head, rows = split(content, form)
    row = rows[rng.integers(len(rows))]
    row[rng.integers(len(row))] = ODD_CELLS[rng.integers(len(ODD_CELLS))]
    return joined(head, rows, form), Verdict(changes=1)


def other_columns(rng, content, form):
    rows = table(content, form)
    if rows is None:
        return None
    # The first column of a table without a name for it is no column like others.
    first = int(rows[0][0] == b"")
    order = [*range(first), *(first + rng.permutation(len(rows[0]) - first))]
    return joined([], [[row[column] for column in order] for row in rows], form), SAME


def swapped_columns(rng, content, form):
    if form.head == 1 or form.separator == b"\t":
        return None
    head, rows = split(content, form)
    # Of columns without a name, only these tell that they are not what they should be.
    a, b = [(0, 2), (0, 5), (1, 4), (1, 5), (1, 2)][rng.integers(5)]
    if form.head == 3:
        a, b = [(0, 1), (0, 2), (1, 2)][rng.integers(3)]
    for row in rows:
        row[a], row[b] = row[b], row[a]
    return joined(head, rows, form), REFUSED


def column_renamed(rng, content, form):
    rows = table(content, form)
    if rows is None:
        return None
    # The name of the column of names does not matter where it has none.
    column = int(rng.integers(int(rows[0][0] == b""), len(rows[0])))
    if form.needed is None:
        return None
    verdict = REFUSED if rows[0][column] in form.needed else SAME
    rows[0][column] += b"_"
    return joined([], rows, form), verdict


def column_lost(rng, content, form):
    rows = table(content, form)
    if rows is None:
        return None
    column = int(rng.integers(len(rows[0])))
    if form.needed is None:
        # A gene that a file does not hold cannot be missed; the column of spots can.
        verdict = Verdict(changes=1) if column else REFUSED
    else:
        verdict = REFUSED if rows[0][column] in form.needed else SAME
    return joined([], [row[:column] + row[column + 1 :] for row in rows], form), verdict


def column_twice(rng, content, form):
    rows = table(content, form)
    if rows is None or (form.needed is None and rng.integers(2)):
        return None
    column = int(rng.integers(int(rows[0][0] == b""), len(rows[0])))
    name = rows[0][column]
    values = [row[column] for row in rows[1:]]
    rng.shuffle(values)
    at = int(rng.integers(len(rows[0]) + 1)) or 1
    copy = [[*row[:at], cell, *row[at:]] for row, cell in zip(rows, [name, *values], strict=True)]
    if form.needed is None or name in form.needed:
        return joined([], copy, form), REFUSED
    # Which of two is meant, no reader can know; it may do without one that is like the other.
    return joined([], copy, form), SAME_OR_REFUSED if name == b"selected" else SAME


def other_separator(rng, content, form):
    other = {b"\t": b",", b",": b"\t", b" ": b"\t"}[form.separator]
    if form.separator not in content:
        return None
    if rng.integers(2):
        return content.replace(form.separator, other), REFUSED
    places = [p for p in range(len(content)) if content[p : p + 1] == form.separator]
    place = places[rng.integers(len(places))]
    return content[:place] + other + content[place + 1 :], Verdict(changes=1)


def line_ends(rng, content, form):
    if rng.integers(2):
        return content.replace(b"\n", b"\r\n"), SAME
    return content.replace(b"\n", b"\r"), SAME_OR_REFUSED


def byte_order_mark(rng, content, form):
    return b"\xef\xbb\xbf" + content, SAME_OR_REFUSED


def other_encoding(rng, content, form):
    return content.decode().encode(["utf-16", "utf-16-be", "utf-32"][rng.integers(3)]), REFUSED


def no_text(rng, content, form):
    place = int(rng.integers(len(content)))
    return content[:place] + b"\xff\xfe" + content[place:], Verdict(changes=1)


def more(rng, content, form):
    # Not bytes that could be another row.
    return content + b"\xff" + rng.bytes(rng.integers(1, 40)), SAME_OR_REFUSED


def empty(rng, content, form):
    return [b"", b"\n", b"\n\n", b" ", b"\x00" * 40][rng.integers(5)], REFUSED


def no_rows(rng, content, form):
    labels = (b"Classification", b"x\ty\tlabel", b"xcoord")
    if not form.head or any(word in content for word in labels):
        return None
    return joined(split(content, form)[0], [], form), REFUSED


# Damage to bytes


def zipped(rng, content, form):
    return gzip.compress(content, mtime=0), SAME


def zipped_and_cut(rng, content, form):
    whole = gzip.compress(content, mtime=0)
    return whole[: rng.integers(2, len(whole))], REFUSED


def zipped_and_flipped(rng, content, form):
    damaged, _ = flipped(rng, gzip.compress(content, mtime=0), form)
    return damaged, SAME_OR_REFUSED


def zipped_and_more(rng, content, form):
    return gzip.compress(content, mtime=0) + rng.bytes(rng.integers(1, 40)), SAME_OR_REFUSED


def zip_of_nothing(rng, content, form):
    return b"\x1f\x8b" + rng.bytes(rng.integers(60)), REFUSED


def noise(rng, content, form):
    return rng.bytes(rng.integers(1, 400)), REFUSED


def data_set_changed(rng, content, form):
    """A data set that is gone, renamed, of another length, shape or type."""
    memory = io.BytesIO(content)
    with h5py.File(memory, "r+") as file:
        names: list[str] = []
        file.visititems(
            lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None
        )
        name = names[rng.integers(len(names))]
        values = file[name][()]
        kind = int(rng.integers(7))
        verdict = SAME_OR_REFUSED
        if np.ndim(values) == 0 and kind > 1:
            kind = 0
        if kind == 1:
            file.move(name, f"{name}_")
            return _bytes(file, memory), SAME_OR_REFUSED
        del file[name]
        if kind == 2:
            file[name] = values[: int(rng.integers(len(values)))]
        elif kind == 3:
            file[name] = np.concatenate([values, values[:1]])
        elif kind == 4:
            file[name] = np.stack([values, values])
        elif kind == 5:
            file[name] = np.full(values.shape, np.nan)
        else:
            file[name] = np.full(values.shape, 5 if values.dtype.kind in "SO" else b"word")
        if "label" in name:
            # What a label is, no reader can know.
            verdict = Verdict(changes=len(layouts.LABELS), missing=layouts.SPOTS)
        return _bytes(file, memory), verdict


ODD_VALUES = (
    *(None, True, -1, 0, 1, 0.5, 1e300, float("nan"), float("inf"), 1 << 70, -(1 << 70), "", "nan"),
    *("../../..", "x" * 5000, "\x00", "\ud800", [], {}, [[]], [1], {"a": 1}, [None], ["um", 5]),
)


def value_changed(rng, content, form):
    """A value of a JSON document that is another, or is gone, whatever it is and how deep."""
    document = json.loads(content)
    places = []
    waiting = [document]
    while waiting:
        held = waiting.pop()
        keys = list(held) if isinstance(held, dict) else range(len(held))
        places += [(held, key) for key in keys]
        waiting += [held[key] for key in keys if isinstance(held[key], dict | list)]
    held, key = places[rng.integers(len(places))]
    if rng.integers(4):
        held[key] = ODD_VALUES[rng.integers(len(ODD_VALUES))]
    else:
        del held[key]
    return json.dumps(document).encode(), Verdict(changes=form.spread if form.meaning else 0)


def _bytes(file: h5py.File, memory: io.BytesIO) -> bytes:
    file.flush()
    file.close()
    return memory.getvalue()


TEXT = (
    *(flipped, replaced_byte, cut, other_rows, row_lost, row_twice, field_more, field_less),
    *(bad_cell, odd_cell, other_columns, swapped_columns, column_renamed, column_lost),
    *(column_twice, other_separator, line_ends, byte_order_mark, other_encoding, no_text, more),
    *(empty, no_rows, zipped, zipped_and_cut, zipped_and_flipped, zipped_and_more),
    *(zip_of_nothing, noise),
)
BYTES = (flipped, cut, more, noise, zipped_and_cut, zip_of_nothing)
DAMAGES: dict[str, tuple[Damage, ...]] = {
    "text": TEXT,
    "hdf5": (*BYTES, flipped, flipped, data_set_changed, data_set_changed),
    "json": (value_changed, value_changed, flipped, *BYTES, value_changed, value_changed),
    "other": BYTES,
}
FILES_PER_CASE = 112


def damaged_files(case: str, content: bytes, number: int, seed: int = 0):
    """Files of one kind, each with its damage and the verdict on it; the same each time."""
    form = FORMS[case]
    rng = np.random.default_rng([seed, *case.encode()])
    kinds = DAMAGES[form.kind]
    done = 0
    while done < number:
        damage = kinds[done % len(kinds)] if rng.integers(3) else kinds[rng.integers(len(kinds))]
        made = damage(rng, content, form)
        if made is None or (made[0] == content and made[1] is REFUSED):
            kinds = tuple(kind for kind in kinds if kind is not damage) if made is None else kinds
            continue
        done += 1
        verdict = made[1]
        if form.meaning and verdict.read:
            lost = {"missing": layouts.SPOTS, "genes": layouts.GENES, "refuse": True}
            verdict = replace(verdict, **lost)
        yield damage.__name__, made[0], verdict


def fuzz(case: str, folder: Path, read: Read, number: int, seed: int = 0) -> tuple[int, int]:
    """Files that were read, and that were refused."""
    files, role, truth = write_section(case, folder)
    places = fuzz_folders.targets(case, files[role])
    assert judge(read, files, truth, SAME)
    outcomes = [0, 0]
    share = -(-number // len(places))
    for place in places:
        whole = place.read_bytes()
        # The list of all metadata of a store changes with those of a part.
        root = files["counts"] / "zarr.json"
        summary = root.read_bytes() if root.is_file() else b""
        for kind, content, verdict in damaged_files(case, whole, share, seed + len(whole)):
            fuzz_folders.write_damaged(place, content)
            try:
                outcomes[not judge(read, files, truth, verdict)] += 1
            except Fault as fault:
                shown = content if len(content) < 3000 else f"{len(content)} bytes"
                where = place.relative_to(folder)
                raise Fault(f"{case}, {where}, {kind}: {fault}; {shown!r}") from fault.__cause__
            finally:
                if summary:
                    root.write_bytes(summary)
        place.write_bytes(whole)
    return outcomes[0], outcomes[1]


@pytest.mark.parametrize(
    "files", [FILES_PER_CASE // 6, pytest.param(FILES_PER_CASE, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("case", FORMS)
def test_a_damaged_file_is_refused_in_a_line_or_read_as_it_says(tmp_path, case, files):
    if case.startswith("spatialdata/"):
        pytest.importorskip(
            "spatialdata",
            reason="spatialdata is not installed: pip install 'spotbench[spatialdata]'",
        )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read, refused = fuzz(case, tmp_path, READERS[case.partition("/")[0]], files)
    assert refused > 0
    if files == FILES_PER_CASE:
        assert refused > files // 4
        assert read > 0 or FORMS[case].kind == "other"


def test_three_thousand_files_are_damaged():
    everywhere = [case for case in FORMS if not case.startswith("spatialdata/")]
    assert FILES_PER_CASE * len(everywhere) >= 3000


# The judge itself


def in_order_of_the_file(files):
    """Places spots by the order of the positions file, not by their barcodes."""
    adata = space_ranger.read(files)
    lines = files["positions"].read_text().splitlines()
    places = np.array([line.split(",")[1:] for line in lines], dtype=float)
    places = places[places[:, 0] == 1]
    adata.obs["array_row"], adata.obs["array_col"] = places[:, 1:3].astype(np.int64).T
    adata.obsm["spatial"] = places[:, [4, 3]]
    return adata


def one_spot_late(files):
    adata = space_ranger.read(files)
    return remade(adata, adata.X[np.roll(np.arange(adata.n_obs), 1)])


def one_gene_late(files):
    adata = space_ranger.read(files)
    return remade(adata, adata.X[:, np.roll(np.arange(adata.n_vars), 1)])


def two_spots_exchanged(files):
    adata = space_ranger.read(files)
    order = np.arange(adata.n_obs)
    order[[2, 5]] = order[[5, 2]]
    return remade(adata, adata.X[order])


def two_places_exchanged(files):
    adata = space_ranger.read(files)
    pixels = adata.obsm["spatial"].copy()
    pixels[[2, 5]] = pixels[[5, 2]]
    adata.obsm["spatial"] = pixels
    return adata


def row_for_column(files):
    adata = space_ranger.read(files)
    adata.obsm["spatial"] = adata.obsm["spatial"][:, ::-1].copy()
    return adata


def one_label_for_all(files):
    adata = space_ranger.read(files)
    adata.obs["label"] = layouts.LABELS[0]
    return adata


def a_spot_lost(files):
    return space_ranger.read(files)[1:].copy()


def remade(adata, counts):
    adata.X = counts
    return adata


def with_a_traceback(files):
    raise ValueError("could not convert string to float")


def with_two_lines(files):
    raise DataError(f"{files['counts']}: wrong\nin two lines")


def without_a_name(files):
    raise DataError("the file is wrong")


def at_length(files):
    raise DataError(f"{files['counts']}: {'wrong ' * 80}")


@pytest.mark.parametrize(
    ("read", "verdict"),
    [
        *(
            (read, Verdict(changes=changes, missing=missing))
            for read in (
                in_order_of_the_file,
                one_spot_late,
                one_gene_late,
                two_spots_exchanged,
                two_places_exchanged,
                row_for_column,
            )
            for changes, missing in [(0, 0), (1, 0), (1, 99), (3, 0)]
        ),
        (one_label_for_all, Verdict(changes=1)),
        (a_spot_lost, SAME),
        (with_a_traceback, SAME_OR_REFUSED),
        (with_two_lines, SAME_OR_REFUSED),
        (without_a_name, SAME_OR_REFUSED),
        (at_length, SAME_OR_REFUSED),
        (space_ranger.read, REFUSED),
    ],
)
def test_a_wrong_reader_is_caught(tmp_path, read, verdict):
    files = layouts.write_space_ranger(tmp_path)
    assert judge(space_ranger.read, files, SmallSection(), SAME)
    with pytest.raises(Fault):
        judge(read, files, SmallSection(), verdict)


def test_a_refusal_of_what_must_be_read_is_caught(tmp_path):
    files = layouts.write_space_ranger(tmp_path)
    files["positions"].write_bytes(b"")
    with pytest.raises(Fault, match="refused: "):
        judge(space_ranger.read, files, SmallSection(), SAME)
    assert not judge(space_ranger.read, files, SmallSection(), REFUSED)


def lenient_positions(files):
    """Joins short rows, and rows that come twice, as pandas reads them."""
    adata = space_ranger.read({**files, "positions": layouts.write_positions(files["whole"])})
    names = ["barcode", "in_tissue", "array_row", "array_col", "y", "x"]
    table = pd.read_csv(files["positions"], header=None, names=names).drop_duplicates("barcode")
    table = table.set_index("barcode").reindex(adata.obs_names)
    adata.obsm["spatial"] = table[["x", "y"]].to_numpy(dtype=float)
    return adata


def test_the_damage_finds_a_lenient_reader(tmp_path):
    (tmp_path / "whole").mkdir()

    def read(files):
        try:
            return lenient_positions({**files, "whole": tmp_path / "whole"})
        except (ValueError, KeyError, OSError) as error:
            raise DataError(f"{files['positions']}: {str(error)[:80]!r}") from error

    with pytest.raises(Fault, match="space_ranger/positions-1, "):
        fuzz("space_ranger/positions-1", tmp_path, read, FILES_PER_CASE)
