"""Intervals and tests for scores and differences of scores, where several questions are asked about one image.

The unit that is drawn at random is the image (the cluster), not the question: correctness of questions on one image is
correlated, and counting them as independent makes intervals too short (Miller 2024, "Adding error bars to
evals", arXiv:2411.00640). The tests of `mcnemar_exact` do count questions as independent; the intervals do not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from scipy.special import bdtr, expit, logit, stdtrit

INTERVAL_METHOD = "bootstrap over images, t on the logit scale"
CONFIDENCE = 0.95
RESAMPLES = 2000
SEED = 0
INTERVAL = {
    "confidence": CONFIDENCE,
    "method": INTERVAL_METHOD,
    "clusters": "image",
    "resamples": RESAMPLES,
    "seed": SEED,
}
"""How intervals are computed, as in results.json and the output of a comparison."""

_LOWEST_DF = 4  # of t: with lower ones, intervals of data where few images cause all the variance are wider than needed
_DRAWN_AT_ONCE = 1 << 20  # images: 8 MB per array, whatever their number
_DIGITS = 12
_NO_VARIANCE = 1e-9  # a standard error below this is rounding


def bootstrap_intervals(
    sums: np.ndarray,
    counts: np.ndarray,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> np.ndarray:
    """Intervals of the ratios sum/count, each between 0 and 1, under resampling of clusters.

    Clusters are drawn with replacement and keep their questions (Davison & Hinkley 1997, section 3.8; Field & Welsh
    2007, "Bootstrapping clustered data"); a group draws from the clusters that have questions of it. The standard error
    of the ratio is the standard deviation over the resamples, times sqrt(C' / (C' - 1)) (Hesterberg 2015, "What
    teachers should know about the bootstrap", on narrowness), where C' = (sum n)^2 / sum n^2 is the number of clusters
    of equal size with the same information as those of n questions each (Kish 1965).

    The interval is symmetric on the logit scale, which keeps it inside 0 to 1 and follows the skewness of rare events,
    with a quantile of Student's t (Dean & Pagano 2015, "Evaluating confidence interval methods for binomial
    proportions in clustered surveys"). Its degrees of freedom are Satterthwaite's, from the kurtosis of the clusters'
    residuals, and at most C' - 1: where few of many clusters cause all the variance, the standard error is as uncertain
    as that of few clusters. Percentiles of the resamples (the plain bootstrap interval) and bootstrap-t contain the
    true value too seldom with few clusters or rare events.

    Where all clusters have the same ratio r, the bootstrap variance is 0. A share of up to u = 1 - (a/2)^(1/C) of the
    clusters could have another ratio although none of them is among C draws (a = 1 - confidence; Clopper & Pearson 1934
    for 0 of C), and the interval is (1 - u) r to (1 - u) r + u.

    Args:
        sums: [groups, clusters] of the scores of the questions, each 0 to 1; 0 where there are none.
        counts: [groups, clusters] of the questions.
        confidence: the share of data sets whose interval contains the true value.
        resamples: how many data sets are drawn.
        seed: the same seed gives the same interval of a group, whatever the other groups are.

    Returns:
        [groups, 2]: low and high ends; NaN for a group with fewer than 2 clusters that have questions.
    """
    sums, counts = np.asarray(sums, dtype=float), np.asarray(counts, dtype=float)
    intervals = np.full((len(sums), 2), np.nan)
    # Groups with the same clusters use the same draws.
    there, which = np.unique(counts > 0, axis=0, return_inverse=True)
    for number, clusters in enumerate(there):
        if clusters.sum() >= 2:
            groups = np.flatnonzero(which.reshape(-1) == number)
            part = np.ix_(groups, clusters)
            intervals[groups] = _intervals(sums[part], counts[part], confidence, resamples, seed)
    return intervals


def paired_difference(
    baseline_sums: np.ndarray,
    sums: np.ndarray,
    counts: np.ndarray,
    *,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> tuple[np.ndarray, np.ndarray]:
    """Differences of two runs' scores on the same questions, and their intervals, each within -1 to 1.

    Pairs are drawn together: an image with both runs' scores. `bootstrap_intervals` gets a difference d as (d + 1) / 2,
    whose logit is Fisher's z scale, which is symmetric around 0.

    Args:
        baseline_sums: [groups, clusters] of the scores of the run that is compared with.
        sums: [groups, clusters] of the other run's.
        counts: [groups, clusters] of the questions.
        confidence: as for `bootstrap_intervals`.
        resamples: as for `bootstrap_intervals`.
        seed: as for `bootstrap_intervals`.

    Returns:
        The differences [groups], positive where the other run is better, NaN for a group without questions; and their
        intervals [groups, 2], NaN for a group with fewer than 2 clusters that have questions.
    """
    differences, counts = np.asarray(sums, dtype=float) - baseline_sums, np.asarray(counts, dtype=float)
    totals = counts.sum(axis=1)
    means = np.divide(differences.sum(axis=1), totals, out=np.full(len(totals), np.nan), where=totals > 0)
    intervals = bootstrap_intervals(
        (differences + counts) / 2, counts, confidence=confidence, resamples=resamples, seed=seed
    )
    return means, 2 * intervals - 1


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """Two-sided exact p-value of McNemar's test of the questions that only one of two runs answers correctly.

    It is the binomial test of `only_first` among `only_first + only_second` at 1/2 (McNemar 1947; exact, not
    chi-squared). It takes questions as independent, also those on one image, so its p-values are then too small.
    """
    total = only_first + only_second
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), total, 0.5)))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for their number, in the order given (Holm 1979, "A simple sequentially rejective procedure").

    Rejecting where the adjusted p-value is at most a keeps the probability of any false rejection at most a, for any
    dependence between the tests.
    """
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _intervals(sums: np.ndarray, counts: np.ndarray, confidence: float, resamples: int, seed: int) -> np.ndarray:
    """[groups, 2] for groups that have questions in each of the C clusters; sums, counts: [groups, C]."""
    tail = (1 - confidence) / 2
    ratios = np.clip(sums.sum(axis=1) / counts.sum(axis=1), 0, 1)
    effective = counts.sum(axis=1) ** 2 / (counts**2).sum(axis=1)
    errors = _deviations(sums, counts, ratios, resamples, seed) * np.sqrt(effective / (effective - 1))
    seen = (errors > _NO_VARIANCE) & (ratios > 0) & (ratios < 1)
    unseen_share = 1 - tail ** (1 / sums.shape[1])
    lows, highs = (1 - unseen_share) * ratios, (1 - unseen_share) * ratios + unseen_share
    p = ratios[seen]
    freedom = np.minimum(_degrees_of_freedom((sums - ratios[:, None] * counts)[seen]), effective[seen] - 1)
    half_widths = stdtrit(freedom, 1 - tail) * errors[seen] / (p * (1 - p))
    lows[seen], highs[seen] = expit(logit(p) - half_widths), expit(logit(p) + half_widths)
    # Rounded, because machines add in different orders and differ in the last digits.
    return np.round(np.stack([lows, highs], axis=1), _DIGITS)


def _deviations(sums: np.ndarray, counts: np.ndarray, ratios: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """[groups]: standard deviations of the ratios over the resamples."""
    values = np.concatenate([sums, counts]).T  # [C, 2 groups]
    first, second = np.zeros(len(sums)), np.zeros(len(sums))
    for weights in _weights(sums.shape[1], resamples, seed):
        drawn_sums, drawn_counts = np.split(weights @ values, 2, axis=1)
        deviations = drawn_sums / drawn_counts - ratios
        first += deviations.sum(axis=0)
        second += (deviations**2).sum(axis=0)
    variances = second / resamples - (first / resamples) ** 2
    return np.sqrt(np.maximum(variances, 0))


def _weights(clusters: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield [some, clusters] arrays, `resamples` rows in all: how often each cluster was drawn in `clusters` draws."""
    rng = np.random.default_rng(seed)
    rows_at_once = max(1, _DRAWN_AT_ONCE // clusters)
    for start in range(0, resamples, rows_at_once):
        rows = min(rows_at_once, resamples - start)
        drawn = rng.integers(0, clusters, (rows, clusters)) + clusters * np.arange(rows)[:, None]
        yield np.bincount(drawn.reshape(-1), minlength=rows * clusters).reshape(rows, clusters).astype(float)


def _degrees_of_freedom(residuals: np.ndarray) -> np.ndarray:
    """[groups]: Satterthwaite's 2 E(V)^2 / Var(V) for the variance V of residuals [groups, C]; C for normal ones."""
    clusters = residuals.shape[1]
    squares = residuals**2
    variances = squares.mean(axis=1)
    excess = np.maximum((squares**2).mean(axis=1) - variances**2, 1e-12 * variances**2)
    degrees: np.ndarray = np.maximum(2 * clusters * variances**2 / excess - 1, _LOWEST_DF)
    return degrees
