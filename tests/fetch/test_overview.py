"""A dataset of many sections is looked over in the memory of a few."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from bench.data.card import DatasetCard
from bench.protocol.folds import SectionFacts, make_folds
from bench.protocol.rules import STRICT

PROGRAM = """
import sys, time
from pathlib import Path
from bench.data.dataset import open_dataset
from bench.fetch.overview import summarize
from bench.execute.division import section_facts
from bench.protocol.folds import make_folds
from bench.protocol.rules import STRICT
from bench.registry import dataset_card
import pandas, anndata, scipy.sparse, pyarrow.csv
def peak():
    # Not getrusage, which counts what the parent held before this program began.
    line = next(l for l in open("/proc/self/status") if l.startswith("VmHWM"))
    return int(line.split()[1])


before = peak()
card = dataset_card(sys.argv[1])
start = time.perf_counter()
found = list(summarize(card, Path(sys.argv[2])))
assert all(section.spots == 400 and not section.problem for section in found), found[0]
looked = time.perf_counter() - start
dataset = open_dataset(card, Path(sys.argv[2]), images=False)
folds = make_folds(card.name, section_facts(dataset, STRICT), STRICT)
assert len(folds.folds) == 8
used = peak() - before
print(len(found), round(looked, 2), round(time.perf_counter() - start - looked, 2), used // 1024)
"""
SPOTS, GENES = 400, 300


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Cards of few and of many sections, whose files are all the same bytes."""
    folder = tmp_path_factory.mktemp("many")
    rng = np.random.default_rng(0)
    counts = rng.poisson(2, (SPOTS, GENES))
    x, y = np.divmod(np.arange(SPOTS), 20)
    names = [f"{a}x{b}" for a, b in zip(x, y, strict=True)]
    lines = ["\t" + "\t".join(f"G{gene}" for gene in range(GENES))]
    lines += ["\t".join([n, *map(str, row)]) for n, row in zip(names, counts, strict=True)]
    table = "\n".join(lines) + "\n"
    spots = "x\ty\tpixel_x\tpixel_y\n" + "".join(
        f"{a}\t{b}\t{a * 50}\t{b * 50}\n" for a, b in zip(x, y, strict=True)
    )
    cards = {}
    for number in (12, 60):
        sections = []
        for section in range(number):
            name = f"S{section}"
            (folder / f"{name}.tsv").write_text(table)
            (folder / f"{name}_spots.tsv").write_text(spots)
            files = {"counts": {"path": f"{name}.tsv"}, "spots": {"path": f"{name}_spots.tsv"}}
            patient = f"P{section % 12}"
            sections.append({"name": name, "patient": patient, "files": files})
        card = DatasetCard.model_validate(
            {
                **dict.fromkeys(("title", "citation", "licence", "platform", "tissue"), "t"),
                "name": "many",
                "source": "t",
                "layout": "legacy_st",
                "patch_pixels": 32,
                "micrometres_per_pixel": 1,
                "spot_diameter_micrometres": 50,
                "max_image_pixels": 1000,
                "sections": sections,
            }
        )
        cards[number] = folder / f"{number}.yaml"
        cards[number].write_text(card.model_dump_json())
    return folder, cards


def measured(folder, card, cache):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(card), str(folder)],
        capture_output=True,
        text=True,
        check=False,
        env={"SPOTBENCH_CACHE": str(cache), "PATH": "/usr/bin", "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-800:]
    return [float(value) for value in done.stdout.split()]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_sections(many, tmp_path):
    folder, cards = many
    _, _, _, few = measured(folder, cards[12], tmp_path / "a")
    number, _, _, more = measured(folder, cards[60], tmp_path / "b")
    assert number == 60
    dense = SPOTS * GENES * 4 / 2**20
    # So many more sections would be ten times this if they were kept.
    assert more - few < 12 * dense


def test_folds_of_many_sections_are_made_at_once():
    facts = [SectionFacts(f"S{i}", f"P{i % 120}", 4000, f"sha256:{i:064x}") for i in range(500)]
    folds = make_folds("many", facts, STRICT)
    assert sorted(name for fold in folds.folds for name in fold.test) == sorted(
        f.name for f in facts
    )
