"""The model card (README.md) beside an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from vizsage import __version__
from vizsage.config import Config, config_to_yaml
from vizsage.files import write_text
from vizsage.models.loaded import FINGERPRINT_FILE, TINY_MODEL, hub_name
from vizsage.scoring.normalisation import MODE_TITLES, mode_of
from vizsage.training.plan import Plan


def write_card(
    folder: Path,
    config: Config,
    *,
    base_identity: str,
    snippet: str,
    facts: dict[str, Any],
    scores: dict[str, Any] | None,
    example: dict[str, Any] | None,
) -> None:
    """Write README.md with Hugging Face's front matter: base, data, settings, scores, and how to use the adapter.

    It contains no path of this machine.

    Args:
        folder: of the adapter.
        config: the settings of the run.
        base_identity: of the base model, see LoadedModel.
        snippet: see `usage_snippet`.
        facts: lines about data and training.
        scores: those of the best validation (see vizsage.scoring.summary.summarise).
        example: one held-out sample with its answers before and after training.
    """
    base = hub_name(config)
    front: dict[str, Any] = {
        **({"base_model": base} if base else {}),
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
        f"A LoRA adapter for {_base(config)}, trained with VizSage {__version__} on `{config.dataset}`.",
        "",
        f"Its base is identified by `{base_identity}`, which {FINGERPRINT_FILE} contains too; VizSage refuses another "
        "one and names both.",
        "",
        "## Use",
        "",
        "With transformers and peft; VizSage is not needed. The prompt is the one of the training.",
        "",
        "```python",
        snippet.rstrip(),
        "```",
        "",
        "To merge the adapter into a base in 16 bits, which then needs no peft:",
        "",
        "```python",
        'model.merge_and_unload().save_pretrained("merged")',
        "```",
        "",
        "With VizSage, from the settings at the end of this page (`settings.yaml`):",
        "",
        "```python",
        "from vizsage import load_config, predict",
        "",
        'print(predict(load_config("settings.yaml"), "image.jpg", "what is in the image", adapter=".").text)',
        "```",
        "",
        "To publish this folder: `hf upload NAME/ADAPTER .`",
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
    lines += ["## Settings", "", "```yaml", _settings(config).rstrip(), "```", ""]
    header = yaml.safe_dump(front, sort_keys=False, allow_unicode=True)
    write_text(folder / "README.md", f"---\n{header}---\n\n" + "\n".join(lines))


def training_facts(plan: Plan, step: int, left_out: int) -> dict[str, Any]:
    """What a card says of data and training: one entry per line.

    Args:
        plan: of the run.
        step: optimizer steps done.
        left_out: samples that training left out.
    """
    facts: dict[str, Any] = {
        f"{key} ({split})": n for split, counts in plan.counts.items() for key, n in counts.items()
    }
    facts |= {"optimizer steps": step, "samples left out in training": left_out}
    for one in plan.extensions:
        facts[f"made longer at step {one.at_step}"] = (
            f"from {one.from_steps} to {one.to_steps} steps, longer_schedule: {one.schedule}"
        )
    if plan.config.init_adapter and plan.init_sha256:
        facts["began from the weights of"] = f"{plan.config.init_adapter.name} (SHA-256 {plan.init_sha256})"
    return facts


def _base(config: Config) -> str:
    """The base model in words, without the folder it is in."""
    if name := hub_name(config):
        return f"`{name}`"
    if config.model_name == TINY_MODEL:
        return "the tiny model in the package vizsage (`vizsage-tiny`)"
    return "a base model that was in a folder and names no repository on the Hugging Face hub"


def _settings(config: Config) -> str:
    """The settings without paths."""
    paths = [name for name, value in config if isinstance(value, Path)]
    if config.model_name not in (TINY_MODEL, hub_name(config)):
        paths.append("model_name")
    return config_to_yaml(config, leave_out=paths)


def _row(label: str, samples: int, score: float | None) -> str:
    return f"| {label} | {samples} | {'' if score is None else f'{score:.4f}'} |"


def _inline(value: Any) -> str:
    """Text of the data as one line of Markdown code, so that no character of it has a meaning there."""
    text = " ".join(str(value).split()).replace("`", "'")
    return f"`{text}`" if text else "(empty)"
