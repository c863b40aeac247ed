"""This project as a contender: `vizsage train` on a settings file; the figures are in its metrics.jsonl."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import yaml

from benchmarks.throughput.contenders import LEARNING_RATE, LORA, SEED, WEIGHT_DECAY, Contender, Job
from benchmarks.throughput.drawn_questions import data_settings, read_samples
from benchmarks.throughput.machine import free_memory, peak_gb
from vizsage.data.batching import memory_order
from vizsage.json_lines import read_jsonl


def measure(contender: Contender, job: Job, model: Path, questions: list[float]) -> Iterator[dict[str, Any]]:
    """One run for each number of questions per image; ends early when a run leaves memory behind."""
    from vizsage.cli import main

    for mean in questions:
        output_dir = Path(job.work) / f"run-{contender.name}-{mean:g}"
        settings = run_settings(contender, job, model, mean, output_dir)
        path = output_dir.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        code = main(["--debug", "train", str(path), *job.overrides])
        if code:
            sys.exit(code)  # the reason is the last line on stderr
        yield {"questions": mean, **figures(contender, job, output_dir), "images_per_step": images_per_step(job, mean)}
        shutil.rmtree(output_dir)
        if not free_memory():
            return


def run_settings(contender: Contender, job: Job, model: Path, mean: float, output_dir: Path) -> dict[str, Any]:
    """The settings file. Nothing is validated, and no checkpoint but the last one is written."""
    warmup, steps = job.measured_steps(contender)
    batch = job.our_batch if contender.shared else job.their_batch
    return {
        **data_settings(job.data_folder(mean)),
        "model_name": str(model),
        "backend": contender.backend,
        "share_images": contender.shared,
        # What `auto` does in a run of 500 steps or more: this is to measure such a run, not its first minutes.
        "torch_compile": contender.shared and job.size == "real",
        "load_in_4bit": contender.bits == 4,
        "lora_r": LORA["r"],
        "lora_alpha": LORA["lora_alpha"],
        "lora_dropout": LORA["lora_dropout"],
        "batch_size": batch,
        "grad_accum": job.step_questions // batch,
        "max_steps": warmup + steps,
        "lr": LEARNING_RATE,
        "warmup_steps": 2,
        "weight_decay": WEIGHT_DECAY,
        "optim": "adamw_8bit",
        "max_seq_length": job.max_length,
        "seed": SEED,
        "logging_steps": 1,
        "save_steps": 1_000_000,
        "max_new_tokens": 2,  # an answer is shown before and after
        "save_model": False,
        "output_dir": str(output_dir),
    }


def figures(contender: Contender, job: Job, output_dir: Path) -> dict[str, Any]:
    """What the steps after the warm-up took, from metrics.jsonl."""
    warmup, steps = job.measured_steps(contender)
    lines = [line for line in read_jsonl(output_dir / "metrics.jsonl") if "loss" in line]
    if len(lines) != warmup + steps:
        raise ValueError(f"{output_dir / 'metrics.jsonl'}: {len(lines)} lines of {warmup + steps} steps")
    measured = lines[warmup:]
    times = [job.step_questions / line["samples_per_s"] for line in measured]
    waits = [line["data_wait_share"] * seconds for line, seconds in zip(measured, times, strict=True)]
    peaks = [line["gpu_memory_peak_gib"] * 2**30 / 1e9 for line in lines if "gpu_memory_peak_gib" in line]
    return {
        "step_times_s": times,
        "step_waits_s": waits,
        "peak_gb": max(peaks) if peaks else peak_gb(),
    }


def images_per_step(job: Job, mean: float) -> float:
    """Different images of an optimizer step; a group that is split between two steps counts in both."""
    _, samples = read_samples(job.data_folder(mean))
    order = memory_order(samples, SEED).from_position(0)
    steps = job.warmup + job.steps
    return sum(len({s.group for s in islice(order, job.step_questions)}) for _ in range(steps)) / steps
