"""On a test section, the model of a fold predicts what its run stored."""

from __future__ import annotations

import numpy as np
import pytest

from bench.prediction.predicting import PredictionRequest, predict_image
from tests.prediction.conftest import IMAGE_METHODS


@pytest.mark.parametrize("method", IMAGE_METHODS)
def test_a_test_section_gets_the_stored_predictions(predicted, method, tmp_path):
    result = predicted.run([method], folds=[0])
    assert not result.failures, result.failures[0].reason
    (run,) = result.runs
    fold = run.folder.fold(0)
    section = fold.facts()["test"][0]
    predicted.spots(section, tmp_path / "spots.csv")
    adata = predict_image(
        PredictionRequest(
            dataset=str(predicted.dataset.card),
            method=method,
            image=predicted.image(section),
            spots=tmp_path / "spots.csv",
            um_per_px=predicted.scale(section),
            fold=0,
            results=predicted.results,
            data_root=predicted.dataset.root,
            device="cpu",
        )
    )
    stored = predicted.stored(fold.path, section)
    assert list(adata.obs_names) == list(stored.index)
    assert list(adata.var_names) == list(stored.columns)
    np.testing.assert_allclose(np.asarray(adata.X), stored.to_numpy(), rtol=0, atol=1e-6)


def test_every_built_in_method_on_images_is_among_them():
    assert {"ridge", "mclstexp", "stnet", "histogene"} <= set(IMAGE_METHODS)
    assert not {"mean", "coordinates"} & set(IMAGE_METHODS)
