"""Protocols from YAML files."""

import pytest

from bench.errors import BenchError
from bench.protocol.rules import find_protocol


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("- 1", "must be a mapping of fields"),
        ("", "must be a mapping of fields"),
        ("name: mine\nversion: 1\nname: other\n", "key 'name' appears twice, in lines 1 and 3"),
        ("{name: mine, version: 1, title: t, split: patient, heg_genes: 0}", "heg_genes"),
        ("{name: mine, version: 1, title: t, split: patient, splitt: x}", "splitt"),
        ("{name: strict, version: 1, title: t, split: patient}", "taken by a built-in protocol"),
    ],
)
def test_a_file_that_is_no_protocol_is_refused_in_one_line(tmp_path, content, words):
    path = tmp_path / "mine.yaml"
    path.write_text(content)
    with pytest.raises(BenchError) as refused:
        find_protocol(str(path))
    assert words in str(refused.value)
    assert "mine.yaml" in str(refused.value)
    assert str(refused.value).isprintable()
