"""A section: one tissue slice as AnnData with raw counts, and its image left on disk."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp
from PIL import Image

from bench.cache import Cache
from bench.data.card import DatasetCard, SectionCard, join_names
from bench.data.features import LEFT_OUT
from bench.data.images.image import image_size
from bench.data.images.raster import check_pixels
from bench.data.images.tiff import write_tiles
from bench.data.layouts import load_reader, read_files, reader_hash
from bench.data.pitch import spot_pitch
from bench.errors import DataError
from bench.files import canonical_hash, file_hash

if TYPE_CHECKING:
    import pandas as pd
    from anndata import AnnData

OUTSIDE_LIMIT = 0.01
"""Share of a section's spots that may lie outside its image before the section is refused."""

PATCH_ROW = "patch_row"
"""Column of ``obs`` in which a reader gives the row of each spot in the file of stored patches."""

FEWEST_SPOTS = 3
"""Spots below which no correlation over a section is defined."""


@dataclass(frozen=True)
class Section:
    """One tissue section of one patient.

    Attributes
    ----------
    name, patient
        As in the dataset's card.
    adata
        Raw counts in ``X`` (CSR, spots x genes); ``obs`` with ``array_row``, ``array_col``,
        ``in_tissue``, ``label``; ``obsm["spatial"]`` as full-resolution pixel (x, y);
        ``uns["spatial"]`` in the form that scanpy and squidpy read.
    image
        Image file, or None where there is none.
    image_hash
        Hash of the image file as ``algorithm:hex``.
    max_image_pixels
        Largest image, in pixels, that the dataset's card allows to be opened.
    micrometres_per_pixel
        Scale of the image.
    patch_pixels
        Edge of a patch that the card recommends.
    image_scale
        Pixels of the image file a full-resolution pixel.
    dropped_spots
        Spots left out because their centre lies outside the image.
    left_out
        What the reader left out: number by reason, such as ``spots out of tissue``; of a block, of
        the whole section.
    block_of
        Identifier that all blocks of one divided section share; None where it is not divided.
    patches, patches_hash
        File of stored patches and its hash, in place of an image; None where there is none.
    """

    name: str
    patient: str
    adata: AnnData
    image: Path | None
    image_hash: str | None
    max_image_pixels: int
    micrometres_per_pixel: float
    patch_pixels: int
    image_scale: float = 1.0
    dropped_spots: int = 0
    left_out: Mapping[str, int] = field(default_factory=dict)
    block_of: str | None = None
    patches: Path | None = None
    patches_hash: str | None = None

    @property
    def spatial(self) -> np.ndarray:
        """(spots, 2) float64 full-resolution pixel (x, y) of the spot centres."""
        return np.array(self.adata.obsm["spatial"], dtype=np.float64)

    @property
    def array_xy(self) -> np.ndarray:
        """(spots, 2) int64 array coordinates (column, row), that is (x, y)."""
        return self.adata.obs[["array_col", "array_row"]].to_numpy(dtype=np.int64)

    @property
    def patch_rows(self) -> np.ndarray:
        """(spots,) int64 row of each spot in the file of stored patches."""
        return self.adata.obs[PATCH_ROW].to_numpy(dtype=np.int64)


def load_section(
    card: DatasetCard, section: SectionCard, root: Path, hashes: Mapping[str, str]
) -> Section:
    """Read one section whose files have been verified.

    The parsed counts are kept in the cache under the hashes of the files and of the reader's
    source, so that a changed file or reader is read again.

    Parameters
    ----------
    card, section
        The dataset's card and the section in it.
    root
        Data folder that the paths of the card are relative to.
    hashes
        Hash of each usable file by role, as :meth:`~bench.data.card.FileCard.verify` gave it.
        A role that is not in it is treated as absent.
    """
    files = {role: root / section.files[role].path for role in hashes}
    parsed = {role: value for role, value in hashes.items() if role != "image"}
    settings = [section.settings] if section.settings else []
    key = canonical_hash([parsed, reader_hash(card.layout), *settings])
    label = f"{card.name}-{section.name}"
    adata = _PARSED.get(key, label)
    if adata is None:
        adata = parse_section(card, section, files)
        with _PARSED.new_entry(key, label) as temporary:
            adata.write_h5ad(temporary)
    left_out = {str(reason): int(n) for reason, n in adata.uns.pop(LEFT_OUT, {}).items()}

    # Before spots are dropped: blocks are the same with and without the image.
    block = block_names(adata, section)
    image, image_hash = _image_file(card, section, files.get("image"), hashes.get("image"))
    dropped = 0
    if image is not None:
        width, height = image_size(image, card.max_image_pixels)
        extent = (width / section.image_scale, height / section.image_scale)
        adata, dropped = drop_outside(adata, *extent, f"section {section.name}", image)
        check_enough_spots(adata, f"section {section.name}, inside its image")
    scale = card.scale(section) or _measured_scale(adata, card)
    if section.block is not None:
        adata = adata[adata.obs_names.isin(block)].copy()
        dropped = len(block) - adata.n_obs
        check_enough_spots(adata, f"section {section.name}, inside its image")
    adata.uns["spatial"] = {
        section.name: {
            "images": {},
            "scalefactors": {
                "spot_diameter_fullres": card.spot_diameter_micrometres / scale,
                "tissue_hires_scalef": 1.0,
            },
            "metadata": {"source_image_path": str(image) if image else ""},
        }
    }
    return Section(
        name=section.name,
        patient=section.patient,
        adata=adata,
        image=image,
        image_hash=image_hash,
        max_image_pixels=card.max_image_pixels,
        micrometres_per_pixel=scale,
        patch_pixels=card.patch_pixels,
        image_scale=section.image_scale,
        dropped_spots=dropped,
        left_out=left_out,
        block_of=section.block_of(hashes),
        patches=files.get("patches"),
        patches_hash=hashes.get("patches"),
    )


