"""A small dataset, plugin methods, and ways to call the command line.

Three patients with two sections each, 30 spots, 40 genes, 200 x 200 px: a run of a control takes
a fraction of a second.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

PATIENTS = ("A", "B", "C")
SECTIONS = tuple(f"{patient}{number}" for patient in PATIENTS for number in (1, 2))
GENES = tuple(f"GENE{number}" for number in range(40))
COLUMNS, ROWS = 6, 5
SIDE = 200

TINY_NETWORK = (
    *("--preset", "quick", "--set", "epochs=1", "--set", "encoder=lcnet_050"),
    *("--set", "input_size=32", "--device", "cpu"),
)
"""Settings under which mclstexp trains in a second."""


@dataclass(frozen=True)
class TinyDataset:
    """A dataset in a folder of its own, with a card that names no hash."""

    folder: Path

    @property
    def card(self) -> Path:
        """The card file."""
        return self.folder / "tiny.yaml"

    @property
    def root(self) -> Path:
        """The data folder."""
        return self.folder / "data"

    @property
    def where(self) -> tuple[str, ...]:
        """Options that choose it."""
        return ("--dataset", str(self.card), "--data-root", str(self.root))

    @property
    def options(self) -> tuple[str, ...]:
        """Options of ``bench run`` that choose it, without the row that nobody asked for."""
        return (*self.where, "--no-oracles")

    @property
    def quick_protocol(self) -> tuple[str, ...]:
        """Options for folds by patient on the card's panel, which spares choosing one."""
        path = self.folder / "patients.yaml"
        path.write_text("{name: patients, version: 1, title: t, split: patient, panel: published}")
        return ("--protocol", str(path))

    def counts(self, section: str) -> Path:
        """Counts file of a section."""
        return self.root / "counts" / f"{section}.tsv.gz"

    def spots(self, section: str) -> Path:
        """Spot file of a section."""
        return self.root / "spots" / f"{section}.tsv"

    def image(self, section: str) -> Path:
        """Image of a section."""
        return self.root / "images" / f"{section}.jpg"

    def read_counts(self, section: str) -> list[list[str]]:
        """Cells of a counts file, the header first."""
        text = gzip.decompress(self.counts(section).read_bytes()).decode()
        return [line.split("\t") for line in text.splitlines()]

    def write_counts(self, section: str, cells: Sequence[Sequence[str]]) -> None:
        """Replace a counts file."""
        text = "".join("\t".join(row) + "\n" for row in cells)
        self.counts(section).write_bytes(gzip.compress(text.encode(), mtime=0))

    def edit_card(self, **changes: Any) -> dict[str, Any]:
        """Change top-level fields of the card; gives its content."""
        content = yaml.safe_load(self.card.read_text())
        content.update(changes)
        self.card.write_text(yaml.safe_dump(content))
        return content

    def copy(self, folder: Path) -> TinyDataset:
        """The same in another folder, to be damaged."""
        shutil.copytree(self.folder, folder)
        return TinyDataset(folder)


