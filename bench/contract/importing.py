"""Cost of importing a method's module."""

from __future__ import annotations

import json
import subprocess
import sys

from bench.contract.outcome import ContractError, NotApplicableError
from bench.contract.subject import Subject
from bench.files import one_line
from bench.method_references import is_own
from bench.registry import InstalledMethod, find_methods

IMPORT_SECONDS = 2.0
"""Maximum CPU seconds of an import, in addition to that of the interface."""

HEAVY = {
    "anndata", "jax", "lightning", "mlflow", "pandas", "scanpy", "sklearn", "tensorflow", "timm",
    "torch", "torchvision",
}  # fmt: skip
"""Libraries that are slow to import."""

_PROGRAM = """
import importlib, json, sys, time
sys.path[:] = json.loads(sys.argv[2])
import bench.api
before, start = set(sys.modules), time.process_time()
importlib.import_module(sys.argv[1])
seconds = time.process_time() - start
print(json.dumps({"seconds": seconds, "modules": sorted(set(sys.modules) - before)}))
"""


def module_of(method: InstalledMethod) -> str:
    """Name of the module that an import of a method starts with."""
    return method.entry.module if method.entry else f"bench.methods.{method.name}"


def imports_little(subject: Subject) -> None:
    """Importing it is quick, and imports no heavy library and no other method."""
    if is_own(subject.reference):
        raise NotApplicableError("it is not installed: the process that fits it imports it alone")
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, subject.module, json.dumps(sys.path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        last = one_line((done.stderr.strip().splitlines() or ["no message"])[-1])
        raise ContractError(f"a new process cannot import {subject.module}: {last}")
    facts = json.loads(done.stdout.splitlines()[-1])
    heavy = sorted({name.split(".")[0] for name in facts["modules"]} & HEAVY)
    if heavy:
        raise ContractError(
            f"importing {subject.module} imports {', '.join(heavy)}; import it where it is used"
        )
    others = sorted(name for name in facts["modules"] if _is_of_another(name, subject.module))
    if others:
        raise ContractError(f"importing {subject.module} imports {others[0]}, another method")
    if facts["seconds"] > IMPORT_SECONDS:
        raise ContractError(
            f"importing {subject.module} takes {facts['seconds']:.1f} s, more than"
            f" {IMPORT_SECONDS:.0f} s"
        )


def _is_of_another(name: str, own: str) -> bool:
    """Whether a module belongs to another method."""
    modules = {module_of(method) for method in find_methods().values()} - {own}
    return name in modules and not own.startswith(f"{name}.")
