import pytest

from bench.data.aliases import Aliases, read_aliases
from bench.errors import DataError

HGNC = (
    "hgnc_id\tsymbol\tname\talias_symbol\tprev_symbol\n"
    'HGNC:1\tTLE5\tx\t"GRG|ESP1"\tAES\n'
    "HGNC:2\tFASN\tx\tFAS|ESP1\t\n"
    "HGNC:3\tFAS\tx\t\tAPT1\n"
    "HGNC:4\tNEW\tx\tOLD\t\n"
    "HGNC:5\tOTHER\tx\t\tOLD\n"
)


@pytest.fixture
def hgnc(tmp_path):
    path = tmp_path / "hgnc.txt"
    path.write_text(HGNC)
    return read_aliases(path)


def test_former_symbols_and_nicknames_become_the_approved_one(hgnc):
    assert hgnc.symbols["AES"] == "TLE5"
    assert hgnc.symbols["GRG"] == "TLE5"


def test_an_approved_symbol_is_never_taken_for_a_nickname(hgnc):
    assert "FAS" not in hgnc.symbols


def test_a_nickname_of_two_genes_says_nothing(hgnc):
    assert "ESP1" not in hgnc.symbols


def test_a_former_symbol_outranks_a_nickname(hgnc):
    assert hgnc.symbols["OLD"] == "OTHER"


def test_renaming_keeps_the_order_and_counts(hgnc):
    assert hgnc.rename(["APT1", "ACTB", "AES"]) == (("FAS", "ACTB", "TLE5"), 2)


@pytest.mark.parametrize("genes", [["AES", "TLE5"], ["AES", "GRG"]])
def test_no_two_genes_get_one_name(hgnc, genes):
    assert hgnc.rename(genes) == (tuple(genes), 0)


def test_a_table_of_two_columns_is_read_and_hashed(tmp_path):
    path = tmp_path / "mine.tsv"
    path.write_text("alias\tsymbol\nA\tB\n")
    found = read_aliases(path)
    assert found == Aliases({"A": "B"}, found.sha256)
    assert len(found.sha256) == 64


@pytest.mark.parametrize("content", ["", "alias\tsymbol\n", "a\tb\n1\t2\n", "alias,symbol\nA,B\n"])
def test_a_file_that_says_nothing_is_refused(tmp_path, content):
    path = tmp_path / "mine.tsv"
    path.write_text(content)
    with pytest.raises(DataError, match=r"mine\.tsv") as caught:
        read_aliases(path)
    assert "\n" not in str(caught.value)
