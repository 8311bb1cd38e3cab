"""The embedded demo dataset: six simulated sections whose right answers are known.

Three patients with two neighbouring sections each, on a legacy Spatial Transcriptomics array.
A map of cell types is drawn first; the H&E image and the counts are both made from it. Hence

- the image tells the expression, in every patient;
- the coordinates tell it within a patient (the two sections share 85 % of the variance of their
  layout) and not across patients (their layouts are made uncorrelated);
- the part of a spot's depth that does not follow from its cells is in no image.

Nothing here is measured: the demo is for trying the benchmark, never for ranking methods.
"""

from __future__ import annotations

import gzip
import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d
from scipy.special import log_softmax, ndtr

from bench.readers import atomic_write

__all__ = [
    *("CELL_TYPES", "GENES", "SimulatedSection", "StainColours"),
    *("generate", "simulate", "simulate_patients", "write"),
]

FloatArray = NDArray[np.floating]
IntArray = NDArray[np.integer]

CELL_TYPES: tuple[str, ...] = ("tumour", "stroma", "immune", "adipose", "duct")
TUMOUR, STROMA, IMMUNE, ADIPOSE, DUCT = range(len(CELL_TYPES))

# Prefix of a gene's name -> how many; in the order of CELL_TYPES, then the ubiquitous genes.
GENE_FAMILIES: Mapping[str, int] = MappingProxyType(
    {"TUM": 56, "STR": 48, "IMM": 48, "ADI": 32, "DUC": 32, "HK": 24}
)
GENES: tuple[str, ...] = tuple(
    f"{prefix}{number:0{5 - len(prefix)}d}"
    for prefix, size in GENE_FAMILIES.items()
    for number in range(1, size + 1)
)

PATIENTS = ("P1", "P2", "P3")
SECTIONS = ("a", "b")
SECTION_CORRELATION = 0.85  # of the layouts of two neighbouring sections

SIDE = 1500  # pixels of an image, both ways
STEP = 2  # image pixels per pixel of the cell type map
COARSE_STEP = 10  # image pixels per node of the layout fields, which are smooth
LAYOUT_SCALE = 105.0  # sd of the kernel that smooths the layout fields, image pixels
GRAIN_SCALE = 9.0  # the same for the mosaic of cell types within a region
LAYOUT_GAIN = 2.6  # how sharply one cell type replaces another

GRID = 14  # spots along a side of the array before the tissue outline
FIRST = 5  # array coordinate of the first row and column
PITCH = 100.0  # image pixels between spots
SPOT_RADIUS = 32.0  # image pixels
JITTER = 1.2  # sd of a spot's displacement from the grid, image pixels

MEAN_DEPTH = 2500.0  # counts per spot
DEPTH_NOISE = 0.2  # sd of log depth that is not in the image
PATIENT_NOISE = 0.25  # sd of a patient's log effect on a gene
DISPERSION = 0.15  # negative binomial: variance = mean + DISPERSION * mean**2
# Nuclei per area relative to tumour, in the order of CELL_TYPES; the images are drawn alike.
CELLULARITY = np.array([1.0, 0.5, 1.4, 0.25, 0.8])
TYPICAL_CELLULARITY = 0.77

VACUOLE_SPACING = 32.0
DUCT_SPACING = 52.0
HAEMATOXYLIN = np.array([0.5626, 0.7201, 0.4062])  # Macenko et al. 2009, reference stains
EOSIN = np.array([0.2159, 0.8012, 0.5581])
GLASS = np.array([244.0, 243.0, 245.0])  # RGB of the slide without tissue


@dataclass(frozen=True)
class StainColours:
    """Colours and amounts of the two stains of a laboratory, before those of a patient.

    Attributes
    ----------
    haematoxylin, eosin : (3,) optical density in red, green and blue of one unit
    amounts : (2,) factors of the concentrations of haematoxylin and eosin
    """

    haematoxylin: FloatArray
    eosin: FloatArray
    amounts: tuple[float, float] = (1.0, 1.0)


STAIN = StainColours(HAEMATOXYLIN, EOSIN)