def block_spots(spatial: np.ndarray, number: int, of: int) -> np.ndarray:
    """Indices of the spots in one block of a section, in ascending order.

    Blocks are stripes of equal numbers of spots along the longer axis of the spots' extent, along x
    where the extents are equal. Where the numbers cannot be equal, the first blocks have one spot
    more. Spots at the same coordinate are divided in their order.

    Parameters
    ----------
    spatial
        (spots, 2) pixel (x, y).
    number, of
        Number of the block, from 1, and number of blocks.
    """
    width, height = np.ptp(spatial, axis=0)
    order = np.argsort(spatial[:, int(height > width)], kind="stable")
    return np.sort(np.array_split(order, of)[number - 1])


def block_names(adata: AnnData, section: SectionCard) -> pd.Index:
    """Names of the spots that a section of the card consists of: all, or those of its block.

    Raises
    ------
    DataError
        Too few spots for so many blocks.
    """
    if section.block is None:
        return adata.obs_names
    number, of = section.block
    if adata.n_obs < of * FEWEST_SPOTS:
        raise DataError(
            f"section {section.name}: {adata.n_obs} spots cannot be divided into {of} blocks of at"
            f" least {FEWEST_SPOTS} spots; choose fewer blocks"
        )
    spatial = np.asarray(adata.obsm["spatial"], dtype=np.float64)
    return adata.obs_names[block_spots(spatial, number, of)]


def _image_file(
    card: DatasetCard, section: SectionCard, image: Path | None, image_hash: str | None
) -> tuple[Path | None, str | None]:
    """Image file of a section and its hash.

    An image inside an HDF5 file or a Zarr store is copied to the cache.
    """
    if image is None or not (image.is_dir() or _is_hdf5(image)):
        return image, image_hash
    reader = load_reader(card.layout)
    if not hasattr(reader, "embedded_image"):
        kind = "Zarr stores" if image.is_dir() else "HDF5 files"
        raise DataError(f"{image}: layout '{card.layout}' has no images inside {kind}")
    takes = inspect.signature(reader.embedded_image).parameters
    chosen = {n: value for n, value in section.settings.items() if n in takes}
    key = canonical_hash([image_hash, chosen, reader_hash(card.layout)])
    # Of a store it may be a whole slide, whose regions are read from tiles.
    cache = _EXTRACTED if image.is_dir() else _EMBEDDED
    if not cache.path(key).is_file():
        held = reader.embedded_image(image, **chosen)
        if held is None:
            raise DataError(f"{image}: holds no image for section {section.name}")
        height, width = held[0].shape[:2]
        check_pixels(image, width, height, card.max_image_pixels)
        with cache.new_entry(key) as temporary:
            if image.is_dir():
                write_tiles(temporary, held[0])
            else:
                Image.fromarray(held[0]).save(temporary, format="PNG")
    return cache.path(key), f"sha256:{file_hash(cache.path(key))}"


def _is_hdf5(path: Path) -> bool:
    with open(path, "rb") as stream:
        return stream.read(len(_HDF5_MAGIC)) == _HDF5_MAGIC


_HDF5_MAGIC = b"\x89HDF\r\n\x1a\n"
_EMBEDDED = Cache("images", ".png", lambda path: path)
_EXTRACTED = Cache("images", ".tif", lambda path: path)