def write_tiny_dataset(
    folder: Path, name: str = "tiny", sections: Sequence[str] = SECTIONS
) -> TinyDataset:
    """Write card, counts, spots and images; the same bytes each time.

    The first letter of a section is its patient.
    """
    dataset = TinyDataset(folder)
    for part in ("counts", "spots", "images"):
        (dataset.root / part).mkdir(parents=True, exist_ok=True)
    x, y = (axis.ravel() for axis in np.meshgrid(range(1, COLUMNS + 1), range(1, ROWS + 1)))
    for number, section in enumerate(sections):
        generator = np.random.default_rng(number)
        darkness = generator.uniform(0, 1, len(x))
        depth = generator.uniform(0.5, 1.5, len(x))
        slope = np.linspace(-1, 1, len(GENES))
        expected = 8 * np.exp(slope[None, :] * darkness[:, None]) * depth[:, None]
        counts = generator.poisson(expected)
        cells = [["", *GENES]]
        cells += [[f"{i}x{j}", *map(str, row)] for i, j, row in zip(x, y, counts, strict=True)]
        dataset.write_counts(section, cells)
        lines = ["x\ty\tpixel_x\tpixel_y"]
        lines += [f"{i}\t{j}\t{28 * i}\t{32 * j}" for i, j in zip(x, y, strict=True)]
        dataset.spots(section).write_text("\n".join(lines) + "\n")
        pixels = generator.integers(200, 255, (SIDE, SIDE, 3)).astype(np.uint8)
        for i, j, dark in zip(x, y, darkness, strict=True):
            pixels[32 * j - 14 : 32 * j + 14, 28 * i - 14 : 28 * i + 14] = int(200 - 150 * dark)
        Image.fromarray(pixels).save(dataset.image(section), quality=90)
    symbols = "\n".join(GENES)
    (dataset.root / "panel.txt").write_text(symbols + "\n")
    card = {
        "name": name,
        "title": "tiny simulated sections",
        "citation": "none",
        "licence": "MIT",
        "platform": "simulated",
        "tissue": "none",
        "source": "the tests",
        "layout": "legacy_st",
        "patch_pixels": 32,
        "micrometres_per_pixel": 2.0,
        "spot_diameter_micrometres": 50,
        "max_image_pixels": SIDE * SIDE,
        "published_order": list(sections),
        "published_panel": "all",
        "panels": {
            "all": {
                "genes": len(GENES),
                "symbols_sha256": hashlib.sha256(symbols.encode()).hexdigest(),
                "text": "panel.txt",
            }
        },
        "sections": [
            {
                "name": section,
                "patient": section[0],
                "files": {
                    "counts": {"path": f"counts/{section}.tsv.gz"},
                    "spots": {"path": f"spots/{section}.tsv"},
                    "image": {"path": f"images/{section}.jpg"},
                },
            }
            for section in sections
        ],
    }
    dataset.card.write_text(yaml.safe_dump(card, sort_keys=False))
    return dataset


@dataclass(frozen=True)
class Result:
    """What a call of the command line left behind."""

    status: int
    stdout: str
    stderr: str


