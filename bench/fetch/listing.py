"""List of a server's files with their hashes, as Mendeley Data gives it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from bench.fetch.download import Downloader, Source


class _Answer(BaseModel):
    model_config = ConfigDict(strict=True, frozen=True)


class _Details(_Answer):
    sha256_hash: Annotated[str, Field(pattern=r"^[0-9a-fA-F]{64}$")]
    size: Annotated[int, Field(ge=0)] | None = None
    download_url: Annotated[str, Field(pattern=r"^https?://", max_length=4000)]


class _Listed(_Answer):
    filename: Annotated[str, Field(min_length=1, max_length=1000)]
    size: Annotated[int, Field(ge=0)] | None = None
    content_details: _Details


class _Listing(_Answer):
    files: list[_Listed]


_LISTING: TypeAdapter[list[_Listed] | _Listing] = TypeAdapter(list[_Listed] | _Listing)


def read_listing(downloader: Downloader, url: str) -> dict[str, list[Source]]:
    """Files of a server's list by name; several files may share a name.

    Parameters
    ----------
    downloader
        Fetches the list.
    url
        Address of JSON as Mendeley Data gives it: a list of ``filename`` and ``content_details``
        (``sha256_hash``, ``size``, ``download_url``), bare or under ``files``.

    Raises
    ------
    DataError
        The list cannot be downloaded, or has another form.
    """
    answer = downloader.read(url, _LISTING.validate_json)
    by_name: dict[str, list[Source]] = {}
    for item in answer if isinstance(answer, list) else answer.files:
        details = item.content_details
        size = item.size if details.size is None else details.size
        source = Source(details.download_url, details.sha256_hash.lower(), size)
        if source not in by_name.setdefault(item.filename, []):
            by_name[item.filename].append(source)
    return by_name
