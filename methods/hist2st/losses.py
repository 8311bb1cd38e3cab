"""The three losses of Hist2ST."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from bench.methods.hist2st.network import Hist2STNetwork

_EPS = 1e-10


def size_factors(counts: np.ndarray) -> np.ndarray:
    """A spot's total over the median total of its section; all 1 where the median is 0.

    Parameters
    ----------
    counts : (spots, panel) raw counts

    Returns
    -------
    (spots,) float32
    """
    totals = np.asarray(counts, dtype=np.float64).sum(axis=1)
    median = np.median(totals)
    factors = totals / median if median > 0 else np.ones_like(totals)
    return factors.astype(np.float32)


def count_loss(counts: Tensor, mean: Tensor, dispersion: Tensor, dropout: Tensor) -> Tensor:
    """Negative log likelihood of zero-inflated negative binomial counts, averaged over entries.

    Parameters
    ----------
    counts, mean, dispersion, dropout : (n, genes); dropout is the chance of an extra zero
    """
    mean, dispersion = mean + _EPS, dispersion + _EPS
    log_total = torch.log(dispersion + mean)
    log_binomial = (
        torch.lgamma(counts + dispersion)
        - torch.lgamma(dispersion)
        - torch.lgamma(counts + 1)
        + dispersion * (torch.log(dispersion) - log_total)
        + counts * (torch.log(mean) - log_total)
    )
    seen = torch.log(1 - dropout + _EPS) + log_binomial
    no_count = torch.exp(dispersion * (torch.log(dispersion) - log_total))
    unseen = torch.log(dropout + (1 - dropout) * no_count + _EPS)
    return -torch.where(counts > 0, seen, unseen).mean()


def plain_count_loss(counts: Tensor, log_dispersion: Tensor, logit: Tensor) -> Tensor:
    """Negative log likelihood of negative binomial counts, without the term of counts alone.

    Summed over genes and averaged over spots.

    Parameters
    ----------
    counts, log_dispersion, logit : (n, genes); the mean is ``exp(log_dispersion + logit)``
    """
    dispersion = log_dispersion.exp()
    likelihood = (
        torch.lgamma(dispersion + counts)
        - torch.lgamma(dispersion)
        + counts * logit
        - (counts + dispersion) * F.softplus(logit)
    )
    return -likelihood.sum(dim=-1).mean()


def distil(predictions: Tensor, coefficients: Tensor) -> Tensor:
    """Mean of the views' predictions, weighted by the softmax of their coefficients.

    Parameters
    ----------
    predictions : (views, n, genes)
    coefficients : (views, n, 1)

    Returns
    -------
    (n, genes)
    """
    return (coefficients.softmax(dim=0) * predictions).sum(dim=0)


def section_losses(
    network: Hist2STNetwork,
    images: Tensor,
    views: Sequence[Tensor],
    batch: Mapping[str, Tensor],
    *,
    counts: bool,
) -> dict[str, Tensor]:
    """The parts of a section's loss, before they are weighted.

    Parameters
    ----------
    network
        It has the heads that the asked losses need.
    images
        (n, 3, edge, edge), see :func:`bench.blocks.images.x_first`.
    views
        Augmented `images`. The distillation compares their joint prediction with the plain one,
        and both learn from it; left out where there are none.
    batch
        ``position``, ``edges``, ``target``; with `counts` also ``counts`` and ``size_factor``.
    counts
        Whether to add the count likelihood.

    Returns
    -------
    dict
        Scalars: ``mse``, and as asked ``counts`` and ``distillation``.
    """
    position, edges = batch["position"], batch["edges"]
    features = network(images, position, edges)
    prediction = network.gene_head(features)
    losses = {"mse": F.mse_loss(prediction, batch["target"])}
    if counts and network.count_head == "nb":
        losses["counts"] = plain_count_loss(batch["counts"], *network.plain_counts(features))
    elif counts:
        mean, dispersion, dropout = network.counts(features)
        scaled = mean * batch["size_factor"][:, None]
        losses["counts"] = count_loss(batch["counts"], scaled, dispersion, dropout)
    if views:
        seen = [network(view, position, edges) for view in views]
        predictions = torch.stack([network.gene_head(features) for features in seen])
        distilled = predictions[0]
        if len(views) > 1:
            coefficients = torch.stack([network.coef(features) for features in seen])
            distilled = distil(predictions, coefficients)
        losses["distillation"] = F.mse_loss(distilled, prediction)
    return losses
