"""Weights of jobs, fetched before the jobs are sent to machines without internet."""

from __future__ import annotations

from collections.abc import Iterable

from bench.encoders.declaration import PRETRAINED
from bench.execute.plan import Job

_OF_TORCHVISION = "densenet121"


def fetch_weights(jobs: Iterable[Job]) -> None:
    """Fetch ImageNet weights that torchvision keeps, where jobs use them.

    Weights of all other encoders are on this machine since the request was planned; see
    :func:`bench.execute.encoders.prepare_encoder`.

    Raises
    ------
    ConfigError
        The weights cannot be fetched.
    """
    configs = [job.method_spec.config for job in jobs]
    if any(
        config.get("encoder") == _OF_TORCHVISION and config.get("weights") in PRETRAINED
        for config in configs
    ):
        from bench.blocks.encoders import image_encoder

        image_encoder(_OF_TORCHVISION, "imagenet")
