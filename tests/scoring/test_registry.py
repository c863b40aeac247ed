"""The entries of the registry: what others read off them, and a metric that is added as one entry."""

from __future__ import annotations

import pytest

from vizsage.scoring import registry, summary
from vizsage.scoring.metrics import exact_match
from vizsage.scoring.registry import EXACT_MATCH, METRICS, Metric, score_row

ROW = {"prediction": "The cat", "answer": "cat", "answers": ["cat", "dog"], "choices": ["cat", "dog"]}


def test_the_entries_are_complete_and_exact_match_leads() -> None:
    assert next(iter(METRICS.values())) is EXACT_MATCH
    for name, metric in METRICS.items():
        assert name == metric.name
        assert metric.title
        assert metric.note
        assert "|" not in metric.note + metric.source  # cells of the documentation's table


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_binary_metrics_are_those_that_give_nothing_between_0_and_1(metric: Metric) -> None:
    texts = ("cat", "The cat", "a cat and a dog", "cats", "d")
    given = {float(score) for text in texts if (score := metric.score({**ROW, "prediction": text})) is not None}
    assert (given <= {0.0, 1.0}) is metric.binary


@pytest.mark.parametrize("metric", METRICS.values(), ids=METRICS)
def test_a_row_gets_of_each_metric_the_score_that_the_metric_gives_alone(metric: Metric) -> None:
    scored = score_row(ROW, normalise=False)
    everything = {EXACT_MATCH.name: scored["exact_match"], **scored["scores"]}
    assert everything[metric.name] == metric.score(ROW, normalise=False)
    failed = metric.score({**ROW, "prediction": None})
    assert failed == 0


def test_the_mode_reaches_exact_match_alone() -> None:
    assert exact_match("The cat", ["cat"])
    assert [EXACT_MATCH.score(ROW, normalise=normalise) for normalise in (True, "light", False)] == [True, False, False]
    assert score_row(ROW, normalise=True)["scores"] == score_row(ROW, normalise=False)["scores"]


def test_one_entry_adds_a_metric(monkeypatch: pytest.MonkeyPatch) -> None:
    length = Metric("brevity", "brevity", "one over the length", "", lambda said, _: 1 / len(said) if said else 0.0)
    monkeypatch.setattr(summary, "METRICS", {**METRICS, "brevity": length})
    monkeypatch.setattr(registry, "_BESIDE_EXACT_MATCH", (*METRICS.values(), length)[1:])
    rows = [{"prediction": text, "answer": "cat"} for text in ("cat", "a", None)]
    assert summary.summarise(rows)["metrics"]["brevity"] == pytest.approx((1 / 3 + 1) / 3)
