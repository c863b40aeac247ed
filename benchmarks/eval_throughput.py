"""How fast questions about images are answered.

Usage: python -m benchmarks.eval_throughput

The same model, with random weights, answers the same questions in several ways, each from the files on disk to text:

- loop: one question at a time through transformers' generate, the usual script.
- padded-N: left-padded batches of N questions through generate, each with its own copy of the image.
- vizsage-plain: this project with share_images: false.
- vizsage: this project.
- vizsage-vllm: this project with backend: vllm, where vLLM is installed and serves the model.

Answers are forced to 4 tokens, AQUA's usual length. The figures are answers per second and their ratios within this one
run; the clock includes reading, decoding and preparing images, and excludes loading the model and a warm-up. How many
answers of vizsage are not those of vizsage-plain is printed, too: in bfloat16 rounding decides between tokens that are
all but equally likely, which those of random weights often are; in float32 (a CPU) there must be none.

Exit code 1 where a bar is missed: 10 times the loop and 2.5 times padded batches, at real size on a GPU.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from PIL import Image
from rich.console import Console
from rich.table import Table

from benchmarks.throughput.drawn_questions import data_settings, write_questions
from benchmarks.throughput.machine import describe_machine, free_memory, peak_gb
from benchmarks.throughput.random_models import IMAGES, ensure_model
from vizsage.config import Config, build_config
from vizsage.data.prompts import render_prompt
from vizsage.data.sample import Sample
from vizsage.data.sources import open_split
from vizsage.errors import ConfigError
from vizsage.files import write_json
from vizsage.models.generation import Generator
from vizsage.models.loading.hf import load_base, load_processor

ANSWER_TOKENS = 4
WARM_UP = 64  # questions
BARS = {"loop": 10.0, "padded": 2.5}
AIMS = {"loop": 20.0, "padded": 3.5}
Answers = dict[str, list[int]]


def main() -> int:
    """Measure, print the table, and print whether the required ratios are reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--size", choices=("real", "tiny"), default="tiny", help="sizes of model and images (default: tiny)")
    add("--family", choices=("mllama", "qwen2_5_vl"), default="mllama", help="architecture (default: mllama)")
    add("--per-image", type=float, default=4.8, metavar="Q", help="questions per image, mean (default: 4.8)")
    add("--questions", type=int, default=480, metavar="N", help="questions that each way answers (default: 480)")
    add("--text-tokens", type=int, default=80, metavar="N", help="about the words of a question (default: 80)")
    add("--padded", type=int, default=24, metavar="N", help="questions in a padded batch (default: 24)")
    add("--set", nargs="+", default=[], metavar="key=value", help="settings of this project's runs")
    add("--only", nargs="+", metavar="NAME", help="loop, padded, vizsage-plain, vizsage, vizsage-vllm")
    add("--models", type=Path, metavar="DIR", help="where models are kept for later runs; 22 GB each at real size")
    add("--json", type=Path, metavar="FILE", help="write what was measured there")
    arguments = parser.parse_args()
    if arguments.size == "real" and not torch.cuda.is_available():
        parser.error("--size real needs a GPU; --size tiny runs everywhere")
    with tempfile.TemporaryDirectory(prefix="vizsage-benchmark-") as work:
        result = measure(arguments, Path(work))
    if arguments.json:
        write_json(arguments.json, result)
    show(result)
    return 1 if any(bar["met"] is False for bar in result["bars"]) else 0


