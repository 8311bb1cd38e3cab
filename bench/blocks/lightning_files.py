"""Lightning checkpoints whose hyper-parameters name classes that torch does not read.

Their tensors are read and everything else is replaced by inert objects: the unpickler knows the
functions that rebuild tensors and no other name, so that nothing of the file is executed.
"""

from __future__ import annotations

import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import torch
import torch._utils

_MARK = "pytorch-lightning_version"


class _RebuildTensor:
    """Calls torch's function; a pickle may set attributes of a function, but none of this."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        return torch._utils._rebuild_tensor_v2(*arguments)


class _RebuildParameter:
    """As :class:`_RebuildTensor`."""

    __slots__ = ()

    def __call__(self, *arguments: Any) -> Any:
        return torch._utils._rebuild_parameter(*arguments)


_ALLOWED: Mapping[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _RebuildTensor(),
    ("torch._utils", "_rebuild_parameter"): _RebuildParameter(),
}


class _Inert:
    """Stands for any object of another class: takes whatever it is given and does nothing."""

    def __new__(cls, *_: Any, **__: Any) -> Self:
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _Inert:
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, _: Any, __: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Take an item of a list."""

    def extend(self, _: Any) -> None:
        """Take items of a list."""

    def add(self, _: Any) -> None:
        """Take an item of a set."""


class _TensorUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        return _ALLOWED.get((module, name), _Inert)


def lightning_content(path: Path) -> Mapping[str, Any] | None:
    """Content of a Lightning checkpoint, everything but tensors and plain values inert.

    Returns
    -------
    mapping or None
        None where the file is not a Lightning checkpoint in torch's zip format.
    """
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if any(name.endswith("/constants.pkl") for name in archive.namelist()):
            return None  # TorchScript, which torch would run
    reader: Any = SimpleNamespace(__name__=__name__, Unpickler=_TensorUnpickler)
    content = torch.load(path, map_location="cpu", pickle_module=reader, weights_only=False)
    is_lightning = isinstance(content, dict) and _MARK in content and "state_dict" in content
    return content if is_lightning else None
