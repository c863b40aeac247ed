"""What AQUA gives away without an image.

Usage: python -m benchmarks.aqua_baselines [FOLDER] [--table FILE] [--json FILE]

Reads the validation split in FOLDER (data/AQUA) and the table of descriptions (SemArt). Prints how many of the
knowledge answers are word for word in the description of their painting, and how many answers a reader of questions
alone guesses: the most frequent answer to the same question on other paintings. All of a painting's own answers are
left out, also those to its other questions, so that the split serves as training and test data at once (one painting
is held out at a time). Texts are compared after SQuAD normalisation.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from vizsage.config import build_config
from vizsage.data.sample import Sample
from vizsage.data.sources import open_split
from vizsage.errors import VizSageError
from vizsage.files import sha256_file, write_json
from vizsage.scoring.normalisation import normalise_squad
from vizsage.scoring.statistics import CONFIDENCE, INTERVAL, bootstrap_intervals

SCHEMA_VERSION = 1
IN_DESCRIPTION = "answer is word for word in the description"
SAME_QUESTION = "guessed from the same question on other paintings"
BEGINNING = "guessed from the longest beginning of the question known from other paintings"


def main() -> int:
    """Measure, print, and write JSON where asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("data/AQUA"), help="folder with val.json")
    parser.add_argument("--table", type=Path, default=Path("data/SemArt"), help="descriptions: a table, or a folder")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    arguments = parser.parse_args()
    try:
        found = measure(arguments.folder, arguments.table)
    except VizSageError as error:
        print(f"aqua_baselines: error: {error}", file=sys.stderr)
        return error.exit_code
    table = Table("questions", "what", "share", f"{CONFIDENCE:.0%} interval")
    for row in found["rows"]:
        low, high = row["interval"]
        table.add_row(row["questions"], row["what"], f"{row['share']:.1%}", f"{low:.1%} to {high:.1%}")
    Console().print(f"{found['pairs']} pairs, {found['paintings']} paintings", table)
    if arguments.json:
        write_json(arguments.json, found)
    return 0


def measure(folder: Path, table: Path) -> dict[str, Any]:
    """All figures on the validation split in `folder`. Raises DataError where the split or the table is unusable."""
    config = build_config(
        {
            "base_path": str(folder.parent),
            "dataset": folder.name,
            "external_knowledge": True,
            "external_knowledge_path": str(table),
        }
    )
    split = open_split(config, "val")
    samples = split.load()
    kinds = {
        "visual": [sample for sample in samples if not sample.need_external_knowledge],
        "knowledge": [sample for sample in samples if sample.need_external_knowledge],
    }
    rows = [_row("knowledge", IN_DESCRIPTION, kinds["knowledge"], map(stands_in_description, kinds["knowledge"]))]
    for what, beginnings in ((SAME_QUESTION, False), (BEGINNING, True)):
        ids = (sample.sample_id for sample in samples)
        guessed = dict(zip(ids, guesses(samples, beginnings=beginnings), strict=True))
        for kind, asked in kinds.items():
            right = (guessed[sample.sample_id] == normalise_squad(sample.answer) for sample in asked)
            rows.append(_row(kind, what, asked, right))
    of_painting = Counter(sample.group for sample in samples)
    return {
        "schema_version": SCHEMA_VERSION,
        "split": split.name,
        "sha256": sha256_file(split.path),
        "pairs": len(samples),
        "paintings": len(of_painting),
        "questions_a_painting": {"mean": len(samples) / len(of_painting), "most": max(of_painting.values())},
        "without_description": split.counts.missing_description,
        "rows": rows,
        "interval": {**INTERVAL},
    }


def stands_in_description(sample: Sample) -> bool:
    """Whether the words of the answer follow each other in the description; False for an answer without words."""
    answer, description = normalise_squad(sample.answer), normalise_squad(sample.description or "")
    return bool(answer) and f" {answer} " in f" {description} "


def guesses(samples: Iterable[Sample], *, beginnings: bool) -> Iterator[str | None]:
    """For each sample the most frequent normalised answer to its question on other paintings; None where there is none.

    Args:
        samples: those of a split, in any order.
        beginnings: where the question is asked of no other painting, take those that begin with the same words, as many
            as possible; at the end of it, all questions.

    Of equally frequent answers the first in alphabetical order counts. The answer itself, the image and whether the
    question needs knowledge are never looked at.
    """
    samples = list(samples)
    answers: defaultdict[str, Counter[str]] = defaultdict(Counter)
    own: defaultdict[tuple[str, tuple[str, ...]], Counter[str]] = defaultdict(Counter)
    for sample in samples:
        answer = normalise_squad(sample.answer)
        for key in _keys(sample.question, beginnings):
            answers[key][answer] += 1
            own[key, sample.group][answer] += 1
    for sample in samples:
        keys = _keys(sample.question, beginnings)
        known = (answers[key] - own[key, sample.group] for key in keys)
        counts = next(filter(None, known), None)
        yield min(counts, key=lambda answer, c=counts: (-c[answer], answer)) if counts else None  # type: ignore[misc]


def _keys(question: str, beginnings: bool) -> list[str]:
    """What a question is looked up by, the most telling first."""
    words = normalise_squad(question).split()
    whole = " ".join(words)
    return (
        [whole, *(f"{' '.join(words[:count])} ..." for count in range(len(words), -1, -1))] if beginnings else [whole]
    )


def _row(questions: str, what: str, samples: list[Sample], right: Iterable[bool]) -> dict[str, Any]:
    """A share of the samples with its interval over paintings."""
    paintings = {name: number for number, name in enumerate(dict.fromkeys(sample.group for sample in samples))}
    sums, counts = np.zeros((2, 1, len(paintings)))
    for sample, one in zip(samples, right, strict=True):
        sums[0, paintings[sample.group]] += one
        counts[0, paintings[sample.group]] += 1
    return {
        "questions": questions,
        "what": what,
        "pairs": len(samples),
        "paintings": len(paintings),
        "right": int(sums.sum()),
        "share": sums.sum() / len(samples),
        "interval": bootstrap_intervals(sums, counts)[0].tolist(),
    }


if __name__ == "__main__":
    sys.exit(main())
