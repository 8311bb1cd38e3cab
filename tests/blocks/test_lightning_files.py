"""Lightning checkpoints are read for their tensors, whatever their hyper-parameters are."""

import argparse
import datetime as dt
import os
import zipfile

import numpy as np
import pytest
import torch

from bench.blocks.weights import read_tensors
from bench.errors import DataError


class Settings(dict):
    """A dictionary of another package, as authors put one into their checkpoints."""

    def __getstate__(self):
        return dict(self)

    def __setstate__(self, state):
        raise AssertionError("nothing of the file is executed")


class RunsCode:
    def __init__(self, path):
        self.command = f"touch {path}"

    def __reduce__(self):
        return os.system, (self.command,)


def lightning(**content):
    weight = torch.arange(6.0).reshape(2, 3)
    state = {"model.a.weight": weight, "model.b": torch.nn.Parameter(weight[0])}
    return {"epoch": 3, "pytorch-lightning_version": "2.6", "state_dict": state, **content}


PARAMETERS = {
    "settings": Settings(depth=1, inner=Settings(names=["x"])),
    "namespace": argparse.Namespace(rate=0.1),
    "numpy": {"array": np.arange(3), "scalar": np.float64(2)},
    "dates": [dt.date(2025, 5, 1), {1, 2}],
    "plain": {"depth": 1},
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_tensors_are_read_beside_any_hyper_parameters(tmp_path, name):
    torch.save(lightning(hyper_parameters=PARAMETERS[name]), tmp_path / "epoch=01.ckpt")
    tensors = read_tensors(tmp_path / "epoch=01.ckpt")
    assert set(tensors) == {"a.weight", "b"}
    assert torch.equal(tensors["a.weight"], torch.arange(6.0).reshape(2, 3))


def test_code_among_the_hyper_parameters_is_not_run(tmp_path):
    marker = tmp_path / "ran"
    torch.save(lightning(hyper_parameters=RunsCode(marker)), tmp_path / "a.ckpt")
    assert set(read_tensors(tmp_path / "a.ckpt")) == {"a.weight", "b"}
    assert not marker.exists()


def test_a_pickle_changes_no_function_of_torch(tmp_path):
    torch.save(lightning(hyper_parameters=Settings()), tmp_path / "a.ckpt")
    name = b"ctorch._utils\n_rebuild_tensor_v2\n"
    state = b"N}U\x07__doc__U\x06hackeds\x86"  # None, and the slots {"__doc__": "hacked"}
    attack = name + state + b"b."
    before = torch._utils._rebuild_tensor_v2.__doc__
    with (
        zipfile.ZipFile(tmp_path / "a.ckpt") as old,
        zipfile.ZipFile(tmp_path / "b.ckpt", "w") as new,
    ):
        for item in old.namelist():
            new.writestr(item, attack if item.endswith("data.pkl") else old.read(item))
    with pytest.raises(DataError):
        read_tensors(tmp_path / "b.ckpt")
    assert torch._utils._rebuild_tensor_v2.__doc__ == before


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"a": torch.ones(1), "x": Settings()}, "holds more than tensors"),
        (lightning(state_dict={"a": Settings()}, x=Settings()), "entry 'a' is not a tensor"),
        (lightning(state_dict=Settings(a=1), x=Settings()), "not a tensor|not a mapping"),
    ],
    ids=["no Lightning file", "in the state dict", "for a state dict"],
)
def test_an_object_in_the_place_of_tensors_is_refused(tmp_path, content, said):
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(DataError, match=said):
        read_tensors(tmp_path / "a.ckpt")


def test_a_file_of_the_old_format_with_other_objects_is_refused(tmp_path):
    path = tmp_path / "a.ckpt"
    torch.save(lightning(x=Settings()), path, _use_new_zipfile_serialization=False)
    with pytest.raises(DataError, match="holds more than tensors"):
        read_tensors(path)


def test_torchscript_is_not_run(tmp_path):
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / "a.pt")
    with pytest.raises(DataError):
        read_tensors(tmp_path / "a.pt")
