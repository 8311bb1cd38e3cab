"""What is advised where a protocol does not fit a dataset works for that dataset."""

import pytest

from bench.errors import BenchError
from bench.execute.division import divide
from bench.protocol.rules import find_protocol


@pytest.mark.parametrize(
    ("patients", "advice"),
    [
        (("P1", "P2"), "use protocol strict$"),
        (("P1", "P1"), "use protocol by-section$"),
        (("P1",), "--blocks of 'bench data add', then use by-section$"),
    ],
)
def test_the_way_out_fits_patients_and_sections(make_card, card_fields, patients, advice):
    (section,) = card_fields()["sections"]
    sections = [
        {**section, "name": f"S{number}", "patient": patient}
        for number, patient in enumerate(patients)
    ]
    with pytest.raises(BenchError, match=advice):
        divide(make_card(sections=sections), find_protocol("published"), None, images=False)
