"""Which features are genes, and what is left out."""

import numpy as np
import pytest

from bench.data.features import expressed_genes, genomes_of, is_control_probe
from bench.errors import DataError


@pytest.mark.parametrize(
    ("name", "control"),
    [
        *(("BLANK_0012", True), ("NegControlProbe_00042", True), ("NegControlCodeword_0500", True)),
        *(("antisense_ADCY4", True), ("UnassignedCodeword_0001", True), ("DEPRECATED_A1", True)),
        *(("FalseCode1", True), ("Negative12", True), ("NegPrb3", True), ("Blank-7", True)),
        *(("BLANKET1", False), ("NEGR1", False), ("ACTB", False), ("INTS6", False)),
    ],
)
def test_control_probes_are_known_by_their_names(name, control):
    assert is_control_probe(name) is control


def test_other_features_are_left_out_by_reason():
    names = ["ACTB", "CD3", "BLANK_1", "CD3E"]
    types = ["Gene Expression", "Antibody Capture", "Gene Expression", "Gene Expression"]
    kept, symbols, left_out = expressed_genes(names, types, "file")
    np.testing.assert_array_equal(kept, [0, 3])
    assert symbols == ["ACTB", "CD3E"]
    assert left_out == {"features of type 'Antibody Capture'": 1, "control probes": 1}


def test_one_genome_is_kept_without_its_prefix():
    names = ["GRCh38__ACTB", "mm10__Actb", "GRCh38__CD74"]
    assert genomes_of(names) == {"GRCh38": 2, "mm10": 1}
    kept, symbols, left_out = expressed_genes(names, None, "file", genome="GRCh38")
    assert (kept.tolist(), symbols) == ([0, 2], ["ACTB", "CD74"])
    assert left_out == {"genes of another genome": 1}
    with pytest.raises(DataError, match="GRCh38 and mm10"):
        expressed_genes(names, None, "file", genome="hg19")


def test_prefixes_of_one_length_are_genomes_as_cell_ranger_writes_them():
    names = ["GRCh38_ACTB", "mm10___Actb", "GRCh38_HLA_A"]
    assert genomes_of(names) == {"GRCh38": 2, "mm10": 1}
    assert expressed_genes(names, None, "file", genome="mm10")[1] == ["Actb"]
    assert expressed_genes(names, None, "file", genome="GRCh38")[1] == ["ACTB", "HLA_A"]


@pytest.mark.parametrize("names", [["HLA_A", "HLA_B"], ["HLA_A", "CD_4"], ["a_1", "b_1", "C1"]])
def test_underscores_in_symbols_make_no_genome(names):
    assert genomes_of(names) == {}


def test_a_file_without_genes_is_refused():
    with pytest.raises(DataError, match="Gene Expression"):
        expressed_genes(["CD3"], ["Antibody Capture"], "file")
