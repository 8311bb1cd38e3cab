"""Keys: hashes of everything that a stored fit and its scores depend on.

The fit key of a fold changes with everything that can change what is fitted and predicted: the
method's code, its settings, the code of the harness that a fit runs through, the seed, the
precision, versions of packages, and the values in the fold's input. The score key changes
with the measured values and the code that scores. Code is hashed as syntax trees, so comments and
docstrings do not count.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.encoders.declaration import LOCAL_FOLDER
from bench.execute.encoders import encoder_identity
from bench.files import canonical_hash, file_hash
from bench.sources import code_hash, content_hash
from bench.version import installed_version

if TYPE_CHECKING:
    from bench.execute.method_specs import MethodSpec

_FIT_CODE = (
    *("bench.worker.fitting", "bench.worker.handover"),
    *("bench.data.images.patches", "bench.data.images.stored_patches"),
)
_SCORE_CODE = ("bench.execute.scoring",)
_ORACLE_CODE = ("bench.evaluate.oracles",)
_ENSEMBLE_CODE = ("bench.execute.ensembles",)

_FIT_PACKAGES = (
    *("imagecodecs", "lightning", "numpy", "openvino", "pillow", "scikit-learn", "scipy"),
    *("tifffile", "timm", "torch", "torchvision"),
)
_SCORE_PACKAGES = ("numpy", "pandas", "scikit-image", "scikit-learn", "scipy")


def run_key(method_spec: MethodSpec, shared: Mapping[str, Any]) -> str:
    """Key of a run: the part that its fit keys share.

    Parameters
    ----------
    method_spec
        Method and settings, or an oracle.
    shared
        Dataset, protocol, folds, seed, precision.
    """
    if method_spec.members:
        members = [run_key(member, shared) for member in method_spec.members]
        return canonical_hash([members, code_hash(_ENSEMBLE_CODE), _versions(("numpy",))])
    facts = method_spec.facts
    code = {
        "method": facts.code if facts else {},
        "harness": code_hash([*_FIT_CODE, *facts.harness] if facts else _ORACLE_CODE),
    }
    settings = {str(fold): config for fold, config in method_spec.fold_configs.items()}
    settings[""] = method_spec.config
    return canonical_hash(
        {
            **shared,
            "label": method_spec.label,
            "code": code,
            "settings": _by_content(settings),
            "encoders": {fold: encoder_identity(one) for fold, one in settings.items()},
            "checkpoint": _checkpoint(method_spec),
            "packages": _versions(_FIT_PACKAGES),
        }
    )


def fit_key(run: str, fold: int, inputs: str) -> str:
    """Key of the fit of one fold.

    Parameters
    ----------
    run
        Key of the run.
    fold
        Number of the fold.
    inputs
        Hash of the fold's input.
    """
    return canonical_hash([run, fold, inputs])


def score_key(fit: str, truth: str) -> str:
    """Key of the scores of a fit.

    Parameters
    ----------
    fit
        Key of the fit.
    truth
        Hash of the measured values that predictions are scored against.
    """
    return canonical_hash([fit, truth, code_hash(_SCORE_CODE), _versions(_SCORE_PACKAGES)])


def _checkpoint(method_spec: MethodSpec) -> Any:
    if method_spec.fold_checkpoints:
        of = sorted(method_spec.fold_checkpoints.items())
        return [[fold, file_hash(path)] for fold, path in of]
    return method_spec.checkpoint and file_hash(method_spec.checkpoint)


def _by_content(value: Any) -> Any:
    """Settings with each path of a file or folder replaced by the hash of its content."""
    if isinstance(value, Mapping):
        return {str(name): _by_content(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_by_content(item) for item in value]
    if isinstance(value, str) and value and "\0" not in value:
        path = Path(value.removeprefix(LOCAL_FOLDER)).expanduser()
        try:
            if path.exists():
                return {"content": content_hash(path)}
        except OSError:  # too long for a name
            return value
    return value


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    python = ".".join(platform.python_version_tuple()[:2])
    return {"python": python, **{package: installed_version(package) for package in packages}}
