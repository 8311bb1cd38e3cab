"""Device and precision of the jobs of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

from bench.devices import check_device, check_precision, remember_devices, remembered_devices
from bench.errors import BenchError
from bench.method import Precision
from bench.worker.process import run_worker


class Devices:
    """Device and precision of jobs; torch is queried only if a method reads images."""

    def __init__(self, device: str, precision: str, *, elsewhere: bool = False) -> None:
        check_device(device)
        check_precision(precision)
        self._device, self._precision, self._elsewhere = device, precision, elsewhere
        if device in {"cuda", "mps"} and not elsewhere and device not in self._here:
            raise BenchError(f"device {device} is not available on this machine; use --device auto")

    def of(self, *, needs_image: bool) -> tuple[str, Precision]:
        """Device and precision of a method; an accelerator only for methods that read images."""
        device, precision = self._device, self._precision
        if device == "auto":
            device = next(iter(self._here)) if needs_image else "cpu"
        if not needs_image:  # precision is of image encoders
            return device, "float32"
        if precision == "auto" and device == "cuda" and self._elsewhere:
            return device, "bf16"
        if precision == "auto":
            return device, self._here.get(device, "float32")
        return device, "bf16" if precision == "bf16" else "float32"

    @cached_property
    def _here(self) -> Mapping[str, Precision]:
        known = remembered_devices()
        if known is None:
            remember_devices(run_worker("devices", "{}")["devices"])
            known = remembered_devices()
        assert known is not None  # it has just been written
        return known
