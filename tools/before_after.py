"""What training changed, in one line.

Usage: python -m tools.before_after CONFIG [SPLIT]

Reads the results of `vizsage eval CONFIG --base` and of `vizsage eval CONFIG`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from vizsage.config import load_config


def main() -> int:
    """Print the line and where the results are."""
    config = load_config(Path(sys.argv[1]))
    split = sys.argv[2] if len(sys.argv) > 2 else "test"
    folder = config.output_dir / "evaluation_results"
    scores = []
    for name in (f"{split}-base", split):
        path = folder / name / "results.json"
        if not path.is_file():
            print(f"{path}: no results there; run vizsage eval first", file=sys.stderr)
            return 1
        scores.append(json.loads(path.read_text(encoding="utf-8")))
    before, after = scores
    print()
    print(
        f"Exact match on {split} ({after['total_samples']} questions): "
        f"{before['exact_match_score']:.3f} before training, {after['exact_match_score']:.3f} after"
    )
    print(f"Adapter: {config.adapter_dir}")
    print(f"Results: {folder}")
    print(f"Curves:  {config.output_dir / 'loss.png'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
