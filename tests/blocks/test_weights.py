"""Weight files that hold something else than the plain numbers of a network."""

import io
import zipfile

import pytest
import torch

from bench.blocks.weights import read_tensors
from bench.errors import DataError

SIDE = 10**9
UNUSUAL = {
    "sparse": lambda: torch.eye(2, 3).to_sparse(),
    "absurdly large sparse": lambda: torch.sparse_coo_tensor(
        torch.zeros(2, 1).long(), torch.ones(1), (SIDE, SIDE), check_invariants=True
    ),
    "sparse by rows": lambda: torch.eye(2, 3).to_sparse_csr(),
    "complex": lambda: torch.ones(2, 3) * 1j,
    "without values": lambda: torch.empty(2, 3, device="meta"),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2, 3), 0.1, 0, torch.qint8),
    "expanded": lambda: torch.ones(1).expand(10**6, 10**6),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", UNUSUAL)
def test_a_tensor_that_is_not_plain_is_refused_in_a_line(tmp_path, kind):
    path = tmp_path / "a.pt"
    torch.save({"bias": torch.ones(2), "weight": UNUSUAL[kind]()}, path)
    with pytest.raises(DataError, match=r"a\.pt: tensor 'weight' (is|has) ") as refusal:
        read_tensors(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64, torch.int64])
def test_other_types_of_numbers_are_read(tmp_path, kind):
    torch.save({"weight": torch.ones(2, 3, dtype=kind)}, tmp_path / "a.pt")
    assert read_tensors(tmp_path / "a.pt")["weight"].dtype == kind


def test_a_compressed_file_is_refused_before_it_is_unpacked(tmp_path):
    stream = io.BytesIO()
    torch.save({"weight": torch.zeros(1_000_000)}, stream)
    plain, packed = tmp_path / "plain.pt", tmp_path / "packed.pt"
    plain.write_bytes(stream.getvalue())
    with (
        zipfile.ZipFile(plain) as source,
        zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for member in source.infolist():
            target.writestr(member.filename, source.read(member))
    assert packed.stat().st_size < plain.stat().st_size / 100
    assert len(read_tensors(plain)["weight"]) == 1_000_000
    with pytest.raises(DataError, match="compressed, which torch never writes"):
        read_tensors(packed)
