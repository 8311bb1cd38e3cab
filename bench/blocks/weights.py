"""Reading and writing the tensors of a network; no file is ever executed."""

from __future__ import annotations

import pickle
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.blocks.lightning_files import lightning_content
from bench.errors import DataError
from bench.files import atomic_write

NETWORK = "network.safetensors"
"""File of a network's tensors in a method's folder."""

Released = Path | Mapping[str, Tensor]
"""An authors' checkpoint: a file, or its tensors by name."""

_STATE_KEYS = ("state_dict", "model_state_dict", "model")
_GIVEN = "the given tensors"
_WRAPPERS = ("module.", "model.", "network.", "resnet.")


def save_network(network: nn.Module, folder: Path) -> None:
    """Write the tensors of a fitted network into a method's folder.

    Parameters
    ----------
    network
        Fitted network.
    folder
        Existing folder of the method.
    """
    state = {name: value.contiguous() for name, value in network.state_dict().items()}
    with atomic_write(folder / NETWORK) as temporary:
        save_file(state, temporary)


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors or torch file by name; nothing in the file is executed.

    A state dict may lie under ``state_dict`` or another usual name beside an optimiser's state.
    Of a Lightning checkpoint, objects beside the tensors are left out, of whatever class they are.

    Parameters
    ----------
    path
        A ``.safetensors`` file, or a file of ``torch.save``.

    Returns
    -------
    dict of str to Tensor
        Tensors on the CPU by name.

    Raises
    ------
    DataError
        Missing, damaged, holding anything but tensors, or a pickle that names other objects.
    """
    if not path.is_file():
        raise DataError(f"{path}: weight file is missing")
    _check_packing(path)
    try:
        if path.suffix == ".safetensors":
            content: object = load_file(path)
        else:
            with warnings.catch_warnings():
                # Advice for torch's developers; what cannot be read is refused below.
                warnings.simplefilter("ignore", UserWarning)
                content = _torch_content(path)
    except DataError:
        raise
    except Exception as error:
        raise DataError(f"{path}: not a readable weight file ({type(error).__name__})") from error
    if isinstance(content, Mapping):
        inside = [content[k] for k in _STATE_KEYS if isinstance(content.get(k), Mapping)]
        content = inside[0] if inside else content
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"{path}: not a mapping of names to tensors")
    tensors = {}
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, Tensor):
            raise DataError(f"{path}: entry '{key}' is not a tensor")
        if fault := _unusual(value):
            raise DataError(f"{path}: tensor '{key[:80]}' {fault}; plain real numbers are needed")
        if value.nelement() * value.element_size() > value.untyped_storage().nbytes():
            # A few bytes can claim to be a tensor of any size.
            raise DataError(f"{path}: tensor '{key}' is larger than what the file holds of it")
        tensors[key] = value
    return without_wrappers(tensors)


def _torch_content(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        content = lightning_content(path)
        if content is None:
            raise DataError(f"{path}: refused, it holds more than tensors") from error
        return content


def _unusual(value: Tensor) -> str:
    """What a tensor is that no network of ours is made of; empty for plain real numbers."""
    if value.layout is not torch.strided or value.is_nested:
        return "is sparse or nested"
    if value.is_quantized:
        return "is quantized"
    if value.device.type != "cpu":
        return "has no values"
    return "is complex" if value.is_complex() else ""


def _check_packing(path: Path) -> None:
    """Refuse a ZIP file that unpacks to more than its size: torch writes it without compression."""
    try:
        if not zipfile.is_zipfile(path):
            return
        with zipfile.ZipFile(path) as packed:
            size = sum(member.file_size for member in packed.infolist())
    except (OSError, zipfile.BadZipFile, ValueError):
        return  # torch tells what is wrong with it
    if size > path.stat().st_size:
        raise DataError(f"{path}: compressed, which torch never writes; save the tensors again")


def without_wrappers(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors without the prefixes that parallel training and Lightning put on all."""
    tensors = dict(state)
    while prefix := next((p for p in _WRAPPERS if all(k.startswith(p) for k in tensors)), None):
        tensors = {key.removeprefix(prefix): value for key, value in tensors.items()}
    return tensors


def released_tensors(source: Released) -> tuple[dict[str, Tensor], str]:
    """Tensors of an authors' checkpoint, and what to call it in an error.

    Parameters
    ----------
    source
        A checkpoint file, read as :func:`read_tensors` does, or tensors by name.

    Returns
    -------
    tuple of dict of str to Tensor, and str
        Tensors by the authors' names, and the source for messages.

    Raises
    ------
    DataError
        As :func:`read_tensors`.
    """
    if isinstance(source, Path):
        return read_tensors(source), str(source)
    return without_wrappers(source), _GIVEN


def tensor_size(state: Mapping[str, Tensor], name: str, axis: int, where: str) -> int:
    """Length of one axis of a tensor: a network's shape is read off its checkpoint.

    Parameters
    ----------
    state
        Tensors by name.
    name
        Name of the tensor.
    axis
        Axis, counted from 0.
    where
        File or other source, for the message.

    Returns
    -------
    int
        Length of the axis.

    Raises
    ------
    DataError
        There is no such tensor, or it has fewer axes.
    """
    if name not in state:
        raise DataError(f"{where}: tensor '{name}' is missing; is it a checkpoint of this method?")
    if state[name].dim() <= axis:
        raise DataError(f"{where}: tensor '{name}' has only {state[name].dim()} axes")
    return state[name].shape[axis]


def numbered(state: Mapping[str, Tensor], prefix: str) -> int:
    """Number of numbered parts, such as layers, after a prefix of tensor names."""
    parts = {key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix)}
    return len(parts)


def check_panel(source: object, outputs: int, panel: Sequence[str]) -> None:
    """Refuse a checkpoint of another panel size.

    Raises
    ------
    DataError
        Naming both sizes.
    """
    if outputs != len(panel):
        where = source if isinstance(source, str | Path) else _GIVEN
        raise DataError(
            f"{where}: the checkpoint is of {outputs} genes, the panel of this fold has"
            f" {len(panel)}; a checkpoint fits the gene list it was trained on alone"
        )


def check_strict(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Refuse a state dict whose names and shapes are not those of `module`.

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


def load_strict(module: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict whose names and shapes must be those of `module`.

    Parameters
    ----------
    module
        Network that takes the tensors.
    state
        Tensors by name.
    where
        File or other source, for the message.

    Raises
    ------
    DataError
        As :func:`check_strict`.
    """
    check_strict(module, state, where)
    module.load_state_dict(dict(state), strict=False)
