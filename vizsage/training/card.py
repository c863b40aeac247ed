"""The model card (README.md) beside an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vizsage import __version__
from vizsage.config import Config, config_to_yaml
from vizsage.files import write_text
from vizsage.scoring.normalisation import MODE_TITLES, mode_of


def write_card(
    folder: Path,
    config: Config,
    *,
    facts: dict[str, Any],
    scores: dict[str, Any] | None,
    example: dict[str, Any] | None,
) -> None:
    """Write README.md with Hugging Face's front matter: base, data, settings, scores.

    `scores` are those of the best validation (see vizsage.scoring.summary.summarise), `example` one held-out sample
    with its answers before and after training.
    """
    front: dict[str, Any] = {
        "base_model": config.model_name,
        "library_name": "peft",
        "pipeline_tag": "image-text-to-text",
        "tags": ["lora", "vizsage", "visual-question-answering"],
    }
    if scores:
        front["model-index"] = [
            {
                "name": config.name_trained_model,
                "results": [
                    {
                        "task": {"type": "visual-question-answering"},
                        "dataset": {"name": config.dataset, "type": config.dataset, "split": "validation"},
                        "metrics": [{"type": "exact_match", "value": scores["exact_match_score"]}],
                    }
                ],
            }
        ]
    lines = [
        f"# {config.name_trained_model}",
        "",
        f"A LoRA adapter for `{config.model_name}`, trained with VizSage {__version__} on `{config.dataset}`.",
        "",
        "## Data",
        "",
        *(f"- {name}: {value}" for name, value in facts.items()),
        "",
    ]
    if scores:
        lines += [
            "## Scores",
            "",
            f"Exact match on {scores['total_samples']} samples of the validation split, generated greedily "
            f"(mode: {MODE_TITLES[mode_of(config.use_text_normalization)]}):",
            "",
            "| samples | n | exact match |",
            "|---|---|---|",
            _row("all", scores["total_samples"], scores["exact_match_score"]),
            *(
                _row(label, scores[group]["samples"], scores[group]["exact_match_score"])
                for label, group in (
                    ("with external knowledge", "with_external_knowledge"),
                    ("without external knowledge", "without_external_knowledge"),
                )
            ),
            "",
            "The best of several validations is shown, which flatters; `vizsage eval` scores the test split.",
            "",
        ]
    if example:
        lines += [
            "## One held-out sample",
            "",
            *(f"- {name}: {_inline(value)}" for name, value in example.items()),
            "",
        ]
    lines += ["## Settings", "", "```yaml", config_to_yaml(config).rstrip(), "```", ""]
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    write_text(folder / "README.md", f"---\n{header}---\n\n" + "\n".join(lines))


def _row(label: str, samples: int, score: float | None) -> str:
    return f"| {label} | {samples} | {'' if score is None else f'{score:.4f}'} |"


def _inline(value: Any) -> str:
    """Text of the data as one line of Markdown code, so that no character of it has a meaning there."""
    text = " ".join(str(value).split()).replace("`", "'")
    return f"`{text}`" if text else "(empty)"