@dataclass(frozen=True)
class SimulatedSection:
    """One section and everything that is known about it.

    Attributes
    ----------
    name, patient : for example "P1a" of "P1"
    image : (height, width, 3) uint8, RGB
    array_xy : (spots, 2) int, column and row on the array
    pixel_xy : (spots, 2) float, spot centres in pixels of `image`, x to the right, y down
    counts : (spots, genes) int, Poisson draws of `rate`; genes in the order of `GENES`
    expectation : (spots, genes) float, the mean of `rate`, depth included: what the cells tell
    rate : (spots, genes) float, `expectation` times each gene's own variation from spot to spot
    labels : (spots,) str, the most abundant of `CELL_TYPES`
    """

    name: str
    patient: str
    image: NDArray[np.uint8]
    array_xy: NDArray[np.int64]
    pixel_xy: NDArray[np.float64]
    counts: NDArray[np.int64]
    expectation: NDArray[np.float64]
    rate: NDArray[np.float64]
    labels: NDArray[np.str_]


@dataclass(frozen=True)
class _Nuclei:
    """Nuclei to be drawn: centres and, for each, semi-axes, angle and darkness."""

    xy: FloatArray
    long: FloatArray
    short: FloatArray
    angle: FloatArray
    darkness: FloatArray


@dataclass(frozen=True)
class _Tissue:
    """What lies where in one section; maps are (SIDE / STEP) squared unless said otherwise."""

    cell_type: IntArray
    inside: FloatArray  # 1 in the tissue, 0 on bare glass, a soft edge between
    wall_gap: FloatArray  # twice the image pixels to the nearest border of two vacuoles, about
    vacuole_distance: FloatArray  # image pixels from the centre of the vacuole
    duct_radius: FloatArray  # (SIDE, SIDE): 0 at the centre of a duct, 1 at its outer edge
    duct_nuclei: _Nuclei


def simulate(seed: int = 0) -> list[SimulatedSection]:
    """All six sections, in the order P1a, P1b, P2a, ...; the same arrays for the same seed.

    Raises
    ------
    ValueError
        the seed is negative
    """
    if seed < 0:
        raise ValueError(f"seed {seed} is negative: give 0 or more")
    return simulate_patients(seed, PATIENTS, SECTIONS)


def simulate_patients(
    seed: int,
    patients: Sequence[str],
    letters: Sequence[str],
    *,
    programs_seed: int | None = None,
    stain: StainColours = STAIN,
) -> list[SimulatedSection]:
    """Sections of patients, each with a section for every letter.

    Parameters
    ----------
    seed
        Seed of tissue, counts and images.
    patients, letters
        Names of the patients, and of the sections after that of their patient.
    programs_seed
        Seed of the expression of the cell types, equal in data of one biology; `seed` where None.
    stain
        Stain of the laboratory.
    """
    programs = _gene_programs(seed if programs_seed is None else programs_seed)
    layouts = _patient_layouts(seed, patients)
    return [
        _simulate_section(seed, patient, letter, layout, programs, stain)
        for patient, layout in zip(patients, layouts, strict=True)
        for letter in letters
    ]


def write(section: SimulatedSection, folder: Path, genes: Sequence[str] = GENES) -> list[Path]:
    """Write one section in the legacy ST layout; the files written, in this order.

    ``counts/<name>.tsv.gz``
        spots as rows named "XxY", genes as columns
    ``spots/<name>_selection.tsv``
        x, y on the array; new_x, new_y the same, measured; pixel_x, pixel_y; selected
    ``images/<name>.jpg``
        quality 90, so that it differs a little from ``section.image``
    ``labels/<name>_labeled_coordinates.tsv``
        Row.names, x, y, pixel_x, pixel_y, label

    Parameters
    ----------
    section, folder
        The section, and where its files go.
    genes
        Names of the columns of its counts.
    """
    x, y = section.array_xy.T
    pixel_x, pixel_y = section.pixel_xy.T
    spot_names = [f"{column}x{row}" for column, row in section.array_xy]
    # In pixels of a simulated image, whatever the size of this one.
    pixels = section.pixel_xy * (SIDE / section.image.shape[0])
    measured = FIRST + (pixels - _grid_origin()) / PITCH

    counts = pd.DataFrame(section.counts, index=spot_names, columns=list(genes))
    selection = pd.DataFrame(
        {
            "x": x,
            "y": y,
            "new_x": measured[:, 0].round(3),
            "new_y": measured[:, 1].round(3),
            "pixel_x": pixel_x,
            "pixel_y": pixel_y,
            "selected": 1,
        }
    )
    labels = pd.DataFrame(
        {
            "Row.names": spot_names,
            "x": x,
            "y": y,
            "pixel_x": pixel_x,
            "pixel_y": pixel_y,
            "label": section.labels,
        }
    )
    contents = {
        # Without mtime=0 the bytes would tell the time of writing.
        f"counts/{section.name}.tsv.gz": gzip.compress(_as_tsv(counts, index=True), mtime=0),
        f"spots/{section.name}_selection.tsv": _as_tsv(selection, index=False),
        f"images/{section.name}.jpg": _as_jpeg(section.image),
        f"labels/{section.name}_labeled_coordinates.tsv": _as_tsv(labels, index=False),
    }
    written = []
    for relative, content in contents.items():
        path = Path(folder) / relative
        with atomic_write(path) as temporary:
            temporary.write_bytes(content)
        written.append(path)
    return written


