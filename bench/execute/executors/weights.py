"""Weights of jobs, fetched before the jobs are sent to machines without internet."""

from __future__ import annotations

from collections.abc import Iterable

from bench.execute.plan import Job


def fetch_weights(jobs: Iterable[Job]) -> None:
    """Fetch ImageNet weights of the jobs' encoders into the caches of torchvision and timm.

    Methods that use them have the settings ``encoder`` and ``weights``, like those of this
    package.

    Raises
    ------
    ConfigError
        No such encoder, or its weights cannot be fetched.
    """
    wanted = {
        str(job.method_spec.config["encoder"])
        for job in jobs
        if job.method_spec.config.get("weights") == "imagenet"
        and "encoder" in job.method_spec.config
    }
    if wanted:
        from bench.blocks.encoders import image_encoder

        for name in sorted(wanted):
            image_encoder(name, "imagenet")
