"""The tests see nothing of the user who runs them."""

import os
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest

from bench.cache import cache_folder
from bench.data.folders import cards_folder
from tests.conftest import REPOSITORY


def test_cards_and_caches_are_of_this_run():
    assert not cards_folder().exists()
    assert cache_folder() != Path(platformdirs.user_cache_dir("spotbench"))
    outside = ("SPOTBENCH_RESULTS", "MLFLOW_TRACKING_URI", "RAY_ADDRESS")
    assert [name for name in outside if name in os.environ] == []


@pytest.mark.slow
def test_a_user_with_cards_and_variables_of_their_own_changes_nothing(tmp_path):
    cards = tmp_path / "spotbench" / "cards"
    cards.mkdir(parents=True)
    stnet = (REPOSITORY / "datasets" / "stnet.yaml").read_text(encoding="utf-8")
    (cards / "foreign.yaml").write_text(stnet.replace("name: stnet", "name: foreign", 1))
    (cards / "broken.yaml").write_text("name: [unclosed")
    user = {
        "XDG_DATA_HOME": str(tmp_path),
        "SPOTBENCH_DATA": str(cards.parent),
        "SPOTBENCH_CACHE": str(tmp_path / "cache"),
        "SPOTBENCH_RESULTS": str(tmp_path / "results"),
        "MLFLOW_TRACKING_URI": "http://127.0.0.1:9",
    }
    home = "tests/cli/data/test_adding.py::test_a_dataset_is_written_over_only_when_asked"
    chosen = ("tests/datasets/test_cards.py", home, __file__)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", *chosen],
        cwd=REPOSITORY,
        env={**os.environ, **user},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spotbench"]
