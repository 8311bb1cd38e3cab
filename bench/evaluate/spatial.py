"""Scores that look at a section as a map: autocorrelation, structure, spatial domains."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

from bench.evaluate.grid import HEXAGONAL_ROWS, is_hexagonal

UNLABELLED = frozenset({"", "undetermined"})
"""Labels that name no domain."""

DOMAIN_COMPONENTS = 9
"""Principal components that the published comparison clusters."""


def grid_neighbours(array_xy: np.ndarray) -> sp.csr_matrix:
    """Weights between spots that are next to one another on the array.

    Neighbours are those at the smallest distance between any two spots (four on a square grid,
    six on a hexagonal one), with a tolerance of a fifth.

    Parameters
    ----------
    array_xy : (spots, 2) array coordinates

    Returns
    -------
    (spots, spots) CSR of zeros and ones, symmetric, empty diagonal
    """
    from scipy.spatial import cKDTree

    position = np.array(array_xy, dtype=np.float64)
    if is_hexagonal(array_xy):
        position[:, 1] *= 2 * HEXAGONAL_ROWS  # neighbours in a row are two columns apart
    if len(position) < 2:
        return sp.csr_matrix((len(position), len(position)))
    tree = cKDTree(position)
    nearest = tree.query(position, k=2)[0][:, 1]
    pitch = nearest[nearest > 0].min() if (nearest > 0).any() else 1.0
    pairs = tree.query_pairs(1.2 * pitch, output_type="ndarray")
    one = np.ones(len(pairs))
    upper = sp.coo_matrix((one, (pairs[:, 0], pairs[:, 1])), shape=(len(position),) * 2)
    return (upper + upper.T).tocsr()


def morans_i(values: np.ndarray, weights: sp.csr_matrix) -> np.ndarray:
    """Moran's I of every gene over one section.

    Parameters
    ----------
    values : (spots, genes)
    weights : (spots, spots), see :func:`grid_neighbours`

    Returns
    -------
    (genes,) float64; NaN for a constant gene, and for all where no spot has a neighbour
    """
    values = np.asarray(values, dtype=np.float64)
    total = weights.sum()
    varies = np.ptp(values, axis=0) > 0
    centred = values - values.mean(axis=0)
    square = np.einsum("sg,sg->g", centred, centred)
    product = np.einsum("sg,sg->g", centred, weights @ centred)
    defined = varies & (square > 0) & (total > 0)
    scale = np.where(defined, square * max(total, 1.0), 1.0)
    return np.where(defined, len(values) * product / scale, np.nan)


def map_similarity(truth: np.ndarray, prediction: np.ndarray, array_xy: np.ndarray) -> np.ndarray:
    """Structural similarity of the measured and the predicted map of every gene.

    Maps are standardised gene by gene, so that only structure counts, laid on the array's grid
    and compared in windows of 7 x 7 grid points. Points without a spot hold the mean in both, and
    only windows around spots are averaged.

    Parameters
    ----------
    truth, prediction : (spots, genes)
    array_xy : (spots, 2) array coordinates

    Returns
    -------
    (genes,) float64; NaN where a gene is constant in either, and for all on a grid of fewer than
    7 x 7 points

    Source
    ------
    Wang et al., IEEE Transactions on Image Processing 13(4) (2004).
    """
    from scipy.ndimage import uniform_filter

    genes = np.shape(truth)[1]
    column, row = _grid(array_xy)
    shape = (int(row.max()) + 1, int(column.max()) + 1)
    if min(shape) < _WINDOW:
        return np.full(genes, np.nan)

    def smooth(maps: np.ndarray) -> np.ndarray:
        return uniform_filter(maps, size=(1, _WINDOW, _WINDOW))

    # All genes at once: one by one, scikit-image's function takes most of the scoring time.
    similarity = np.full(genes, np.nan)
    a, b = _standardised(truth), _standardised(prediction)
    defined = ~(np.isnan(a).any(axis=0) | np.isnan(b).any(axis=0))
    x, y = (np.zeros((int(defined.sum()), *shape)) for _ in range(2))
    x[:, row, column], y[:, row, column] = a[:, defined].T, b[:, defined].T
    mean_x, mean_y = smooth(x), smooth(y)
    sample = _WINDOW**2 / (_WINDOW**2 - 1)
    variance = sample * (smooth(x * x) - mean_x**2 + smooth(y * y) - mean_y**2)
    covariance = sample * (smooth(x * y) - mean_x * mean_y)
    small_mean, small_variance = (0.01 * _DEVIATIONS) ** 2, (0.03 * _DEVIATIONS) ** 2
    local = (2 * mean_x * mean_y + small_mean) * (2 * covariance + small_variance)
    local /= (mean_x**2 + mean_y**2 + small_mean) * (variance + small_variance)
    similarity[defined] = local[:, row, column].mean(axis=1)
    return similarity


_WINDOW = 7
_DEVIATIONS = 6.0
"""Range of a standardised map: three deviations both ways."""


def _grid(array_xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and row counted from 0; a hexagonal array uses every second column of a row."""
    column, row = (axis - axis.min() for axis in np.asarray(array_xy, dtype=np.intp).T)
    return (column // 2 if is_hexagonal(array_xy) else column), row


def _standardised(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values, dtype=np.float64)
    varies = np.ptp(values, axis=0) > 0
    spread = np.where(varies, values.std(axis=0), np.nan)
    return (values - values.mean(axis=0)) / spread


def spatial_domains(
    expression: np.ndarray,
    clusters: int,
    *,
    components: int = DOMAIN_COMPONENTS,
    seed: int = 0,
) -> np.ndarray:
    """Domains of one section: k-means on principal components.

    Parameters
    ----------
    expression : (spots, genes), measured or predicted
    clusters : number of domains, at most the number of spots
    components : principal components, fewer where the matrix has fewer
    seed : of both

    Returns
    -------
    (spots,) int
    """
    from sklearn.cluster import KMeans
    from sklearn.decomposition import PCA
    from sklearn.exceptions import ConvergenceWarning

    expression = np.asarray(expression, dtype=np.float64)
    number = min(components, *expression.shape)
    with warnings.catch_warnings():
        # A prediction without as many distinct spots as domains is a finding, not a fault.
        warnings.simplefilter("ignore", ConvergenceWarning)
        warnings.filterwarnings("ignore", "invalid value", RuntimeWarning)
        reduced = PCA(number, random_state=seed).fit_transform(expression)
        return KMeans(clusters, n_init=10, random_state=seed).fit_predict(reduced)


def domain_agreement(
    expression: np.ndarray, labels: Sequence[str], *, seed: int = 0
) -> tuple[float, float]:
    """How well domains of predicted or measured expression agree with a pathologist's.

    Spots without a label, or of an undetermined one, are left out; there are as many domains as
    labels.

    Parameters
    ----------
    expression : (spots, genes)
    labels : (spots,) names
    seed : of the clustering

    Returns
    -------
    tuple of two floats
        Adjusted Rand index and normalised mutual information; NaN where fewer than two labels
        are left.
    """
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    names = np.asarray(labels, dtype=str)
    named = np.array([name.lower() not in UNLABELLED for name in names], dtype=bool)
    kinds = len(set(names[named]))
    if kinds < 2:
        return float("nan"), float("nan")
    domains = spatial_domains(np.asarray(expression)[named], kinds, seed=seed)
    return (
        float(adjusted_rand_score(names[named], domains)),
        float(normalized_mutual_info_score(names[named], domains)),
    )