def parse_section(card: DatasetCard, section: SectionCard, files: Mapping[str, Path]) -> AnnData:
    """Read the tables of a section with the reader of its card's layout.

    Parameters
    ----------
    card, section
        The dataset's card and the section in it.
    files
        Path of each usable file by role.

    Raises
    ------
    DataError
        The layout's reader cannot be used, the card does not name the files it needs, or they
        hold no section.
    UnknownNameError
        There is no such layout.
    """
    unnamed = [role for role in load_reader(card.layout).ROLES if role not in section.files]
    if unnamed:
        raise DataError(
            f"card {card.name}: section {section.name} names no {join_names(unnamed)} file, which"
            f" layout '{card.layout}' needs"
        )
    adata = read_files(card.layout, files, section.settings)
    check_section(adata, str(files["counts"]))
    if "patches" in section.files and PATCH_ROW not in adata.obs:
        raise DataError(f"{files['counts']}: the reader gives no obs column {PATCH_ROW}")
    return adata


def _measured_scale(adata: AnnData, card: DatasetCard) -> float:
    assert card.spot_pitch_micrometres is not None  # a card names one or the other
    array_xy = adata.obs[["array_col", "array_row"]].to_numpy()
    return card.spot_pitch_micrometres / spot_pitch(array_xy, np.asarray(adata.obsm["spatial"]))


def _read_h5ad(path: Path) -> AnnData:
    import anndata

    return anndata.read_h5ad(path)


_PARSED = Cache("sections", ".h5ad", _read_h5ad, checked=True)
"""Parsed sections by the hashes of their files and of the reader's source."""


def check_section(adata: AnnData, where: str) -> None:
    """Refuse a section that cannot be a measurement, or that its reader left incomplete.

    Raises
    ------
    DataError
        Too few spots, no gene or no count at all; counts that are negative, fractional or not
        finite; duplicate spots or genes; coordinates that are missing or not finite.
    """
    if adata.n_obs == 0 or adata.n_vars == 0:
        raise DataError(f"{where}: empty, {adata.n_obs} spots x {adata.n_vars} genes")
    check_enough_spots(adata, where)
    _check_fields(adata, where)
    counts = adata.X
    if not sp.issparse(counts):
        raise DataError(f"{where}: the reader must give counts as a CSR matrix")
    values = counts.data
    if values.size and not np.isfinite(values).all():
        raise DataError(f"{where}: counts are not finite")
    if values.size and values.min() < 0:
        raise DataError(f"{where}: counts are negative")
    if values.size and np.any(values != np.rint(values)):
        raise DataError(f"{where}: counts are fractional; raw counts are needed")
    if values.sum() == 0:
        raise DataError(f"{where}: every count is zero")
    for kind, names in (("gene", adata.var_names), ("spot", adata.obs_names)):
        if not names.is_unique:
            twice = names[names.duplicated()][0]
            raise DataError(f"{where}: {kind} '{twice}' occurs more than once")
    if not np.isfinite(adata.obsm["spatial"]).all():
        raise DataError(f"{where}: a spot's pixel coordinates are not finite")


def _check_fields(adata: AnnData, where: str) -> None:
    absent = [name for name in ("array_row", "array_col", "label") if name not in adata.obs]
    if absent:
        raise DataError(f"{where}: the reader gives no obs column {join_names(absent)}")
    for name in ("array_row", "array_col"):
        if adata.obs[name].dtype.kind not in "iu":
            raise DataError(f"{where}: the reader must give integers as {name}")
    shape = np.shape(adata.obsm["spatial"]) if "spatial" in adata.obsm else ()
    if shape != (adata.n_obs, 2):
        raise DataError(
            f"{where}: the reader must give obsm['spatial'] as (spots, 2) pixels (x, y)"
        )


def check_enough_spots(adata: AnnData, where: str) -> None:
    """Refuse a section on which no correlation is defined.

    Raises
    ------
    DataError
        Fewer than three spots.
    """
    if adata.n_obs < FEWEST_SPOTS:
        raise DataError(
            f"{where}: {adata.n_obs} spots, but a correlation over a section needs at least"
            f" {FEWEST_SPOTS}"
        )


def drop_outside(
    adata: AnnData, width: float, height: float, where: str, image: Path
) -> tuple[AnnData, int]:
    """Leave out spots whose centre lies outside the image.

    Returns
    -------
    tuple of AnnData and int
        The section without them, and their number.

    Raises
    ------
    DataError
        More than 1 % of the spots lie outside: image and coordinates do not belong together.
    """
    x, y = np.asarray(adata.obsm["spatial"], dtype=np.float64).T
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height)
    outside = int((~inside).sum())
    if outside == 0:
        return adata, 0
    if outside > OUTSIDE_LIMIT * adata.n_obs:
        raise DataError(
            f"{where}: {outside} of {adata.n_obs} spots lie outside the image {image}"
            f" ({width:.0f} x {height:.0f} px); image and spot file do not belong together"
        )
    return adata[inside].copy(), outside
