"""Weights and inputs of the golden cases, rebuilt from their recipes."""

from __future__ import annotations

import json
import math
import zlib
from pathlib import Path

import numpy as np
import torch

FOLDER = Path(__file__).parent / "golden"


class GoldenCase:
    """One case: `facts` from its JSON, `arrays` that the released code gave."""

    def __init__(self, name: str) -> None:
        self.facts = json.loads((FOLDER / f"{name}.json").read_text())
        with np.load(FOLDER / f"{name}.npz", allow_pickle=False) as stored:
            self.arrays = {key: stored[key] for key in stored.files}

    def draw(self, key: str) -> np.random.Generator:
        """Generator of the input `key`."""
        return np.random.default_rng(zlib.crc32(f"{self.facts['seed']}:input:{key}".encode()))

    def shape(self, key: str) -> tuple[int, ...]:
        """Shape of the input `key`."""
        return tuple(next(i["shape"] for i in self.facts["inputs"] if i["key"] == key))

    def state(self) -> dict[str, torch.Tensor]:
        """Weights by the authors' tensor names; their checksum is compared first."""
        tensors, checksum = {}, 0
        for name, shape, kind in self.facts["state_dict"]:
            if kind == "counter":
                tensors[name] = torch.tensor(0)
                continue
            value = self._weight(name, tuple(shape), kind)
            checksum = zlib.crc32(value.astype("<f4").tobytes(), checksum)
            tensors[name] = torch.from_numpy(value)
        assert checksum == self.facts["state_crc32"]
        return tensors

    def _weight(self, name: str, shape: tuple[int, ...], kind: str) -> np.ndarray:
        seed = zlib.crc32(f"{self.facts['seed']}:{name}".encode())
        z = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
        if kind == "matrix":
            return z / math.sqrt(math.prod(shape[1:]))
        value = {
            "running_var": lambda: 1 + 0.1 * np.abs(z),
            "running_mean": lambda: 0.1 * z,
            "norm_scale": lambda: 1 + 0.1 * z,
            "bias": lambda: 0.05 * z,
            "embedding": lambda: 0.1 * z,
        }[kind]()
        assert value.dtype == np.float32
        return value

    def assert_close(self, name: str, found: torch.Tensor | np.ndarray) -> None:
        """Within 1e-5 of the array's largest magnitude, and a tenth of its spread over spots."""
        facts = self.facts["outputs"][name]
        allowed = 1e-5 * facts["max_abs"]
        if facts.get("std_over_axis0_median"):
            allowed = min(allowed, 0.1 * facts["std_over_axis0_median"])
        np.testing.assert_allclose(
            np.asarray(found), self.arrays[name], rtol=0, atol=allowed, err_msg=name
        )
