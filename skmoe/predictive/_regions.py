"""Where the density of a predictive mixture is high: modes, regions, intervals."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from scipy import special

from ..likelihoods import PredictiveMixture

N_LEVELS = 49
"""Number of quantiles of each component in the first grid of y."""

BEYOND = 1e-3
"""Share of the excluded probability that may lie beyond the ends of the grid."""

EDGE = 1e-12
"""Probability beyond the last value of the grid, if the support ends. At the end itself
the density may be infinite."""

ALL = 1.0 - 1e-6
"""A region of more coverage than this is the whole support."""

NEARBY = 24
"""The three starts of the parabola are this fraction of 1 - coverage apart."""

LOWEST = -700.0
"""Logarithm that stands for a density of zero."""

LEVEL_STEPS = 28
"""Bisections, between two heights of the grid, for the height at the edges."""

EDGE_STEPS = 4
"""Steps of regula falsi from the grid to the edge of a region."""

GOLDEN = (np.sqrt(5.0) - 1.0) / 2.0
MODE_STEPS = 45
"""Golden sections from the grid to a mode. They leave 1e-9 of the bracket."""

HALVED = 0.5 ** np.arange(1, 11)
"""Fractions of the way from a peak to its neighbours in the grid."""

APART = 1e-9
"""Values of a grid that are closer than this share of its middle half are merged."""

TIE = 1e-9
"""Probability above which a count differs from the one before."""


MOST_COUNTS = 5000
"""Most counts per row that are examined one by one; more are examined in runs."""

EXACT = 2.0**53
"""Floats beyond it leave out whole numbers."""

RUNS = 16
"""Runs of counts between two quantiles of a component."""


def modes(mixture: PredictiveMixture) -> list[np.ndarray]:
    """Return the modes of each row, highest first."""
    if mixture.family.discrete:
        return [_count_modes(*row) for row in _cells(mixture, 1e-6)]
    peaks: list[np.ndarray] = []
    for rows in _blocks(mixture):
        part = mixture.take(rows)
        values = _values(part, 0.9)
        peaks += _modes(part, values, _height(part, values))
    return peaks


def regions(mixture: PredictiveMixture, coverage: float) -> list[np.ndarray]:
    """Return the intervals of highest density of each row that hold the coverage.

    Each is an (n_intervals, 2) array in increasing order. An interval of counts
    includes both ends.
    """
    if coverage > ALL:
        ends = quantiles(mixture, [0.0, 1.0])
        return list(ends[:, None, :])
    if mixture.family.discrete:
        return [_count_region(*row, coverage) for row in _cells(mixture, coverage)]
    sets: list[np.ndarray] = []
    for rows in _blocks(mixture):
        sets += _Levels(mixture.take(rows), coverage).regions(coverage)
    return sets


def mass_above(mixture: PredictiveMixture, y: np.ndarray) -> np.ndarray:
    """Return the probability of a density above that at y, (n,)."""
    mass_of_rows = np.empty(len(mixture))
    if mixture.family.discrete:
        for i, (counts, at) in enumerate(_cells(mixture, ALL)):
            mass = np.diff(at)
            density = mass / np.diff(counts)
            cell = np.searchsorted(counts, y[i]) - 1
            is_inside = 0 <= cell < len(mass)
            mass_of_rows[i] = mass[density > density[cell]].sum() if is_inside else 1.0
        return mass_of_rows
    for rows in _blocks(mixture):
        part = mixture.take(rows)
        level = part.log_density(y[rows, None])[:, 0]
        mass_of_rows[rows] = _Levels(part, ALL).mass(np.maximum(level, LOWEST))
    return mass_of_rows


def shortest(mixture: PredictiveMixture, coverage: float) -> np.ndarray:
    """Return the probability below the shortest interval of the coverage, (n,)."""
    below = np.empty(len(mixture))
    if mixture.family.discrete:
        for i, row in enumerate(_cells(mixture, coverage)):
            below[i] = _shortest_count(*row, coverage)
        return below
    for rows in _blocks(mixture):
        below[rows] = _shortest(mixture.take(rows), coverage)
    return below


# ------------------------------------------------------------------------- grids
def quantiles(mixture: PredictiveMixture, levels) -> np.ndarray:
    """Return the quantiles of each row at the same levels, (n, n_levels)."""
    return mixture.quantile(np.tile(levels, (len(mixture), 1)))


def _levels(tail: float) -> np.ndarray:
    """Return levels of equal steps in normal scores, all but ``tail`` inside."""
    outermost = special.ndtri(1.0 - tail)
    return special.ndtr(np.linspace(-outermost, outermost, N_LEVELS))


def _slices(rows: np.ndarray, n_rows: int) -> Iterator[slice]:
    """Yield where each row's entries lie in a sorted list of rows."""
    bounds = np.searchsorted(rows, np.arange(n_rows + 1))
    return itertools.starmap(slice, itertools.pairwise(bounds))


