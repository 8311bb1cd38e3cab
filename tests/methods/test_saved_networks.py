"""Folders that earlier versions saved load and predict what they predicted."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from bench.api import Context
from bench.contract.small_fold import as_slide
from bench.registry import method_class

SAVED = Path(__file__).resolve().parents[1] / "fixtures" / "saved-networks"
FILES = {
    "bleep": {"network.safetensors": None, "bank.npz": ["keys", "values"]},
    "hist2st": {"network.safetensors": None},
    "histogene": {"network.safetensors": None},
    "mlp": {
        "network.safetensors": None,
        "space.npz": ["encoder_seed", "encoder_identity", "feature_centre", "feature_scale"],
    },
    "mclstexp": {"network.safetensors": None, "bank.npz": ["keys", "values"]},
    "stnet": {"network.safetensors": None, "colour.npz": ["mean", "std"]},
    "thitogene": {"network.safetensors": None, "graph.json": ["as_released"]},
    "triplex": {
        "network.safetensors": None,
        "section.npz": ["encoder_seed", "encoder_identity", "grid"],
    },
}
"""Files of a saved method, and the names of what lies in them."""


@pytest.mark.parametrize("name", sorted(path.name for path in SAVED.iterdir()))
def test_a_folder_saved_by_an_earlier_version_loads(name, data, tmp_path):
    folder, kind = SAVED / name, method_class(name)
    config = kind.Config.model_validate_json((folder / "settings.json").read_text())
    method = kind.load(folder, config)
    (found,) = method.predict([as_slide(data.validation[0])], Context(seed=1))
    np.testing.assert_allclose(found, np.load(folder / "prediction.npy"), rtol=1e-4, atol=1e-5)
    method.save(tmp_path)
    assert tensors(tmp_path) == tensors(folder)


def tensors(folder):
    with safe_open(folder / "network.safetensors", "numpy") as file:
        return {name: file.get_tensor(name).tobytes() for name in file.keys()}  # noqa: SIM118


@pytest.mark.parametrize("name", sorted(FILES))
def test_names_of_saved_files_and_of_what_lies_in_them_stay(name, data, tmp_path):
    kind = method_class(name)
    method = kind(kind.configure("small", "tiny", {"epochs": 1}))
    method.fit(data, Context(seed=1))
    method.save(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(FILES[name])
    for file, names in FILES[name].items():
        if file.endswith(".npz"):
            with np.load(tmp_path / file, allow_pickle=False) as arrays:
                assert arrays.files == names
        elif file.endswith(".json"):
            assert list(json.loads((tmp_path / file).read_text())) == names
