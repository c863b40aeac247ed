"""Rewrite the tables of training speed in a Markdown file.

Usage: python -m tools.training_figures docs/benchmarks.md

Reads what `python -m benchmarks.train_throughput --json benchmarks/results/NAME.json` wrote, a table per file; other
benchmarks keep their figures beside them. The tables are between two markers; the rest of the page is not changed.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tools.markdown import replace_between, rewrite_named_file

BEGIN = "<!-- training figures: written by `make training-figures` from benchmarks/results -->"
END = "<!-- end of training figures -->"
RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"
MODELS = {
    ("real", "mllama"): "Llama 3.2 11B Vision at its real size, random weights, 1000x800 images",
    ("real", "qwen2_5_vl"): "Qwen2.5-VL 7B at its real size, random weights, 1000x800 images",
    ("tiny", "mllama"): "A small model like Llama 3.2 Vision",
    ("tiny", "qwen2_5_vl"): "A small model like Qwen2.5-VL",
}
HEADS = ("contender", "questions per image", "samples/s", "peak GB", "waiting", "x unsloth", "x TRL", "x plain")


def main() -> int:
    """Rewrite the tables in the file that is named on the command line."""
    return rewrite_named_file(with_tables)


def with_tables(markdown: str, results: Path = RESULTS) -> str:
    """`markdown` with the current tables between its markers. Raises ValueError if they are missing."""
    measured = kept(results)
    # Real sizes first, whatever the files are called.
    measured.sort(key=lambda result: list(MODELS).index((result["settings"]["size"], result["settings"]["family"])))
    return replace_between(markdown, BEGIN, END, "".join(f"{line}\n" for line in result_lines(measured)))


def kept(results: Path = RESULTS) -> list[dict[str, Any]]:
    """What was measured of training: the files of `results` that measure optimizer steps."""
    everything = (json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.glob("*.json")))
    return [result for result in everything if "step_questions" in result.get("settings", {})]


def result_lines(measured: Iterable[dict[str, Any]]) -> list[str]:
    """For each result what was measured, with which command, and its table."""
    lines: list[str] = []
    for result in measured:
        settings, machine = result["settings"], result["machine"]
        rows = [row for row in result["measurements"] if "samples_per_s" in row]
        command = f'make benchmark-train ARGS="--size {settings["size"]} --family {settings["family"]}"'
        versions = ", ".join(f"{name} {machine[name]}" for name in ("torch", "transformers", "unsloth", "trl")
                             if machine.get(name))  # fmt: skip
        lines += [
            "",
            f"{MODELS[settings['size'], settings['family']]}; {settings['step_questions']} questions per step, "
            f"{result['row']['text_tokens']:.0f} text tokens per row; {machine['device']}, {machine['cores']} cores; "
            f"{versions} (`{command}`):",
            "",
            f"| {' | '.join(HEADS)} |",
            "|---" * len(HEADS) + "|",
            *(f"| {' | '.join(_cells(row))} |" for row in rows),
        ]
        starred = [note for note in result["notes"] if note.startswith("*")]
        lines += ["", *(note.replace("*", r"\*", 1) for note in starred)] if starred else []
    return [*lines, ""] if lines else []


def _cells(row: dict[str, Any]) -> list[str]:
    wait, peak = row["data_wait_share"], row["peak_gb"]
    return [
        row["contender"] + (r"\*" if row.get("merged") else ""),
        f"{row['questions']:g}",
        f"{row['samples_per_s']:.1f}",
        "" if peak is None else f"{peak:.1f}",
        "" if wait is None else f"{100 * wait:.1f}%",
        *(_ratio(row, whom) for whom in ("unsloth", "trl", "plain")),
    ]


def _ratio(row: dict[str, Any], whom: str) -> str:
    ratio = row[f"ratio_to_{whom}"]
    return "" if ratio is None else f"{ratio:.2f}" + (r"\*" if whom in row["ratio_merged"] else "")


if __name__ == "__main__":
    sys.exit(main())
