"""Measure how fast report.html is made and opens in headless Chromium.

Usage: python -m benchmarks.report_speed [--samples 5000]

Draws an image for as many questions as AQUA's test split has per image, makes the report, opens it several times in
a browser that has just started, and exits 1 when the bar is missed. Needs Chromium (make test-report gets it).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image
from rich.console import Console
from rich.table import Table

from tools.browser import browser, browser_missing
from vizsage.config import build_config
from vizsage.contract.results_file import SCHEMA_VERSION
from vizsage.evaluation.report.report_file import write_report
from vizsage.files import write_json
from vizsage.json_lines import write_jsonl
from vizsage.scoring.registry import score_row
from vizsage.scoring.summary import summarise

QUESTIONS_PER_IMAGE = 4.8  # AQUA's test split
IMAGE, DETAIL = (1024, 768), (128, 96)  # detail that a thumbnail keeps makes it as large as one of a painting
OPENING_BAR_S = 2.0
TIMES = 5
WORDS = "river mill saint angel garden window horse blue red two standing holding woman child book boat sky".split()

# From the start of the navigation until the first cards are in the page and the browser has painted them.
PAINTED = """
const done = arguments[arguments.length - 1];
requestAnimationFrame(() => setTimeout(() => done(performance.now())));
"""


def main() -> int:
    """Print the table; 1 where the page opens too slowly, 2 without a browser."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=5000, metavar="N", help="questions in the report")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    arguments = parser.parse_args()
    if reason := browser_missing():
        print(reason, file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="vizsage-benchmark-") as folder:
        figures = measure(Path(folder), arguments.samples)
    table = Table("measured", "found", title=f"a report on {arguments.samples:,} samples, {os.cpu_count()} cores")
    for name, value in figures.items():
        table.add_row(name.replace("_", " "), f"{value:.2f}" if isinstance(value, float) else f"{value:,}")
    table.add_row("bar", f"opens in < {OPENING_BAR_S} s: {'yes' if figures['opening_s'] < OPENING_BAR_S else 'NO'}")
    Console().print(table)
    if arguments.json:
        write_json(arguments.json, {"samples": arguments.samples, **figures})
    return 0 if figures["opening_s"] < OPENING_BAR_S else 1


def measure(folder: Path, samples: int) -> dict[str, Any]:
    """Sizes, and seconds: of making the report, of opening it (median), of a search among all samples (median)."""
    evaluation = write_evaluation(folder, samples)
    start = time.perf_counter()
    page = write_report(evaluation)
    making_s = time.perf_counter() - start
    openings, searches, cards = [], [], 0
    for _ in range(TIMES):
        with browser() as chromium:
            chromium.resize(1200, 900)
            chromium.open(page)
            openings.append(chromium.run_async(PAINTED) / 1000)
            cards = chromium.run("return document.querySelectorAll('.card').length")
            searches.append(chromium.run(SEARCH) / 1000)
    return {
        "images": len({row["image"] for row in rows(samples)}),
        "size_mb": page.stat().st_size / 1e6,
        "making_s": making_s,
        "opening_s": statistics.median(openings),
        "slowest_opening_s": max(openings),
        "cards_at_first": cards,
        "search_s": statistics.median(searches),
    }


SEARCH = """
const field = document.getElementById('search'), start = performance.now();
field.value = 'saint blue';
field.dispatchEvent(new Event('input', {bubbles: true}));
document.body.offsetHeight;
return performance.now() - start;
"""


def rows(samples: int) -> Iterator[dict[str, Any]]:
    """Questions and answers of a few words; half of them with a description of AQUA's length, a third wrong."""
    chance = random.Random(0)
    for i in range(samples):
        image, answer = int(i / QUESTIONS_PER_IMAGE), " ".join(chance.sample(WORDS, 2))
        row = {
            "sample_id": f"test-{i}",
            "image": f"{image:05d}-painting.jpg",
            "question": f"what is {' '.join(chance.sample(WORDS, 4))}",
            "answer": answer,
            "answers": [answer],
            "need_external_knowledge": i % 2 == 1,
            "description": f"{image} {'The painting shows a scene by the water. ' * 14}" if i % 2 else None,
            "tags": {"school": chance.choice(["Italian", "Dutch", "French"])},
            "prediction": answer if chance.random() < 0.66 else chance.choice(WORDS),
            "raw_text": answer,
            "token_ids": [1, 2, 3, 4],
            "finish_reason": "stop",
            "error": None,
            "key": "0" * 64,
        }
        yield row | score_row(row)


def write_evaluation(folder: Path, samples: int) -> Path:
    """A data set with a different colour for each image, and an evaluation of it."""
    config = build_config({"base_path": str(folder / "data"), "output_dir": str(folder / "run")})
    evaluation = config.output_dir / "evaluation_results" / "test"
    config.images_dir.mkdir(parents=True)
    noise = Image.effect_noise(DETAIL, 60).convert("RGB").resize(IMAGE)
    names = sorted({row["image"] for row in rows(samples)})
    for number, name in enumerate(names):
        tint = Image.new("RGB", IMAGE, (number * 37 % 256, number * 91 % 256, number * 53 % 256))
        Image.blend(noise, tint, 0.6).save(config.images_dir / name, quality=80)
    config.split_dir.mkdir()
    asked = [{key: row[key] for key in ("image", "question", "answer")} for row in rows(samples)]
    (config.split_dir / "test.json").write_text(json.dumps(asked), encoding="utf-8")
    write_jsonl(evaluation / "predictions.jsonl", rows(samples))
    facts: dict[str, Any] = {
        "split": "test",
        "limit": None,
        "mode": "squad",
        "knowledge": "oracle",
        "finished": "",
        "versions": {},
    }
    facts |= {"base_model": "none", "adapter": None, "settings": config.model_dump(mode="json")}
    write_json(evaluation / "results.json", {"schema_version": SCHEMA_VERSION, **summarise(rows(samples)), **facts})
    return evaluation


if __name__ == "__main__":
    sys.exit(main())
