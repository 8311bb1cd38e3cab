"""Cost of the dependencies of the project: size of each on disk, time of its import.

``python -m benchmarks.dependencies --output docs/dependencies.md`` measures the environment of the
calling interpreter and writes the page.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from bench.files import atomic_write

PYPROJECT = Path(__file__).resolve().parents[1] / "pyproject.toml"
REPEATS = 3
"""Imports that are timed, of which the fastest counts."""

MODULES = {
    "huggingface-hub": "huggingface_hub",
    "pillow": "PIL.Image",
    "pyyaml": "yaml",
    "scikit-image": "skimage.measure",
    "scikit-learn": "sklearn.linear_model",
    "scikit-posthocs": "scikit_posthocs",
    "scipy": "scipy.sparse",
    "statsmodels": "statsmodels.stats.multitest",
    "matplotlib": "matplotlib.figure",
    "pyarrow": "pyarrow.parquet",
}
"""Module that is imported, where it is not named as the distribution."""

PURPOSES = {
    "anndata": "AnnData tables of spots and genes, and their files",
    "cachetools": "caches of bounded size in memory",
    "cloudpickle": "sending a class of a notebook to a worker of the same user",
    "filelock": "locks between processes, on file systems that have them",
    "h5py": "HDF5 files of Space Ranger and of stored patches",
    "huggingface-hub": "download of encoders and datasets from Hugging Face",
    "imagecodecs": "compressed tiles of TIFF files and whole slides",
    "imagehash": "perceptual hashes, by which the audit finds near copies of an image",
    "jinja2": "template of the HTML page",
    "lightning": "the training loop of networks, its checkpoints and callbacks",
    "matplotlib": "figures",
    "mlflow": "tracking: database, pages and server",
    "numpy": "arrays",
    "optuna": "samplers, pruners and storage of tuning",
    "packaging": "comparison of versions",
    "pandas": "tables",
    "pillow": "images",
    "platformdirs": "folders of data and caches of the platform",
    "pyarrow": "Parquet files",
    "pydantic": "checked settings, cards, protocols and study files",
    "pyyaml": "YAML files",
    "requests": "downloads",
    "rich": "progress and tables on terminals",
    "safetensors": "tensors on disk without pickle",
    "scanpy": "choice of highly variable genes",
    "scikit-image": "structural similarity of gene maps",
    "scikit-learn": "linear models, neighbours, PCA, k-means, agreement of domains",
    "scikit-posthocs": "diagrams of ranks with critical differences",
    "scipy": "sparse matrices, tests, trees of neighbours",
    "seaborn": "statistical figures",
    "skops": "scikit-learn estimators on disk without pickle",
    "statsmodels": "Holm's correction",
    "tenacity": "repeated attempts of downloads",
    "threadpoolctl": "number of threads of numerical libraries",
    "tifffile": "TIFF files and whole slides in tiles",
    "timm": "image encoders and their weights",
    "torch": "networks",
    "torchvision": "DenseNet-121 and augmentation",
    "typer": "the command line",
}
"""What each dependency does that the project would otherwise have to write itself."""

GPU_LIBRARIES = re.compile(r"nvidia-|triton$|cuda-")
"""Distributions that PyTorch needs for NVIDIA GPUs alone."""

LIGHTER = """\
## A smaller installation

* **Without a GPU**: {gpu} of the {total} MB are libraries for NVIDIA GPUs that the usual build of
  PyTorch for Linux needs. If PyTorch's CPU build is installed first, as its installation guide
  describes, `pip` keeps it.