def call(*arguments: object) -> Result:
    """``bench ARGUMENTS`` in this process."""
    from bench.cli import main

    before = sys.argv
    sys.argv = ["bench", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    status = 0
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv = before
    return Result(status, out.getvalue(), err.getvalue())


def environment(
    path: Path | None = None, changes: Mapping[str, str] | None = None
) -> dict[str, str]:
    """Environment of a child process: `path` can be imported from, `changes` are made."""
    own = {k: v for k, v in os.environ.items() if k not in {"FORCE_COLOR", "NO_COLOR"}}
    if path is not None:
        before = own.get("PYTHONPATH")
        own["PYTHONPATH"] = f"{path}{os.pathsep}{before}" if before else str(path)
    own["PYTHONDONTWRITEBYTECODE"] = "1"
    own["OMP_NUM_THREADS"] = "1"
    return {**own, **(changes or {})}


def start(
    *arguments: object,
    path: Path | None = None,
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = ("-m", "bench"),
) -> subprocess.Popen[str]:
    """``python -m bench ARGUMENTS`` as a process that the test may kill."""
    return subprocess.Popen(
        [sys.executable, *program, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(path, env),
    )


def call_process(
    *arguments: object,
    path: Path | None = None,
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = ("-m", "bench"),
    timeout: float = 600,
) -> Result:
    """``python -m bench ARGUMENTS`` to its end."""
    process = start(*arguments, path=path, env=env, program=program)
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    return Result(process.returncode, out, err)


PLUGIN = '''
"""{summary}"""

import numpy as np
from bench.api import Method, atomic_write
{before}

class Plugin(Method):
    """A method of a test."""

    name = "{name}"
    needs_image = {needs_image}

    def fit(self, data, context):
        """Mean of the training spots."""
        {fit}
        self.mean = np.concatenate([s.target for s in data.sections]).mean(axis=0)

    def predict(self, slides, context):
        """The mean, tilted by the array row."""
        predictions = [
            (self.mean * (1 + 0.01 * s.array_xy[:, 1:])).astype(np.float32) for s in slides
        ]
        {predict}
        return predictions

    def save(self, folder):
        """One array."""
        with atomic_write(folder / "mean.npy") as temporary:
            np.save(temporary, self.mean)

    @classmethod
    def load(cls, folder, config):
        """What was saved."""
        method = cls(config)
        method.mean = np.load(folder / "mean.npy", allow_pickle=False)
        return method
'''


def write_plugin(
    folder: Path,
    name: str,
    *,
    fit: str = "",
    predict: str = "",
    before: str = "",
    needs_image: bool = False,
    module: str | None = None,
) -> Path:
    """Write a distribution with one method, as pip would leave it in `folder`.

    `fit`, `predict` and `before` are statements put into the method's source.
    """
    module = module or f"plugin_{name}"
    information = folder / f"{module}-1.0.dist-info"
    information.mkdir(parents=True, exist_ok=True)
    (information / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\nSummary: plugin {name}\n"
    )
    (information / "entry_points.txt").write_text(f"[bench.methods]\n{name} = {module}:Plugin\n")

    def body(statements: str) -> str:
        return textwrap.indent(textwrap.dedent(statements).strip(), " " * 8).lstrip() or "pass"

    source = PLUGIN.format(
        summary=f"plugin {name}",
        name=name,
        needs_image=needs_image,
        before=textwrap.dedent(before),
        fit=body(fit),
        predict=body(predict),
    )
    (folder / f"{module}.py").write_text(source)
    return folder


def fold_folders(results: Path) -> list[Path]:
    """Fold folders of all runs in a results folder."""
    return sorted(results.glob("runs/*/*/*/fold-*"))


def scores_of(results: Path) -> dict[str, bytes]:
    """Score files by method and fold that is done, to compare bit for bit."""
    done = [path for path in fold_folders(results) if (path / "manifest.json").is_file()]
    return {
        f"{path.parent.name.rsplit('-', 1)[0]}/{path.name}": (path / "scores.parquet").read_bytes()
        for path in done
    }


def assert_refused(result: Result, *words: str, lines: int | None = 1) -> str:
    """One line ``bench: ...`` with `words` on stderr and status 2; gives that line.

    `lines` is the number of lines on stderr, None where progress may come before.
    """
    told = result.stderr.splitlines()
    assert result.status == 2, result
    assert "Traceback" not in result.stderr
    complaints = [line for line in told if line.startswith("bench: ")]
    assert len(complaints) == 1, result.stderr
    assert told[-1] == complaints[0], result.stderr
    if lines is not None:
        assert len(told) == lines, result.stderr
    for word in words:
        assert word in complaints[0], result.stderr
    assert result.stdout == ""
    return complaints[0]


def assert_nothing_half_written(results: Path) -> None:
    """No temporary file, no fold without a manifest, no run without a finished fold."""
    if not results.is_dir():
        return
    names = [path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()]
    temporary = [name for name in names if Path(name).name.startswith(".") and ".lock" not in name]
    assert temporary == []
    for path in results.glob("runs/*/*/*"):
        assert list(path.glob("fold-*/manifest.json")), f"run folder left behind: {path.name}"


def rows_of(result):
    """Rows of JSON output by method, without the time they took."""
    rows = json.loads(result.stdout)["rows"]
    return {row["method"]: {k: v for k, v in row.items() if k != "fit_seconds"} for row in rows}


def manifests_of(results):
    return sorted(results.glob("runs/*/*/*/fold-*/manifest.json"))