def _blocks(mixture: PredictiveMixture):
    m = mixture.weights.shape[1]
    return mixture.blocks(4 * m * m * (N_LEVELS + 4))


def _values(mixture: PredictiveMixture, coverage: float) -> np.ndarray:
    """Return increasing values, (n, t), between which y mostly lies."""
    levels = _levels(BEYOND * (1.0 - coverage))
    levels = [0.0, EDGE, *levels, 1.0 - EDGE, 1.0]
    levels = np.broadcast_to(levels, (len(mixture), len(levels)))
    values = mixture.component_quantiles(levels)
    # The grid needs the ends of a bounded support, but not the far tails.
    bounded = np.isfinite(values[:, :, [0, -1]])
    inner = values[:, :, [2, -3]]
    for side, ends in ((0, slice(0, 2)), (1, slice(-2, None))):
        finite = bounded[:, :, [side]]
        values[:, :, ends] = np.where(finite, values[:, :, ends], inner[:, :, [side]])
    values = values.reshape(len(mixture), -1) + mixture.shift[:, None]
    return np.sort(values, axis=1)


def _shortest(mixture: PredictiveMixture, coverage: float) -> np.ndarray:
    """Return where the shortest interval begins: best of the grid, then a parabola."""
    values = _values(mixture, coverage)
    at = mixture.cdf(values)
    # Candidates start or end at a value of the grid.
    starts = np.clip(np.hstack([at, at - coverage]), at[:, :1], at[:, -1:] - coverage)
    width = _between(at, values, starts + coverage) - _between(at, values, starts)
    best = np.argmin(width, axis=1)[:, None]
    beside = (1.0 - coverage) / NEARBY * np.array([-1.0, 0.0, 1.0])
    starts = np.take_along_axis(starts, best, axis=1) + beside
    starts = np.clip(starts, 0.0, 1.0 - coverage)
    width = _widths(mixture, starts, coverage)
    with np.errstate(all="ignore"):
        first_gap = starts[:, 1] - starts[:, 0]
        second_gap = starts[:, 2] - starts[:, 1]
        falls = width[:, 0] - width[:, 1]
        rises = width[:, 2] - width[:, 1]
        step = (
            (first_gap**2 * rises - second_gap**2 * falls)
            / (first_gap * rises + second_gap * falls)
            / 2
        )
        vertex = np.clip(starts[:, 1] - step, starts[:, 0], starts[:, 2])
    vertex = np.where(np.isnan(vertex), starts[:, 1], vertex)[:, None]
    starts = np.hstack([starts, vertex])
    width = np.hstack([width, _widths(mixture, vertex, coverage)])
    best = np.argmin(np.where(np.isnan(width), np.inf, width), axis=1)[:, None]
    return np.take_along_axis(starts, best, axis=1)[:, 0]


def _between(at: np.ndarray, values: np.ndarray, p: np.ndarray) -> np.ndarray:
    """Return the quantiles of each row by linear interpolation in its grid."""
    n, t = values.shape
    # One search serves all rows: adding 2 per row keeps them apart.
    row = 2.0 * np.arange(n)[:, None]
    after = np.searchsorted((at + row).ravel(), (p + row).ravel())
    right = np.clip(after.reshape(p.shape) - t * np.arange(n)[:, None], 1, t - 1)
    a, b = (np.take_along_axis(at, right - i, axis=1) for i in (1, 0))
    share = (p - a) / np.where(b > a, b - a, 1.0)
    a, b = (np.take_along_axis(values, right - i, axis=1) for i in (1, 0))
    return a + np.clip(share, 0.0, 1.0) * (b - a)


def _widths(mixture: PredictiveMixture, low: np.ndarray, coverage: float):
    ends = mixture.quantile(np.hstack([low, np.minimum(low + coverage, 1.0)]))
    with np.errstate(invalid="ignore"):
        return ends[:, low.shape[1] :] - ends[:, : low.shape[1]]


def _height(mixture: PredictiveMixture, y: np.ndarray) -> np.ndarray:
    return np.clip(mixture.log_density(y), LOWEST, -LOWEST)


