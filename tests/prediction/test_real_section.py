"""A real section, predicted by the model that was trained on another patient."""

from __future__ import annotations

import anndata
import numpy as np
import pandas as pd
import pytest

import bench
from bench.data.dataset import open_dataset
from bench.registry import dataset_card


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ridge", "mclstexp"])
def test_b4_gets_what_the_run_trained_on_patient_c_stored(shared_folder, tmp_path, method):
    root = shared_folder / "data" / "her2st"
    section = open_dataset(dataset_card("her2st"), root, names=["B4"]).section("B4")
    settings = {"epochs": 1, "input_size": 32} if method == "mclstexp" else {}
    bench.run(
        *(method, "her2st"),
        preset="quick",
        settings=settings,
        folds=[0],
        device="cpu",
        data_root=root,
        results=tmp_path,
        tracking="none",
        oracles=False,
    )
    spots = pd.DataFrame(section.spatial, columns=["x", "y"], index=section.adata.obs_names)
    spots[["array_col", "array_row"]] = section.array_xy
    spots.to_csv(tmp_path / "B4.csv", index_label="barcode")
    assert section.image is not None
    adata = bench.predict(
        *(section.image, "her2st", method),
        spots=tmp_path / "B4.csv",
        um_per_px=section.micrometres_per_pixel,
        fold=0,
        device="cpu",
        data_root=root,
        results=tmp_path,
    )
    (path,) = tmp_path.glob(f"runs/her2st/strict/{method}-*/fold-0/predictions.h5ad")
    stored = anndata.read_h5ad(path)
    assert set(stored.obs["section"]) == {"B4"}
    assert [f"B4_{name}" for name in adata.obs_names] == list(stored.obs_names)
    assert list(adata.var_names) == list(stored.var_names)
    np.testing.assert_allclose(np.asarray(adata.X), stored.X, rtol=0, atol=1e-6)
    assert np.isfinite(adata.obs["ood_score"]).all()
