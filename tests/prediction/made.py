"""Predictions made from numbers alone, for the files that are written of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData


def made_prediction(
    spots: int,
    genes: int | Sequence[str],
    *,
    name: str = "slide",
    um: float | None = 2.0,
    notes: str = "",
) -> AnnData:
    """A prediction with spots on a square grid, 100 px apart.

    The PCC of every third gene is undefined, and every third spot has an ``ood_score`` above 1.
    """
    rng = np.random.default_rng(0)
    names = [f"G{n}" for n in range(genes)] if isinstance(genes, int) else list(genes)
    side = int(np.ceil(np.sqrt(spots)))
    place = np.arange(spots)
    pcc = rng.uniform(-0.1, 0.8, len(names))
    pcc[2::3] = np.nan
    scores = {"pcc": pcc, "pcc_low": pcc - 0.1, "pcc_high": pcc + 0.1, "ceiling": 0.8}
    ood = np.where(place % 3 == 2, 1.5, 0.5) + rng.uniform(0, 0.3, spots)
    factors = {"tissue_hires_scalef": 0.2, "spot_diameter_fullres": 50.0}
    about = {
        "version": "1",
        "dataset": "tiny",
        "protocol": "strict",
        "method": "ridge",
        "run": "0123456789abcdef",
        "fits": "fold 0, fold 1",
        "preset": "-",
        "seed": 0,
        "target": '{"total": "spot", "genes": "all", "log": "ln"}',
        "min_pcc": 0.1,
        "notes": notes,
    }
    if um is not None:
        factors["microns_per_pixel"] = about["micrometres_per_pixel"] = um
    picture = rng.integers(150, 255, (20 * side, 20 * side, 3), dtype=np.uint8)
    return AnnData(
        X=rng.random((spots, len(names)), dtype=np.float32) * 3,
        obs=pd.DataFrame(
            {
                "array_row": place // side,
                "array_col": place % side,
                "in_tissue": 1,
                "ood_score": ood,
                "ood": ood > 1,
            },
            index=[f"spot-{n}" for n in place],
        ),
        var=pd.DataFrame(
            {
                **scores,
                "share_of_ceiling": pcc / 0.8,
                "sections": 6,
                "predictable": pcc >= 0.1,
                "folds": 2,
            },
            index=names,
        ),
        obsm={"spatial": np.stack([50 + 100.0 * (place % side), 50 + 100.0 * (place // side)], 1)},
        uns={
            "spatial": {name: {"images": {"hires": picture}, "scalefactors": factors}},
            "spotbench": about,
        },
    )