class _Levels:
    """The sets {y: log p(y) >= level} of some rows, and their probability."""

    def __init__(self, mixture: PredictiveMixture, coverage: float) -> None:
        self.mixture = mixture
        self.values = _with_peaks(mixture, _values(mixture, coverage))
        self.height = _height(mixture, self.values)
        # At the end of a support a density may be infinite, or jump.
        self.height[:, 0] = np.maximum(self.height[:, 0], self.height[:, 1])
        self.height[:, -1] = np.maximum(self.height[:, -1], self.height[:, -2])
        before = np.nextafter(self.values[:, 0], -np.inf)
        self.first = mixture.cdf(before[:, None])[:, 0]
        self.last = mixture.cdf(self.values[:, -1:])[:, 0]

    def edges(self, level: np.ndarray):
        """Return row, position and direction (1 is up, -1 is down) of each edge."""
        inside = self.height >= level[:, None]
        rows, before = np.nonzero(inside[:, 1:] != inside[:, :-1])
        a, b = self.values[rows, before], self.values[rows, before + 1]
        at_a = self.height[rows, before] - level[rows]
        at_b = self.height[rows, before + 1] - level[rows]
        rises = np.where(inside[rows, before + 1], 1, -1)
        part = self.mixture.take(rows)
        for _ in range(EDGE_STEPS):
            y = a - at_a * (b - a) / np.where(at_b == at_a, 1.0, at_b - at_a)
            at_y = _height(part, y[:, None])[:, 0] - level[rows]
            left_side = (at_y >= 0) == (at_a >= 0)
            a, at_a = np.where(left_side, y, a), np.where(left_side, at_y, at_a)
            b, at_b = np.where(left_side, b, y), np.where(left_side, at_b, at_y)
        return rows, y, rises, inside

    def mass(self, level: np.ndarray) -> np.ndarray:
        """Return the probability of the sets, (n,)."""
        rows, y, rises, inside = self.edges(level)
        at_edges = self.mixture.take(rows).cdf(y[:, None])[:, 0]
        total = np.bincount(rows, -rises * at_edges, minlength=len(level))
        total += np.where(inside[:, -1], self.last, 0.0)
        return total - np.where(inside[:, 0], self.first, 0.0)

    def _bracket(self, coverage: float) -> tuple[np.ndarray, np.ndarray]:
        """Return two heights of the grid that enclose the level."""
        lowest = self.height.min(axis=1, keepdims=True) - 1.0
        heights = np.sort(np.hstack([lowest, self.height]), axis=1)
        low = np.zeros(len(heights), dtype=int)
        high = np.full(len(heights), heights.shape[1] - 1)
        rows = np.arange(len(heights))
        while np.any(high - low > 1):
            middle = (low + high) // 2
            enough = self.mass(heights[rows, middle]) >= coverage
            low, high = np.where(enough, middle, low), np.where(enough, high, middle)
        return heights[rows, low], heights[rows, high]

    def regions(self, coverage: float) -> list[np.ndarray]:
        """Return the sets of the highest levels that hold the coverage."""
        low, high = self._bracket(coverage)
        for _ in range(LEVEL_STEPS):
            level = (low + high) / 2
            enough = self.mass(level) >= coverage
            low, high = np.where(enough, level, low), np.where(enough, high, level)
        rows, y, _, inside = self.edges(low)
        sets = []
        for i, edges in enumerate(_slices(rows, len(low))):
            ends = y[edges]
            if inside[i, 0]:
                ends = np.append(self.values[i, 0], ends)
            if inside[i, -1]:
                ends = np.append(ends, self.values[i, -1])
            sets.append(ends.reshape(-1, 2))
        return sets


# ------------------------------------------------------------------------- modes
def _modes(mixture, values: np.ndarray, height: np.ndarray) -> list[np.ndarray]:
    """Return the modes of each row, highest first."""
    rows, y, top, _ = _peaks(mixture, values, height)
    return [
        y[peaks][np.argsort(-top[peaks], kind="stable")]
        for peaks in _slices(rows, len(mixture))
    ]


def _with_peaks(mixture, values: np.ndarray) -> np.ndarray:
    """Return the grid with its peaks, and with more values close to them."""
    rows, y, _, beside = _peaks(mixture, values, _height(mixture, values))
    first = np.searchsorted(rows, np.arange(len(mixture)))
    place = np.arange(len(rows)) - first[rows]
    shape = len(mixture), int(place.max(initial=0)) + 1, 2 * len(HALVED) + 1
    added = np.broadcast_to(values[:, -1:, None], shape).copy()
    steps = (beside - y[:, None])[:, :, None] * HALVED
    added[rows, place, 1:] = y[:, None] + steps.reshape(len(y), -1)
    added[rows, place, 0] = y
    return np.sort(np.hstack([values, added.reshape(len(values), -1)]), axis=1)


