"""Intervals cover the truth where questions come in clusters; tests are the exact ones of the books."""

from __future__ import annotations

import tracemalloc
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import beta, binomtest

from vizsage.scoring.statistics import bootstrap_intervals, holm, mcnemar_exact, paired_difference

DATA_SETS = 1000
BAR = 0.93  # of the data sets; the intervals aim at 0.95


def questions(rng: np.random.Generator, images: int) -> np.ndarray:
    """[DATA_SETS, images]: 1 to 11 questions per image."""
    return rng.integers(1, 12, (DATA_SETS, images))


def rates(rng: np.random.Generator, images: int, rate: float, correlation: float) -> np.ndarray:
    """[DATA_SETS, images]: the chance that an answer is right, which differs from image to image (beta-binomial)."""
    if correlation == 0:
        return np.full((DATA_SETS, images), rate)
    strength = (1 - correlation) / correlation
    return rng.beta(rate * strength, (1 - rate) * strength, (DATA_SETS, images))


def covered(intervals: np.ndarray, truth: float) -> float:
    low, high = intervals.T
    return float(np.mean((low <= truth) & (truth <= high)))


@pytest.mark.parametrize("images", [10, 30, 100, 300])
@pytest.mark.parametrize("rate", [0.56, 0.1, 0.03])
@pytest.mark.parametrize("correlation", [0, 0.2, 0.5])
def test_intervals_cover_the_truth_of_clustered_questions(images: int, rate: float, correlation: float) -> None:
    rng = np.random.default_rng([images, round(1000 * rate), round(1000 * correlation)])
    counts = questions(rng, images)
    right = rng.binomial(counts, rates(rng, images, rate, correlation))
    assert covered(bootstrap_intervals(right, counts), rate) >= BAR


def test_intervals_that_took_questions_as_independent_would_miss_the_bar() -> None:
    """The simulation detects it: the same data, each question as a separate cluster."""
    rng = np.random.default_rng(5)
    counts = questions(rng, 100)
    right = rng.binomial(counts, rates(rng, 100, 0.56, 0.5))
    shares = right.sum(axis=1) / counts.sum(axis=1)
    errors = np.sqrt(shares * (1 - shares) / counts.sum(axis=1))
    alone = np.stack([shares - 1.96 * errors, shares + 1.96 * errors], axis=1)
    assert covered(alone, 0.56) < 0.8


