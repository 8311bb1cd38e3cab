"""How a network is trained, and where it runs."""

from __future__ import annotations

import numpy as np

from bench.contract.outcome import ContractError, NotApplicableError
from bench.contract.subject import Subject
from bench.data.inputs import TrainingData
from bench.errors import BenchError

CUDA_TOLERANCE = 1e-2
"""Largest difference between CPU and CUDA as a share of the largest prediction: a GPU multiplies
with 10-bit mantissas by default."""


def every_parameter_learns(subject: Subject) -> None:
    """Every parameter gets a gradient unless it is declared frozen."""
    idle = subject.fitted.context.idle_parameters
    if idle is None:
        raise NotApplicableError(
            "it does not train through the training helper, which watches gradients"
        )
    if idle:
        more = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
        raise ContractError(
            f"{idle[0]}{more} never got a gradient; set requires_grad to False, or use it"
        )


def early_stopping_needs_validation(subject: Subject) -> None:
    """Early stopping works on validation sections, and is refused without them."""
    if "patience" not in subject.kind.Config.model_fields:
        raise NotApplicableError("it has no setting 'patience'")
    config = subject.configured({"patience": 1})
    data = subject.data()
    try:
        subject.fit(TrainingData(data.panel, data.train), config=config)
    except BenchError as error:
        if "validation" not in str(error):
            raise ContractError(
                f"the refusal does not name validation sections: {error}"
            ) from error
    else:
        raise ContractError("it stops early without validation sections")
    subject.predict(subject.fit(config=config))


def devices_agree(subject: Subject) -> str:
    """CPU and CUDA agree."""
    import torch

    if not torch.cuda.is_available():
        raise NotApplicableError("no CUDA device here")
    method = subject.fit()
    on_cpu = subject.predict(method)
    on_cuda = subject.predict(method, device="cuda")
    gap = max(float(np.abs(a - b).max()) for a, b in zip(on_cpu, on_cuda, strict=True))
    largest = max(float(np.abs(a).max()) for a in on_cpu)
    if gap > CUDA_TOLERANCE * largest:
        raise ContractError(f"the same fit predicts values that differ by up to {gap:.2g}")
    subject.predict(subject.fit(device="cuda"), device="cuda")
    return f"largest difference {gap:.2g}"