def _peaks(mixture, values: np.ndarray, height: np.ndarray):
    """Return row, place and height of peaks, and the values beside them, (p, 2).

    Each peak of the grid is refined by golden section.
    """
    quarter = values.shape[1] // 4
    near = APART * (values[:, -1 - quarter] - values[:, quarter])[:, None]
    is_apart = np.hstack([np.full((len(values), 1), True), np.diff(values) > near])
    rows = np.nonzero(is_apart)[0]
    values = values[is_apart]
    height = height[is_apart]
    same = rows[1:] == rows[:-1]
    before = np.append(-np.inf, np.where(same, height[:-1], -np.inf))
    after = np.append(np.where(same, height[1:], -np.inf), -np.inf)
    at = np.flatnonzero((height >= before) & (height > after))
    a = values[np.where(before[at] > -np.inf, at - 1, at)]
    b = values[np.where(after[at] > -np.inf, at + 1, at)]
    rows = rows[at]
    at_grid = values[at]
    grid_height = height[at]
    beside = np.column_stack([a, b])
    part = mixture.take(rows)
    for _ in range(MODE_STEPS):
        left, right = b - GOLDEN * (b - a), a + GOLDEN * (b - a)
        higher = _height(part, left[:, None]) > _height(part, right[:, None])
        a, b = np.where(higher[:, 0], a, left), np.where(higher[:, 0], right, b)
    y = (a + b) / 2
    # The peak may be at the end of the support, or at a kink.
    at_y = _height(part, y[:, None])[:, 0]
    return (
        rows,
        np.where(grid_height > at_y, at_grid, y),
        np.maximum(grid_height, at_y),
        beside,
    )


# ------------------------------------------------------------------------ counts
def _cells(mixture: PredictiveMixture, coverage: float):
    """Yield the runs of counts of each row: their ends, and the cdf at these.

    A run is of the counts after one end up to the next. Where counts are many, runs
    divide what lies between quantiles of the components; else each holds one count.
    """
    tail = BEYOND * (1.0 - coverage)
    ends = quantiles(mixture, [tail, 1.0 - tail])
    for i, (low, high) in enumerate(ends):
        row = mixture.take(slice(i, i + 1))
        few = high - low <= MOST_COUNTS and high < EXACT
        counts = np.arange(low, high + 1.0) if few else _many(row, low, high, tail)
        counts = np.append(min(low - 1.0, np.nextafter(low, -1.0)), counts)
        yield counts, row.cdf(counts[None, :])[0]


def _many(row: PredictiveMixture, low: float, high: float, tail: float) -> np.ndarray:
    """Return counts from low to high, dense where a component has its mass."""
    values = np.unique(row.component_quantiles(_levels(tail)[None, :]))
    share = np.arange(1, RUNS + 1) / RUNS
    between = values[:-1, None] + np.diff(values)[:, None] * share
    counts = np.concatenate([[low, high], values, np.rint(between).ravel()])
    return np.unique(np.clip(counts, low, high))


def _count_region(counts, at, coverage: float) -> np.ndarray:
    mass = np.diff(at)
    order = np.argsort(-mass / np.diff(counts), kind="stable")
    n_runs = 1 + np.searchsorted(np.cumsum(mass[order]), coverage)
    runs = np.sort(order[:n_runs])
    breaks = np.flatnonzero(np.diff(runs) > 1)
    first, last = runs[np.append(0, breaks + 1)], runs[np.append(breaks, -1)]
    return np.column_stack([counts[first] + 1.0, counts[last + 1]])


def _count_modes(counts, at) -> np.ndarray:
    density = np.diff(at) / np.diff(counts)
    padded = np.concatenate([[-1.0], density, [-1.0]])
    peak = np.flatnonzero((density >= padded[:-2]) & (density > padded[2:]))
    middle = counts[peak] + np.ceil((counts[peak + 1] - counts[peak]) / 2)
    return middle[np.argsort(-density[peak], kind="stable")]


def _shortest_count(counts, at, coverage: float) -> float:
    """Return the probability below the shortest run of counts; the fullest of those."""
    last = np.searchsorted(at, at[:-1] + coverage)
    possible = np.flatnonzero(last < len(at))
    length = counts[last[possible]] - counts[possible]
    best = possible[length == length.min()]
    below = at[best[np.argmax(at[last[best]] - at[best])]]
    return float(below) + TIE  # the first count beyond