def generate(folder: Path, seed: int = 0) -> None:
    """Simulate all sections and write them into `folder`; see `write` for the layout."""
    for section in simulate(seed):
        write(section, folder)


def _as_tsv(table: pd.DataFrame, *, index: bool) -> bytes:
    return table.to_csv(sep="\t", index=index, lineterminator="\n").encode()


def _as_jpeg(image: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def _simulate_section(
    seed: int,
    patient: str,
    letter: str,
    layout: FloatArray,
    programs: FloatArray,
    stain: StainColours = STAIN,
) -> SimulatedSection:
    name = patient + letter
    tissue = _lay_out_tissue(seed, patient, name, layout)
    array_xy, pixel_xy = _place_spots(_generator(seed, name, "spots"), tissue)
    mixture = _spot_mixture(tissue.cell_type, pixel_xy)
    expectation = _expected_counts(seed, patient, name, mixture, programs)
    rate, counts = _draw_counts(_generator(seed, name, "counts"), expectation)
    return SimulatedSection(
        name=name,
        patient=patient,
        image=_render(seed, patient, name, tissue, stain),
        array_xy=array_xy,
        pixel_xy=pixel_xy,
        counts=counts,
        expectation=expectation,
        rate=rate,
        labels=np.array(CELL_TYPES)[mixture.argmax(axis=1)],
    )


def _generator(seed: int, *purpose: str) -> np.random.Generator:
    """A generator of its own for every purpose, so that no draw depends on an earlier one."""
    return np.random.default_rng([seed, zlib.crc32("/".join(purpose).encode())])


# ---------------------------------------------------------------- where the cells are


def _smooth_noise(rng: np.random.Generator, side: int, scale: float) -> FloatArray:
    """(side, side) Gaussian random field, mean 0 and sd 1, smoothed with a kernel of sd `scale`."""
    noise = rng.standard_normal((side, side), dtype=np.float32)
    field = gaussian_filter(noise, scale, mode="wrap", truncate=3.0)
    return (field - field.mean()) / field.std()


def _resize(field: FloatArray, side: int) -> FloatArray:
    image = Image.fromarray(np.ascontiguousarray(field, dtype=np.float32))
    return np.asarray(image.resize((side, side), Image.Resampling.BILINEAR))


def _layout_fields(rng: np.random.Generator) -> FloatArray:
    side = SIDE // COARSE_STEP
    return np.stack([_smooth_noise(rng, side, LAYOUT_SCALE / COARSE_STEP) for _ in CELL_TYPES])


def _patient_layouts(seed: int, patients: Sequence[str] = PATIENTS) -> FloatArray:
    """(patients, cell types, rows, columns) fields, every two of them exactly uncorrelated.

    By chance alone, smooth fields on so few spots correlate by 0.2 and more, and the right answer
    for a method that knows only coordinates would not be zero.
    """
    fields = np.stack([_layout_fields(_generator(seed, patient, "layout")) for patient in patients])
    columns = fields.reshape(len(patients) * len(CELL_TYPES), -1).T.astype(np.float64)
    orthogonal, triangle = np.linalg.qr(columns - columns.mean(axis=0))
    # The sign of a column is the linear algebra library's choice; make it that of the field.
    orthogonal *= np.sign(np.diag(triangle)) * np.sqrt(len(columns))
    return orthogonal.T.reshape(fields.shape)


def _lay_out_tissue(seed: int, patient: str, name: str, layout: FloatArray) -> _Tissue:
    rng = _generator(seed, name, "tissue")
    side = SIDE // STEP
    own = _layout_fields(rng)
    fields = np.sqrt(SECTION_CORRELATION) * layout + np.sqrt(1 - SECTION_CORRELATION) * own
    abundance = np.array([0.4, 0.5, -0.1, -0.3, -0.1])
    abundance = abundance + _generator(seed, patient, "abundance").normal(0, 0.25, len(CELL_TYPES))
    logits = np.stack([_resize(field, side) for field in LAYOUT_GAIN * fields])
    logits = log_softmax(logits + abundance[:, None, None].astype(np.float32), axis=0)

    # The largest of logit plus Gumbel noise is a draw from the softmax; with noise that is smooth
    # over a few cells the draw is a mosaic of nests and septa and not a speckle.
    grain = np.stack([_smooth_noise(rng, side, GRAIN_SCALE / STEP) for _ in CELL_TYPES])
    score = logits - np.log(-np.log(np.clip(ndtr(grain), 1e-6, 1 - 1e-6)))
    wanted = score.argmax(axis=0)

    # Vacuoles and ducts come whole: each is there or not according to the map at its centre.
    distance, gap, centre = _vacuoles(rng)
    duct_radius, duct_nuclei = _ducts(rng, wanted)
    cell_type = score[: IMMUNE + 1].argmax(axis=0)
    cell_type[wanted == DUCT] = STROMA  # what lies between ducts
    cell_type[_at(wanted, centre) == ADIPOSE] = ADIPOSE
    cell_type[duct_radius[::STEP, ::STEP] < 1] = DUCT
    return _Tissue(
        cell_type=cell_type,
        inside=_outline(seed, patient, rng),
        wall_gap=gap,
        vacuole_distance=distance,
        duct_radius=duct_radius,
        duct_nuclei=duct_nuclei,
    )


def _at(values: NDArray, xy: FloatArray) -> NDArray:
    """Values of a map at image coordinates (..., 2); points beyond it take its edge."""
    scale = SIDE // values.shape[0]
    index = np.clip(xy.astype(np.int64) // scale, 0, values.shape[0] - 1)
    return values[index[..., 1], index[..., 0]]


def _outline(seed: int, patient: str, rng: np.random.Generator) -> FloatArray:
    """A rounded piece of tissue, of much the same shape in both sections of a patient."""
    shape = _generator(seed, patient, "outline")
    orders = np.arange(2, 7)
    size = (shape.normal(0, 0.018, orders.size) + rng.normal(0, 0.004, orders.size))[:, None, None]
    phase = shape.uniform(0, 2 * np.pi, orders.size)[:, None, None]

    side = SIDE // COARSE_STEP
    v, u = (np.mgrid[:side, :side] - (side - 1) / 2) * COARSE_STEP
    wave = np.cos(orders[:, None, None] * np.arctan2(v, u) + phase)
    radius = 700 * (1 + (size * wave).sum(axis=0))
    # An exponent above 2 fills the corners of the square array better than an ellipse.
    depth = radius - (np.abs(u) ** 2.5 + np.abs(v) ** 2.5) ** 0.4
    glass = SIDE / 2 - 12 - np.maximum(np.abs(u), np.abs(v))  # a rim of it on every side
    depth = _resize(np.minimum(depth, glass), SIDE // STEP)
    ragged = depth + 3.0 * _smooth_noise(rng, SIDE // STEP, 4.0)
    return np.clip(ragged / 3.0 + 0.5, 0, 1)


def _vacuoles(rng: np.random.Generator) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Cells of a jittered grid: distance to the centre, gap to the second nearest, the centre.

    The gap is the difference of the distances to the nearest two centres (Worley 1996), zero on
    the border of two cells.
    """
    count = int(SIDE / VACUOLE_SPACING) + 3
    jitter = rng.uniform(-0.3, 0.3, (count, count, 2))
    grid = np.stack(np.meshgrid(np.arange(count), np.arange(count)), axis=-1)
    centres = ((grid - 0.5 + jitter) * VACUOLE_SPACING).astype(np.float32)

    side = SIDE // STEP
    position = np.arange(side, dtype=np.float32) * STEP + STEP / 2
    home = (position / VACUOLE_SPACING).astype(np.int64) + 1
    nearest = np.full((side, side), np.inf, dtype=np.float32)
    second = nearest.copy()
    owner = np.zeros((side, side), dtype=np.int32)
    for down in (-1, 0, 1):
        for right in (-1, 0, 1):
            row, column = (home + down)[:, None], (home + right)[None, :]
            squared = (position[None, :] - centres[row, column, 0]) ** 2
            squared += (position[:, None] - centres[row, column, 1]) ** 2
            np.minimum(second, np.maximum(nearest, squared), out=second)
            np.copyto(owner, row * count + column, where=squared < nearest)
            np.minimum(nearest, squared, out=nearest)
    distance = np.sqrt(nearest)
    return distance, np.sqrt(second) - distance, centres.reshape(-1, 2)[owner]


def _ducts(rng: np.random.Generator, wanted: IntArray) -> tuple[FloatArray, _Nuclei]:
    """The relative radius in the nearest duct, (SIDE, SIDE), and the nuclei around the lumina."""
    centres = _scatter(rng, DUCT_SPACING, jitter=0.12)
    centres = centres[_at(wanted, centres) == DUCT]
    size = rng.uniform(20.0, 25.5, len(centres))
    wobble = rng.normal(0, [0.07, 0.04], (len(centres), 2))
    phase = rng.uniform(0, 2 * np.pi, (len(centres), 2))

    def edge(duct: NDArray, angle: FloatArray) -> FloatArray:
        waves = [
            wobble[duct, order] * np.cos((order + 2) * angle + phase[duct, order])
            for order in range(2)
        ]
        return size[duct] * (1 + waves[0] + waves[1])

    duct = np.arange(len(centres))[:, None, None]
    dy, dx, rows, columns = _windows(centres, half=36)
    relative = np.hypot(dx, dy) / edge(duct, np.arctan2(dy, dx))
    radius = np.full((SIDE, SIDE), 9.0, dtype=np.float32)
    np.minimum.at(radius, (rows, columns), relative.astype(np.float32))

    per_duct = (size * 0.9).astype(np.int64)
    owner = np.repeat(np.arange(len(centres)), per_duct)
    turn = np.arange(len(owner)) - np.repeat(per_duct.cumsum() - per_duct, per_duct)
    angle = (turn + rng.normal(0, 0.12, owner.size)) * 2 * np.pi / per_duct[owner]
    reach = edge(owner, angle) * rng.normal(0.76, 0.045, owner.size)
    xy = centres[owner] + reach[:, None] * np.column_stack([np.cos(angle), np.sin(angle)])
    nuclei = _Nuclei(
        xy=xy,
        long=rng.normal(4.0, 0.35, owner.size),
        short=rng.normal(2.5, 0.2, owner.size),
        angle=angle,
        darkness=rng.normal(1.3, 0.14, owner.size),
    )
    return radius, nuclei


def _scatter(rng: np.random.Generator, spacing: float, jitter: float) -> FloatArray:
    """(points, 2) image coordinates on a jittered hexagonal grid: random, yet not overlapping."""
    row_height = np.sqrt(0.75)  # of a hexagonal grid, in spacings
    count = SIDE / spacing + 2
    rows, columns = np.mgrid[: int(count / row_height), : int(count)]
    xy = np.stack([columns + 0.5 * (rows % 2), rows * row_height], axis=-1)
    xy = ((xy + rng.normal(0, jitter, xy.shape)) * spacing).reshape(-1, 2)
    return xy[((xy >= 0) & (xy < SIDE)).all(axis=1)]


# ---------------------------------------------------------------- spots and counts


def _grid_origin() -> float:
    """Image coordinate, both ways, of the first spot: the array is centred."""
    return (SIDE - (GRID - 1) * PITCH) / 2


def _place_spots(
    rng: np.random.Generator, tissue: _Tissue
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Array and image coordinates, (spots, 2) each, of the spots that are wholly on tissue."""
    rows, columns = np.mgrid[:GRID, :GRID]
    grid = np.column_stack([columns.ravel(), rows.ravel()])
    pixel_xy = _grid_origin() + grid * PITCH + rng.normal(0, JITTER, grid.shape)
    covered = _spot_pixels(tissue.inside, pixel_xy).mean(axis=1) > 0.98
    return grid[covered] + FIRST, pixel_xy[covered].round(2)


def _spot_pixels(values: NDArray, pixel_xy: FloatArray) -> NDArray:
    """(spots, pixels) of a map, over the disc of every spot."""
    reach = np.arange(-SPOT_RADIUS, SPOT_RADIUS + 1, STEP)
    disc = np.stack(np.meshgrid(reach, reach), axis=-1).reshape(-1, 2)
    disc = disc[np.hypot(*disc.T) <= SPOT_RADIUS]
    return _at(values, pixel_xy[:, None, :] + disc)


def _spot_mixture(cell_type: IntArray, pixel_xy: FloatArray) -> NDArray[np.float64]:
    """(spots, cell types) share of the spot's area, rows summing to one."""
    inside = _spot_pixels(cell_type, pixel_xy)
    return np.stack([(inside == k).mean(axis=1) for k in range(len(CELL_TYPES))], axis=1)


def _gene_programs(seed: int) -> NDArray[np.float64]:
    """(cell types, genes) share of a cell's counts, rows summing to one; common to all patients."""
    rng = _generator(seed, "programs")
    sizes = list(GENE_FAMILIES.values())
    family = np.repeat(np.arange(len(sizes)), sizes)
    level = rng.lognormal(0, 0.7, len(GENES))
    programs = np.tile(level, (len(CELL_TYPES), 1))
    for k in range(len(CELL_TYPES)):
        own = family == k
        programs[k, own] *= rng.lognormal(np.log(9.0), 0.4, own.sum())
    # Every fourth epithelial gene is both tumour's and duct's; every fifth of stroma, adipose's.
    number = np.concatenate([np.arange(size) for size in sizes])
    for source, partner, every in ((TUMOUR, DUCT, 4), (STROMA, ADIPOSE, 5), (IMMUNE, STROMA, 8)):
        shared = (family == source) & (number % every == every - 1)
        programs[partner, shared] = 0.6 * programs[source, shared]
    return programs / programs.sum(axis=1, keepdims=True)


def _expected_counts(
    seed: int, patient: str, name: str, mixture: FloatArray, programs: FloatArray
) -> NDArray[np.float64]:
    gene_effect = _generator(seed, patient, "genes").lognormal(0, PATIENT_NOISE, len(GENES))
    spot_effect = _generator(seed, name, "depth").lognormal(0, DEPTH_NOISE, len(mixture))
    depth = MEAN_DEPTH * (mixture @ CELLULARITY) / TYPICAL_CELLULARITY * spot_effect
    return depth[:, None] * (mixture @ programs) * gene_effect


def _draw_counts(
    rng: np.random.Generator, expectation: FloatArray
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Rates and counts: negative binomial counts, as a Poisson of a gamma."""
    rate = rng.gamma(1 / DISPERSION, DISPERSION, expectation.shape) * expectation
    return rate, rng.poisson(rate)


# ---------------------------------------------------------------- the image


def _render(
    seed: int, patient: str, name: str, tissue: _Tissue, colours: StainColours
) -> NDArray[np.uint8]:
    """The H&E image: concentrations of the two stains, then Beer-Lambert."""
    rng = _generator(seed, name, "image")
    bend = 75 * _smooth_noise(rng, SIDE // COARSE_STEP, 9.0)
    nuclei = _draw_nuclei(rng, _all_nuclei(rng, tissue, bend))
    eosin, haematoxylin = _cytoplasm(rng, tissue, _fibres(rng, bend))
    alpha = _resize(tissue.inside, SIDE)
    # Chromatin displaces most of the pink beneath it.
    eosin = gaussian_filter(alpha * eosin * (1 - 0.45 * np.minimum(nuclei, 1)), 0.6)
    haematoxylin = gaussian_filter(alpha * (haematoxylin + nuclei), 0.6)

    stain = _generator(seed, patient, "stain")
    amount = (stain.lognormal(0, 0.12, 2) * colours.amounts).astype(np.float32)
    vectors = np.stack([colours.haematoxylin, colours.eosin]) + stain.normal(0, 0.035, (2, 3))
    vectors = (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    image = np.empty((SIDE, SIDE, 3), dtype=np.uint8)
    for channel in range(3):
        density = haematoxylin * (amount[0] * vectors[0, channel]) + eosin * (
            amount[1] * vectors[1, channel]
        )
        light = np.float32(GLASS[channel]) * np.exp(-density)
        light += 1.8 * rng.standard_normal((SIDE, SIDE), dtype=np.float32)
        image[..., channel] = np.clip(light, 0, 255)
    return image


def _cytoplasm(
    rng: np.random.Generator, tissue: _Tissue, fibre: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(SIDE, SIDE) eosin and haematoxylin of everything but nuclei, in optical density."""
    share = [
        gaussian_filter((tissue.cell_type == k).astype(np.float32), 0.7)
        for k in range(len(CELL_TYPES))
    ]
    mottle = _smooth_noise(rng, SIDE // STEP, 1.6)
    cloud = _smooth_noise(rng, SIDE // COARSE_STEP, 6.0)

    # Half the harmonic mean of two distances to a border: a polygon with rounded corners.
    reach = np.maximum(0.68 * VACUOLE_SPACING - tissue.vacuole_distance, 0)
    depth = reach * tissue.wall_gap / (reach + tissue.wall_gap + 1e-3)
    membrane = 0.03 + 0.45 * np.clip(1.5 - depth / 1.3, 0, 1)

    eosin = _resize(
        share[TUMOUR] * (0.40 + 0.07 * mottle)
        + share[IMMUNE] * (0.26 + 0.09 * mottle)
        + share[ADIPOSE] * membrane,
        SIDE,
    )
    haematoxylin = _resize(
        share[TUMOUR] * (0.26 + 0.05 * mottle)
        + share[STROMA] * 0.05
        + share[IMMUNE] * (0.20 + 0.05 * mottle),
        SIDE,
    )

    cleft = np.clip((fibre + 1.3) / 0.35, 0, 1)  # artefactual gaps between collagen bundles
    collagen = (0.54 + 0.14 * fibre + 0.08 * _resize(cloud, SIDE)) * (0.25 + 0.75 * cleft)
    eosin = eosin + _resize(share[STROMA], SIDE) * collagen

    radius = tissue.duct_radius
    duct = _resize(share[DUCT], SIDE)
    epithelium = duct * np.clip((radius - 0.47) * 12 + 0.5, 0, 1)
    basement = np.exp(-(((radius - 1.03) / 0.06) ** 2))
    eosin += 0.03 * duct + 0.42 * epithelium + 0.35 * basement
    haematoxylin = haematoxylin + 0.17 * epithelium
    return np.maximum(eosin, 0.01), np.maximum(haematoxylin, 0)


def _fibres(rng: np.random.Generator, bend: FloatArray) -> FloatArray:
    """(SIDE, SIDE) wavy streaks, mean 0 and sd 1: streaks along x, moved up by `bend` pixels."""
    noise = rng.standard_normal((SIDE, SIDE), dtype=np.float32)
    along = gaussian_filter1d(noise, 14.0, axis=1, mode="wrap", truncate=2.5)
    streaks = gaussian_filter1d(along, 1.3, axis=0, mode="wrap")
    streaks /= streaks.std()
    ripple = 7 * _smooth_noise(rng, SIDE // COARSE_STEP, 2.2)
    y, x = np.indices((SIDE, SIDE), sparse=True)
    # The remainder wraps around, as the noise does.
    rows = (y + _resize(bend + ripple, SIDE).astype(np.int32)) % SIDE
    return streaks[rows, x]


def _fibre_angle(bend: FloatArray, xy: FloatArray) -> FloatArray:
    """Direction of the streaks of `_fibres` at image coordinates (points, 2), in radians."""
    down = np.asarray(np.gradient(bend, COARSE_STEP, axis=0))
    right = np.asarray(np.gradient(bend, COARSE_STEP, axis=1))
    return np.arctan2(-_at(right, xy), 1 + _at(down, xy))


def _all_nuclei(rng: np.random.Generator, tissue: _Tissue, bend: FloatArray) -> list[_Nuclei]:
    def scatter(cell_type: int, spacing: float, jitter: float, keep: float) -> FloatArray:
        xy = _scatter(rng, spacing, jitter)
        here = (_at(tissue.cell_type, xy) == cell_type) & (_at(tissue.inside, xy) > 0.9)
        return xy[here & (rng.random(len(xy)) < keep)]

    def nuclei(
        xy: FloatArray,
        size: tuple[float, float],  # median of the mean semi-axis, sd of its logarithm
        aspect: tuple[float, float],  # least and greatest
        darkness: tuple[float, float],  # mean and sd
        angle: FloatArray | None = None,
    ) -> _Nuclei:
        count = len(xy)
        axis = size[0] * np.exp(np.clip(rng.normal(0, size[1], count), -0.45, 0.45))
        stretch = np.sqrt(rng.uniform(*aspect, count))
        return _Nuclei(
            xy=xy,
            long=axis * stretch,
            short=axis / stretch,
            angle=rng.uniform(0, np.pi, count) if angle is None else angle,
            darkness=rng.normal(*darkness, count),
        )

    tumour = scatter(TUMOUR, spacing=11.5, jitter=0.14, keep=0.93)
    stroma = scatter(STROMA, spacing=17.0, jitter=0.25, keep=0.7)
    immune = scatter(IMMUNE, spacing=6.5, jitter=0.16, keep=0.95)
    adipose = scatter(ADIPOSE, spacing=9.0, jitter=0.3, keep=0.6)
    adipose = adipose[_at(tissue.wall_gap, adipose) < 1.5]
    along_fibres = _fibre_angle(bend, stroma) + rng.normal(0, 0.2, len(stroma))
    ducts = tissue.duct_nuclei
    # Where two ducts touch, the nuclei of one must not lie in the lumen of the other.
    kept = (_at(tissue.inside, ducts.xy) > 0.9) & (_at(tissue.duct_radius, ducts.xy) > 0.55)
    return [
        nuclei(tumour, size=(4.4, 0.22), aspect=(1.0, 1.7), darkness=(1.35, 0.28)),
        nuclei(stroma, (2.8, 0.12), (2.6, 5.0), (1.35, 0.15), along_fibres),
        nuclei(immune, size=(2.55, 0.09), aspect=(1.0, 1.15), darkness=(1.9, 0.2)),
        nuclei(adipose, size=(2.1, 0.1), aspect=(1.8, 2.6), darkness=(1.3, 0.1)),
        _Nuclei(
            xy=ducts.xy[kept],
            long=ducts.long[kept],
            short=ducts.short[kept],
            angle=ducts.angle[kept],
            darkness=ducts.darkness[kept],
        ),
    ]


def _draw_nuclei(rng: np.random.Generator, groups: list[_Nuclei]) -> FloatArray:
    """(SIDE, SIDE) haematoxylin of the chromatin, in optical density."""
    canvas = np.zeros((SIDE, SIDE), dtype=np.float32)
    # Euchromatin is paler than the rim and the clumps: large nuclei look vesicular.
    clump = _resize(_smooth_noise(rng, SIDE // STEP, 0.6), SIDE)
    for nuclei in groups:
        if len(nuclei.xy) == 0:
            continue
        dy, dx, rows, columns = _windows(nuclei.xy, half=int(nuclei.long.max()) + 2)
        cosine, sine = np.cos(nuclei.angle), np.sin(nuclei.angle)
        along = dx * _per_window(cosine) + dy * _per_window(sine)
        across = dy * _per_window(cosine) - dx * _per_window(sine)
        along, across = along / _per_window(nuclei.long), across / _per_window(nuclei.short)
        radius = np.sqrt(along**2 + across**2)
        edge = np.clip((1.05 - radius) * _per_window(nuclei.short) + 0.3, 0, 1)
        rim = 0.78 + 0.3 * np.minimum(radius, 1) ** 3 + 0.13 * clump[rows, columns]
        np.maximum.at(canvas, (rows, columns), edge * rim * _per_window(nuclei.darkness))
    return canvas


def _per_window(values: FloatArray) -> FloatArray:
    return values.astype(np.float32)[:, None, None]


def _windows(xy: FloatArray, half: int) -> tuple[FloatArray, FloatArray, IntArray, IntArray]:
    """(points, size, size) offsets from every point and image rows and columns around it.

    Offsets are large where the window leaves the image, whose edge those pixels are moved to.
    """
    reach = np.arange(-half, half + 1)
    corner = np.round(xy).astype(np.int64)
    rows = corner[:, 1, None, None] + reach[None, :, None]
    columns = corner[:, 0, None, None] + reach[None, None, :]
    outside = (rows < 0) | (rows >= SIDE) | (columns < 0) | (columns >= SIDE)
    dy = (rows - xy[:, 1, None, None]).astype(np.float32)
    dx = (columns - xy[:, 0, None, None]).astype(np.float32)
    dy = np.where(outside, np.float32(1e3), dy)
    dx = np.broadcast_to(dx, dy.shape)
    return dy, dx, np.clip(rows, 0, SIDE - 1), np.clip(columns, 0, SIDE - 1)
