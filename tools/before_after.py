"""What training changed, and what the change is made of.

Usage: python -m tools.before_after CONFIG [SPLIT]

Reads the results and predictions of `vizsage eval CONFIG` with and without --base, each with and without --blind.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path

from vizsage.config import load_config
from vizsage.contract import EVALUATIONS, LOSS_CURVES, PREDICTIONS, RESULTS
from vizsage.contract.results_file import evaluation_name
from vizsage.json_lines import read_jsonl


@dataclass(frozen=True)
class Evaluation:
    """The scores of an evaluation, and by the ids of its samples which were right and which contain the answer."""

    exact_match: float
    contains_answer: float
    right: dict[str, bool]
    contained: dict[str, bool]


def main() -> int:
    """Print the scores before and after, what the difference is made of, and where the results are."""
    config = load_config(Path(sys.argv[1]))
    split = sys.argv[2] if len(sys.argv) > 2 else "test"
    folder = config.output_dir / EVALUATIONS
    found = []
    for blind in (False, True):
        for base in (True, False):
            path = folder / evaluation_name(split, base=base, blind=blind)
            if not (path / RESULTS).is_file():
                print(f"{path / RESULTS}: no results there; run vizsage eval first", file=sys.stderr)
                return 1
            found.append(read_evaluation(path))
    print()
    print("\n".join(told(split, *found)))
    print(f"Adapter: {config.adapter_dir}")
    print(f"Results: {folder}")
    print(f"Curves:  {config.output_dir / LOSS_CURVES}")
    return 0


def read_evaluation(folder: Path) -> Evaluation:
    """The evaluation in `folder`."""
    results = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
    rows = list(read_jsonl(folder / PREDICTIONS))
    return Evaluation(
        results["exact_match_score"],
        results["metrics"]["contains_answer"],
        {row["sample_id"]: bool(row["exact_match"]) for row in rows},
        {row["sample_id"]: bool(row["scores"]["contains_answer"]) for row in rows},
    )


def told(
    split: str, before: Evaluation, after: Evaluation, blind_before: Evaluation, blind_after: Evaluation
) -> list[str]:
    """The lines. Training may teach the form of the answers, the answers, or to find them without the image."""
    gained = [sample for sample, right in after.right.items() if right and not before.right[sample]]
    known = sum(before.contained[sample] for sample in gained)
    imageless = sum(blind_after.right[sample] for sample in gained)
    return [
        f"Exact match on {split} ({len(after.right)} questions): "
        f"{before.exact_match:.3f} before training, {after.exact_match:.3f} after",
        f"Replies that contain the answer: {before.contains_answer:.3f} before, {after.contains_answer:.3f} after",
        f"Without the image: exact match {blind_before.exact_match:.3f} before, {blind_after.exact_match:.3f} after; "
        f"contained {blind_before.contains_answer:.3f} before, {blind_after.contains_answer:.3f} after",
        f"Of the {len(gained)} questions that became right,",
        f"  {_share(known, gained)} had the answer in the base model's reply: training taught the form,",
        f"  {_share(len(gained) - known, gained)} had not: training taught the answer;",
        f"  {_share(imageless, gained)} need no image: they are guessed, or read in the description.",
    ]


def _share(part: int, whole: list[str]) -> str:
    return f"{part:>4} ({part / len(whole) if whole else 0:.0%})"


if __name__ == "__main__":
    sys.exit(main())