def measure(arguments: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Make model and questions, answer them in each way; the content of the JSON file."""
    folder = ensure_model(arguments.models or work / "models", arguments.family, arguments.size)
    size = IMAGES[arguments.size, arguments.family]
    data = write_questions(
        work / "data",
        mean=arguments.per_image,
        questions=arguments.questions,
        words=arguments.text_tokens,
        size=size,
    )
    settings = {
        **data_settings(data),
        "model_name": str(folder),
        "load_in_4bit": False,
        "max_new_tokens": ANSWER_TOKENS,
        "max_seq_length": 4096,
        **dict(override.split("=", 1) for override in arguments.set),
    }
    config = build_config(settings)
    plain = config.model_copy(update={"share_images": False})
    samples = open_split(config, "train").load()[: arguments.questions]
    found: dict[str, Answers] = {}

    def timed(name: str, way: Callable[[Sequence[Sample]], Answers]) -> dict[str, Any]:
        free_memory()
        way(samples[:WARM_UP])  # kernels are chosen and memory is taken
        _synchronise()
        start = time.perf_counter()
        found[name] = way(samples)
        _synchronise()
        seconds = time.perf_counter() - start
        assert all(len(ids) == ANSWER_TOKENS for ids in found[name].values())
        print(f"{name}: {len(samples) / seconds:.2f} answers/s", file=sys.stderr, flush=True)
        return {"way": name, "answers_per_s": len(samples) / seconds, "seconds": seconds, "peak_gb": peak_gb()}

    rows: list[dict[str, Any]] = []
    padded = f"padded-{arguments.padded}"
    for load, names in ((load_base, ("vizsage", "vizsage-plain")), (_as_scripts_do, (padded, "loop"))):
        loaded = load(config)
        dtype = str(loaded.model.dtype).removeprefix("torch.")
        ways: dict[str, Callable[[Sequence[Sample]], Answers]] = {
            "vizsage": partial(_ours, loaded, config),
            "vizsage-plain": partial(_ours, loaded, plain),
            padded: partial(_generate, loaded, config, arguments.padded),
            "loop": partial(_generate, loaded, config, 1),
        }
        for name in names:
            if arguments.only and name.removesuffix(f"-{arguments.padded}") not in arguments.only:
                continue
            free_memory()
            ways[name](samples[:WARM_UP])  # kernels are chosen and memory is taken
            _synchronise()
            start = time.perf_counter()
            found[name] = ways[name](samples)
            _synchronise()
            seconds = time.perf_counter() - start
            assert all(len(ids) == ANSWER_TOKENS for ids in found[name].values())
            rows.append(
                {"way": name, "answers_per_s": len(samples) / seconds, "seconds": seconds, "peak_gb": peak_gb()}
            )
            print(f"{name}: {len(samples) / seconds:.2f} answers/s", file=sys.stderr, flush=True)
        del loaded, ways
        free_memory()
    notes = []
    if not arguments.only or "vizsage-vllm" in arguments.only:
        try:
            engine = _vllm(build_config({**settings, "backend": "vllm"}))
        except ConfigError as reason:  # not installed, no GPU, or a model that it does not serve
            notes.append(f"vizsage-vllm: {reason}")
        else:
            rows.append(timed("vizsage-vllm", partial(_answers, engine)))
    return {
        "schema_version": 1,
        "started": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "machine": describe_machine(),
        "size": arguments.size,
        "family": arguments.family,
        "questions": len(samples),
        "per_image": arguments.per_image,
        "image_px": list(size),
        "answer_tokens": ANSWER_TOKENS,
        "dtype": dtype,
        "settings": {key: getattr(config, key) for key in ("eval_batch_size", "eval_batch_tokens")},
        "measurements": rows,
        "other_answers": _different(found, "vizsage", "vizsage-plain"),
        "notes": notes,
        "bars": _bars(rows, arguments.size, arguments.family, arguments.per_image),
    }


def _as_scripts_do(config: Config) -> Any:
    """The model as transformers loads it, with its processor."""
    from transformers import AutoModelForImageTextToText

    cuda = torch.cuda.is_available()
    options: dict[str, Any] = {"dtype": torch.bfloat16, "device_map": "cuda"} if cuda else {"dtype": torch.float32}
    model: Any = AutoModelForImageTextToText.from_pretrained(config.model_name, **options)
    return SimpleNamespace(model=model.eval(), processor=load_processor(config))


def _ours(loaded: Any, config: Config, samples: Sequence[Sample]) -> Answers:
    """This project's way, set so that no answer ends before its 4 tokens."""
    generator = Generator(loaded.model, loaded.processor, config)
    generator.end_ids = []
    generator.settings.eos_token_id = None
    return _answers(generator, samples)


def _answers(generator: Any, samples: Sequence[Sample]) -> Answers:
    batches = generator.answer(generator.batches(samples))
    return {answer.sample_id: answer.token_ids for answers in batches for answer in answers}


def _vllm(config: Config) -> Any:
    """The base model in vLLM, with the same settings. Raises ConfigError where that cannot be."""
    from vizsage.models.loading.hardware import resolve_for_hardware
    from vizsage.models.loading.vllm import serve

    config, _ = resolve_for_hardware(config)
    generator, _ = serve(config, None)
    generator.end_ids = []
    generator.settings.stop_token_ids = []
    return generator


def _generate(loaded: Any, config: Config, batch_size: int, samples: Sequence[Sample]) -> Answers:
    """Batches in the order of the file through the processor and generate, as scripts for evaluation do it."""
    model, processor = loaded.model, loaded.processor
    processor.tokenizer.padding_side = "left"
    found: Answers = {}
    for first in range(0, len(samples), batch_size):
        batch = samples[first : first + batch_size]
        images = [[Image.open(config.images_dir / name).convert("RGB") for name in sample.group] for sample in batch]
        texts = [render_prompt(processor, sample, config, None) for sample in batch]
        inputs = processor(text=texts, images=images, return_tensors="pt", padding=True, add_special_tokens=False)
        inputs = inputs.to(model.device, model.dtype)
        with torch.inference_mode():
            output = model.generate(
                **inputs,
                min_new_tokens=ANSWER_TOKENS,
                max_new_tokens=ANSWER_TOKENS,
                do_sample=False,
                pad_token_id=processor.tokenizer.pad_token_id,
            )
        new = output[:, inputs["input_ids"].shape[1] :].tolist()
        processor.tokenizer.batch_decode(new, skip_special_tokens=True)
        found |= {sample.sample_id: ids for sample, ids in zip(batch, new, strict=True)}
    return found


def _different(found: dict[str, Answers], one: str, other: str) -> dict[str, Any] | None:
    """Share of the answers, 0 to 1, that are not the same in two ways."""
    if one not in found or other not in found:
        return None
    flipped = sum(ids != found[other][sample_id] for sample_id, ids in found[one].items())
    return {"of": one, "against": other, "share": flipped / len(found[one])}


def _bars(rows: list[dict[str, Any]], size: str, family: str, per_image: float) -> list[dict[str, Any]]:
    """The promises about real sizes, each with what was found."""
    if (size, family, per_image) != ("real", "mllama", 4.8):
        return []
    speeds = {row["way"].split("-")[0] if "padded" in row["way"] else row["way"]: row["answers_per_s"] for row in rows}
    bars = []
    for whom, times in BARS.items():
        ratio = speeds["vizsage"] / speeds[whom] if "vizsage" in speeds and whom in speeds else None
        bar = {"against": whom, "wanted": times, "aim": AIMS[whom], "found": ratio}
        bars.append({**bar, "met": None if ratio is None else ratio >= times})
    return bars


def show(result: dict[str, Any]) -> None:
    """Print the table, the notes and the bars."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    machine = result["machine"]
    title = f"{result['family']}, {result['size']}; {machine['device']}; {result['per_image']:g} questions per image"
    table = Table("way", "answers/s", "peak GB", "x slower than vizsage", title=title)
    speeds = {row["way"]: row["answers_per_s"] for row in result["measurements"]}
    for row in result["measurements"]:
        ratio = f"{speeds['vizsage'] / row['answers_per_s']:.2f}" if "vizsage" in speeds else ""
        peak = "-" if row["peak_gb"] is None else f"{row['peak_gb']:.1f}"
        table.add_row(row["way"], f"{row['answers_per_s']:.2f}", peak, ratio)
    console.print(table)
    if other := result["other_answers"]:
        console.print(f"answers of {other['of']} that are not those of {other['against']}: {other['share']:.2%}")
    for note in result["notes"]:
        console.print(note, markup=False, highlight=False)
    for bar in result["bars"]:
        found = "not measured" if bar["found"] is None else f"{bar['found']:.2f} x"
        verdict = {None: "", True: "met", False: "MISSED"}[bar["met"]]
        console.print(f"{bar['against']}: {found}, wanted {bar['wanted']:g} x (aim {bar['aim']:g} x): {verdict}")


def _synchronise() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


if __name__ == "__main__":
    sys.exit(main())
