"""Reading and writing the tensors of a network; no file is ever executed."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.errors import DataError
from bench.files import atomic_write

_FILE = "network.safetensors"


def save_network(network: nn.Module, folder: Path) -> None:
    """Write the tensors of a fitted network into a method's folder."""
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    with atomic_write(folder / _FILE) as temporary:
        save_file(state, temporary)


def load_network(network: nn.Module, folder: Path) -> None:
    """Load what :func:`save_network` wrote into a network of the same shape, ready to predict.

    Raises
    ------
    DataError
        The file is missing, damaged, or of another network.
    """
    path = folder / _FILE
    load_exactly(network, read_tensors(path), str(path))
    network.eval()


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors or torch file by name; nothing in the file is executed.

    A state dict may lie under ``state_dict``; the prefix ``module.`` is dropped.

    Raises
    ------
    DataError
        Missing, damaged, holding anything but tensors, or a pickle that names other objects.
    """
    if not path.is_file():
        raise DataError(f"{path}: weight file is missing")
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            with warnings.catch_warnings():
                # Advice for torch's developers; what cannot be read is refused below.
                warnings.simplefilter("ignore", UserWarning)
                content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise DataError(f"{path}: refused, it holds more than tensors") from error
    except Exception as error:
        raise DataError(f"{path}: not a readable weight file ({type(error).__name__})") from error
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"{path}: not a mapping of names to tensors")
    tensors = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise DataError(f"{path}: entry '{key}' is not a tensor")
        tensors[key.removeprefix("module.")] = value
    return tensors


def load_exactly(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict whose names and shapes must be those of `module`.

    Raises
    ------
    DataError
        Naming the first tensor that is missing, unexpected or of another shape.
    """
    own = module.state_dict()
    # Released files may predate this counter; it has no influence on the outputs.
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    extra = [k for k in state if k not in own]
    shaped = [k for k in state if k in own and state[k].shape != own[k].shape]
    if missing:
        raise DataError(f"{where}: {len(missing)} tensors missing, first '{missing[0]}'")
    if extra:
        raise DataError(f"{where}: {len(extra)} unexpected tensors, first '{extra[0]}'")
    if shaped:
        key = shaped[0]
        raise DataError(
            f"{where}: tensor '{key}' is {tuple(state[key].shape)}, not {tuple(own[key].shape)}"
        )
    module.load_state_dict(dict(state), strict=False)