* **Optional**: encoders that need transformers, OpenSlide, SpatialData, OpenVINO, Ray, database
  drivers and the tools of this site are extras ([Start](start.md#install)).
* **Required**: the column *saves* shows that no other library costs more than a few hundred MB.
  MLflow is imported by runs that are recorded in it (not with `--tracking none`), Optuna by
  `bench tune`.

## Measured"""
"""What can be left out, for the page."""


@dataclass(frozen=True)
class DependencyCost:
    """Measured cost of a dependency.

    Attributes
    ----------
    name, version
        Of the distribution.
    own_mb
        Size of its files on disk, in megabytes (10^6 bytes).
    needed_mb
        Size with all that it needs, which other dependencies may need too.
    alone_mb
        Size of what it needs and no other dependency needs: what its removal would save.
    import_seconds
        Processor time of importing it in a new interpreter, the fastest of :data:`REPEATS`.
    """

    name: str
    version: str
    own_mb: float
    needed_mb: float
    alone_mb: float
    import_seconds: float


def dependencies(pyproject: Path = PYPROJECT) -> list[str]:
    """Normalised names of the dependencies that the project declares, in order."""
    declared = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]["dependencies"]
    return [canonicalize_name(Requirement(text).name) for text in declared]


def requirements_of(name: str) -> set[str]:
    """Installed distributions that a distribution needs, itself included, at any remove."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [(str(canonicalize_name(name)), frozenset[str]())]
    while waiting:
        current = waiting.pop()
        try:
            texts = distribution(current[0]).requires or []
        except PackageNotFoundError:  # for another platform, or an option that is not installed
            continue
        found.add(current)
        for requirement in map(Requirement, texts):
            asked = requirement.marker is None or any(
                requirement.marker.evaluate({"extra": extra}) for extra in ("", *current[1])
            )
            needed = (str(canonicalize_name(requirement.name)), frozenset(requirement.extras))
            if asked and needed not in found:
                waiting.append(needed)
    return {name for name, _ in found}


def only_for(name: str, needed: Mapping[str, set[str]]) -> set[str]:
    """Distributions that one dependency needs, itself included, and that no other one needs."""
    others = (distributions for other, distributions in needed.items() if other != name)
    return needed[name].difference(*others)


def size_mb(names: Iterable[str]) -> float:
    """Megabytes of the files of installed distributions."""
    total = 0
    for name in names:
        for file in distribution(name).files or []:
            path = Path(str(file.locate()))
            total += path.stat().st_size if path.is_file() else 0
    return total / 1e6


def import_seconds(module: str) -> float:
    """Processor seconds of importing a module, beyond those of an empty interpreter.

    Raises
    ------
    RuntimeError
        The module cannot be imported.
    """
    program = (
        "import os, sys\n"
        "before = sum(os.times()[:2])\n"
        f"__import__({module!r})\n"
        "print(sum(os.times()[:2]) - before)"
    )
    seconds = []
    for _ in range(REPEATS):
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise RuntimeError(f"import {module}: {done.stderr.strip().splitlines()[-1]}")
        seconds.append(float(done.stdout.split()[-1]))
    return min(seconds)


def measure(names: Iterable[str]) -> list[DependencyCost]:
    """Costs of dependencies, the largest first."""
    needed = {name: requirements_of(name) for name in names}
    costs = [
        DependencyCost(
            name=name,
            version=distribution(name).version,
            own_mb=size_mb([name]),
            needed_mb=size_mb(needed[name]),
            alone_mb=size_mb(only_for(name, needed)),
            import_seconds=import_seconds(MODULES.get(name, name.replace("-", "_"))),
        )
        for name in needed
    ]
    return sorted(costs, key=lambda cost: -cost.own_mb)


def page(costs: Iterable[DependencyCost], where: Mapping[str, str]) -> str:
    """Markdown page of measured costs."""
    lines = [
        "# Dependencies",
        "",
        "What each dependency costs, and what it does that the project would otherwise have to"
        " write itself.",
        "",
        "* **own**: size of its files. **needs**: size with everything that it needs itself, which"
        " other libraries may need too, so this column does not add up. **saves**: size of what"
        " would not be installed without it.",
        f"* **import**: processor time of importing it in a new interpreter, the fastest of"
        f" {REPEATS}. Help texts and `bench list` import none of the slow ones. Libraries near 0"
        " import their parts when these are first used.",
        "",
        f"Measured on {where['date']} with Python {where['python']} on {where['machine']}. All"
        f" installed packages that the project needs take {where['total']} MB. Measure again with"
        " `python -m benchmarks.dependencies --output docs/dependencies.md`.",
        "",
        *LIGHTER.format(gpu=where["gpu"], total=where["total"]).splitlines(),
        "",
        "| library | own, MB | needs, MB | saves, MB | import, s | what it does here |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {cost.name} {cost.version} | {cost.own_mb:,.1f} | {cost.needed_mb:,.1f} |"
        f" {cost.alone_mb:,.1f} | {cost.import_seconds:.2f} | {PURPOSES[cost.name]} |"
        for cost in costs
    ]
    return "\n".join([*lines, ""])


def _machine() -> str:
    text = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").is_file() else ""
    model = re.search(r"model name\s*: (.*)", text)
    name = model[1] if model else platform.processor() or platform.machine()
    return f"{name} with {os.cpu_count()} cores, {platform.system()}"


def main(arguments: list[str] | None = None) -> None:
    """Measure, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", type=Path, required=True, help="page to write")
    output = parser.parse_args(arguments).output
    names = dependencies()
    every = set().union(*map(requirements_of, names))
    where = {
        "date": date.today().isoformat(),
        "python": platform.python_version(),
        "machine": _machine(),
        "total": f"{size_mb(every):,.0f}",
        "gpu": f"{size_mb(filter(GPU_LIBRARIES.match, every)):,.0f}",
    }
    text = page(measure(names), where)
    with atomic_write(output) as path:
        path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
