"""Estimators of scikit-learn come back from a file, and nothing else does."""

import json
import os
import zipfile

import joblib
import numpy as np
import pytest
import skops.io
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF
from sklearn.linear_model import Ridge
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from bench.api import DataError, load_estimator, save_estimator
from bench.contract.storage import pickle_in

X, Y = np.random.default_rng(0).random((2, 40, 4))


@pytest.mark.parametrize(
    "estimator",
    [
        make_pipeline(StandardScaler(), PCA(2), Ridge()),
        RandomForestRegressor(3, random_state=0),
        MultiOutputRegressor(HistGradientBoostingRegressor(max_iter=3)),
        KNeighborsRegressor(),
        KNeighborsRegressor(algorithm="ball_tree", metric="manhattan"),
        GaussianProcessRegressor(2.0 * RBF()),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_it_predicts_the_same_bits(estimator, tmp_path):
    estimator.fit(X, Y)
    save_estimator(estimator, tmp_path / "a.skops")
    assert pickle_in((tmp_path / "a.skops").read_bytes()) is None
    found = load_estimator(tmp_path / "a.skops").predict(X)
    np.testing.assert_array_equal(found, estimator.predict(X))


def own_function(values):
    return values


def test_a_function_of_the_users_own_is_refused_when_it_is_saved(tmp_path):
    with pytest.raises(DataError, match=r"Pipeline: holds .*own_function.*numpy\.savez"):
        save_estimator(make_pipeline(FunctionTransformer(own_function)), tmp_path / "a.skops")
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_names_another_type_is_refused_and_not_executed(tmp_path):
    path = tmp_path / "a.skops"
    path.write_bytes(skops.io.dumps(FunctionTransformer(own_function)))
    with zipfile.ZipFile(path) as archive:
        text = archive.read("schema.json").decode()
    hostile = text.replace(own_function.__module__, "os").replace("own_function", "system")
    assert json.loads(hostile)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("schema.json", hostile)
    with pytest.raises(DataError, match="no trusted type"):
        load_estimator(path)
    assert callable(os.system)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"text", bytes(range(256))], ids=range(4))
def test_a_damaged_file_is_one_line(tmp_path, content):
    path = tmp_path / "a.skops"
    path.write_bytes(content)
    with pytest.raises(DataError) as refused:
        load_estimator(path)
    assert str(path) in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_pickle_and_a_missing_file_are_refused(tmp_path):
    joblib.dump(Ridge().fit(X, Y), tmp_path / "a.skops")
    with pytest.raises(DataError, match="no skops file"):
        load_estimator(tmp_path / "a.skops")
    with pytest.raises(DataError, match="there is no such file"):
        load_estimator(tmp_path / "b.skops")
