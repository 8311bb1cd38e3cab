"""Size of what Parquet files unpack to: one that repeats a long text takes few bytes on disk."""

from __future__ import annotations

from pathlib import Path
from typing import IO, TYPE_CHECKING

from bench.data.reading.parsing import MAX_BYTES
from bench.errors import DataError
from bench.files import one_line

if TYPE_CHECKING:
    import pyarrow as pa

_TEXT = ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY")


def check_unpacked_size(source: Path | IO[bytes], where: str, most_rows: int) -> None:
    """Refuse a file of too many rows, or of more than 2 GiB of numbers or of text.

    Parameters
    ----------
    source
        Path, or an open file.
    where
        File, for the message.
    most_rows
        Number of rows that is accepted.

    Raises
    ------
    DataError
        Such a file, a damaged one, or no Parquet file.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        facts = pq.read_metadata(source)
        groups = [facts.row_group(number) for number in range(facts.num_row_groups)]
        if facts.num_rows > most_rows:
            raise DataError(f"{where}: more than {most_rows:,} rows")
        size = sum(group.total_byte_size for group in groups)
        columns = [facts.schema.column(number) for number in range(facts.num_columns)]
        texts = [column.path for column in columns if column.physical_type in _TEXT]
        # As dictionaries, which hold a text once however often it occurs.
        file = pq.ParquetFile(source, read_dictionary=texts)
        for name in texts:
            for batch in file.iter_batches(columns=[name], use_threads=False):
                size += sum(_bytes_of(column) for column in batch.columns)
                if size > MAX_BYTES:
                    break
    except (pa.ArrowException, OSError, ValueError) as error:
        raise DataError(f"{where}: damaged, or no Parquet file ({one_line(error, 120)})") from error
    if size > MAX_BYTES:
        raise DataError(f"{where}: unpacks to more than {MAX_BYTES:,} bytes")


def _bytes_of(values: pa.Array) -> int:
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_dictionary(values.type):
        return int(values.nbytes)
    lengths = pc.binary_length(values.dictionary.cast(pa.large_binary()))
    return int(pc.sum(lengths.take(values.indices)).as_py() or 0)