def test_intervals_of_scores_between_0_and_1_cover_the_truth() -> None:
    """Token F1 and the like: means of questions' scores, half of them exactly 0 or 1."""
    rng = np.random.default_rng(6)
    counts = questions(rng, 60)
    whole = rng.binomial(counts // 2, rates(rng, 60, 0.3, 0.3))
    parts = rng.uniform(0, 0.6, counts.shape) * (counts - counts // 2)
    sums = whole + parts
    truth = float((0.3 * (counts // 2) + 0.3 * (counts - counts // 2)).sum() / counts.sum())
    assert covered(bootstrap_intervals(sums, counts), truth) >= BAR


@pytest.mark.parametrize("images", [30, 100, 300])
@pytest.mark.parametrize(("better", "worse"), [(0.2, 0.1), (0.1, 0.1), (0.05, 0.02)])
@pytest.mark.parametrize("correlation", [0, 0.3])
def test_differences_cover_the_truth(images: int, better: float, worse: float, correlation: float) -> None:
    """The other run has a share `better` of the questions right that were wrong, and a share `worse` the reverse."""
    rng = np.random.default_rng([images, round(1000 * better), round(1000 * worse), round(10 * correlation)])
    counts = questions(rng, images)
    fixed = rng.binomial(counts, rates(rng, images, better, correlation))
    broken = rng.binomial(counts - fixed, rates(rng, images, worse / (1 - better), correlation))
    both = rng.binomial(counts - fixed - broken, 0.6)
    differences, intervals = paired_difference(both + broken, both + fixed, counts)
    assert np.mean(differences) == pytest.approx(better - worse, abs=0.01)
    assert covered(intervals, better - worse) >= BAR


def test_as_wide_as_theory_says_for_many_independent_questions() -> None:
    right = np.array([[1] * 300 + [0] * 700])
    low, high = bootstrap_intervals(right, np.ones((1, 1000)))[0]
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.3 * 0.7 / 1000), rel=0.05)
    assert low < 0.3 < high


def test_every_cluster_is_drawn_as_often_as_the_others() -> None:
    counts = np.full((4, 4), 10)
    ends = bootstrap_intervals(counts / 2 + 2 * np.eye(4), counts)  # one cluster is otherwise, each in turn
    assert ends == pytest.approx(np.tile(ends.mean(axis=0), (4, 1)), abs=0.01)


@pytest.mark.parametrize("images", [2, 3, 30, 1000])
def test_all_right_and_all_wrong_claim_no_certainty(images: int) -> None:
    counts = np.full((2, images), 5)
    intervals = bootstrap_intervals(np.stack([counts[0], np.zeros(images)]), counts)
    low = beta.ppf(0.025, images, 1)  # Clopper and Pearson's, for as many right answers as images
    assert intervals[0] == pytest.approx([low, 1.0])
    assert intervals[1] == pytest.approx([0.0, 1 - low])


def test_images_that_all_score_alike_claim_no_certainty() -> None:
    low, high = bootstrap_intervals(np.full((1, 20), 1), np.full((1, 20), 2))[0]
    unseen = 1 - 0.025 ** (1 / 20)
    assert (low, high) == pytest.approx(((1 - unseen) / 2, (1 + unseen) / 2))


def test_runs_that_answer_alike_may_still_differ() -> None:
    counts = np.full((1, 50), 4)
    difference, interval = paired_difference(counts / 2, counts / 2, counts)
    unseen = 1 - 0.025 ** (1 / 50)
    assert difference == [0.0]
    assert interval[0] == pytest.approx([-unseen, unseen])


def test_swapped_runs_give_the_mirrored_interval() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(1, 12, (1, 40))
    one, other = rng.binomial(counts, 0.5), rng.binomial(counts, 0.6)
    forward, backward = paired_difference(one, other, counts), paired_difference(other, one, counts)
    assert forward[0] == -backward[0]
    assert forward[1][0] == pytest.approx(-backward[1][0][::-1])


def test_an_image_or_none_gives_no_interval() -> None:
    counts = np.array([[3, 0, 0], [0, 0, 0], [1, 0, 1]])
    intervals = bootstrap_intervals(np.array([[1, 0, 0], [0, 0, 0], [1, 0, 0]]), counts)
    assert np.isnan(intervals[:2]).all()
    assert not np.isnan(intervals[2]).any()
    differences, intervals = paired_difference(np.zeros((3, 3)), counts, counts)
    assert differences[0] == 1.0
    assert np.isnan(differences[1])
    assert np.isnan(intervals[:2]).all()
    assert bootstrap_intervals(np.zeros((0, 5)), np.zeros((0, 5))).shape == (0, 2)
    assert np.isnan(bootstrap_intervals(np.zeros((2, 0)), np.zeros((2, 0)))).all()


def test_a_group_has_the_same_interval_whatever_stands_beside_it() -> None:
    rng = np.random.default_rng(2)
    counts = rng.integers(0, 4, (6, 40))
    sums = rng.binomial(counts, 0.4)
    together = bootstrap_intervals(sums, counts)
    alone = np.concatenate([bootstrap_intervals(sums[i : i + 1], counts[i : i + 1]) for i in range(6)])
    assert together == pytest.approx(alone, abs=1e-12)


def test_only_the_clusters_of_a_group_count() -> None:
    counts, sums = np.array([[2, 3, 1, 5]]), np.array([[1, 3, 0, 2]])
    wider = np.array([[0, 2, 0, 3, 1, 5, 0]])
    assert bootstrap_intervals(np.array([[0, 1, 0, 3, 0, 2, 0]]), wider) == pytest.approx(
        bootstrap_intervals(sums, counts)
    )


def test_a_seed_settles_the_intervals_and_confidence_widens_them() -> None:
    rng = np.random.default_rng(3)
    counts = rng.integers(1, 12, (1, 30))
    sums = rng.binomial(counts, 0.5)
    first = bootstrap_intervals(sums, counts)
    assert (first == bootstrap_intervals(sums, counts, seed=0)).all()
    other = bootstrap_intervals(sums, counts, seed=1)
    assert (first != other).all()
    assert first == pytest.approx(other, abs=0.02)
    wide = bootstrap_intervals(sums, counts, confidence=0.99)[0]
    assert wide[0] < first[0][0] < first[0][1] < wide[1]


def test_many_images_need_little_memory() -> None:
    rng = np.random.default_rng(4)
    counts = rng.integers(1, 12, (2, 20_000))
    sums = rng.binomial(counts, 0.5)
    tracemalloc.start()
    bootstrap_intervals(sums, counts)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6, peak


cells = st.lists(st.tuples(st.integers(0, 11), st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=12)


@given(cells)
def test_ends_are_ordered_and_within_bounds(images: list[tuple[int, float, float]]) -> None:
    counts = np.array([[count for count, _, _ in images]])
    sums = [np.array([[image[0] * image[run] for image in images]]) for run in (1, 2)]
    ratio = sums[0].sum() / max(1, counts.sum())
    for low, high in bootstrap_intervals(sums[0], counts, resamples=50):
        assert np.isnan(low) or 0 <= low <= ratio + 1e-6
        assert np.isnan(high) or ratio - 1e-6 <= high <= 1
        assert np.isnan(low) or low < high
    (difference,), ((low, high),) = paired_difference(*sums, counts, resamples=50)
    assert np.isnan(low) or -1 <= low <= difference + 1e-6
    assert np.isnan(high) or difference - 1e-6 <= high <= 1


@given(st.integers(0, 500), st.integers(0, 500))
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    expected = binomtest(first, first + second).pvalue if first + second else 1.0
    assert mcnemar_exact(first, second) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_exact(first, second) == mcnemar_exact(second, first)


def test_holm_of_the_books() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_holm_keeps_the_order_and_never_helps(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    assert max(adjusted) <= min(1, len(p_values) * max(p_values))
    for order in permutations(range(len(p_values))):
        assert holm([p_values[i] for i in order]) == [adjusted[i] for i in order]
