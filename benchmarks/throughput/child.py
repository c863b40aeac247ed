"""What the child processes of the benchmark do: make model and questions, or measure one contender."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from benchmarks.throughput.contenders import CONTENDERS, Job, NotHere
from benchmarks.throughput.machine import check_possible, describe_machine
from benchmarks.throughput.measured_rows import describe_rows
from benchmarks.throughput.merging import refuse_another
from vizsage.files import write_json


def prepare(job: Job, questions: list[float], result: Path, merge: Path | None) -> None:
    """Make the model unless it is there, and the data sets; `result` takes the machine and what a row looks like.

    Ends the process before that, which takes minutes and many GB at real size, if `merge` was measured otherwise.
    """
    import torch

    if job.size == "real" and not torch.cuda.is_available():
        raise SystemExit("--size real needs a GPU; --size tiny runs everywhere")
    machine = describe_machine()
    if merge:
        refuse_another(merge, machine, job)
    from transformers import AutoProcessor

    from benchmarks.throughput.drawn_questions import write_questions
    from benchmarks.throughput.random_models import IMAGES, ensure_model

    model = ensure_model(Path(job.models), job.family, job.size)
    processor = AutoProcessor.from_pretrained(str(model))
    words = job.text_tokens - _tokens_around(processor)
    if words < 1:
        raise SystemExit(f"--text-tokens {job.text_tokens}: instruction and template alone take more")
    size = IMAGES[job.size, job.family]
    needed = (job.warmup + job.steps) * job.step_questions
    for mean in questions:
        write_questions(job.data_folder(mean), mean=mean, questions=needed, words=words, size=size)
    row = _plain_row(processor, job, questions[0])
    write_json(result, {"machine": machine, "model": str(model), "image": size, "row": row})


def measure(name: str, job: Job, model: Path, questions: list[float], result: Path) -> None:
    """Measure `name` and write down after each number of questions what was found so far."""
    contender = CONTENDERS[name]
    found: dict[str, Any] = {"measured": []}
    try:
        check_possible(contender)
        if contender.kind == "vizsage":
            from benchmarks.throughput.ours import measure as run
        elif contender.kind == "unsloth":
            from benchmarks.throughput.theirs import measure_unsloth as run
        else:
            from benchmarks.throughput.theirs import measure_trl as run
        for measured in run(contender, job, model, questions):
            found["measured"].append({**measured, **speed(measured, job.step_questions)})
            write_json(result, found)
    except NotHere as reason:
        write_json(result, {**found, "not_run": str(reason)})


def speed(measured: dict[str, Any], step_questions: int) -> dict[str, Any]:
    """Seconds per step, samples per second and the share of a step that waits for data.

    The time of a step is the median, because a step that compiles something late, after a short warm-up, is not
    typical. The share is the mean wait divided by that median: divided by the mean, such a step would hide the wait.
    """
    step_s, waits = statistics.median(measured["step_times_s"]), measured["step_waits_s"]
    share = None if waits is None else statistics.mean(waits) / step_s
    return {"step_s": step_s, "samples_per_s": step_questions / step_s, "data_wait_share": share}


def _tokens_around(processor: Any) -> int:
    """Text tokens of a row that are not its question's: instruction, template, answer (two words)."""
    return len(processor.tokenizer(_row_text(processor, "woman"), add_special_tokens=False)["input_ids"]) - 1


def _plain_row(processor: Any, job: Job, mean: float) -> dict[str, Any]:
    """Tokens and shape of the pixels of a separate row, as the processor makes it."""
    from benchmarks.throughput.drawn_questions import read_samples
    from vizsage.data.images import load_image

    config, samples = read_samples(job.data_folder(mean))
    texts = [_row_text(processor, sample.question) for sample in samples]
    lengths = [len(processor.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts]
    image = load_image(samples[0].images[0], max_image_px=config.max_image_px)
    one = processor(text=[texts[0]], images=[[image]], add_special_tokens=False, return_tensors="pt")
    mean_tokens = sum(lengths) / len(lengths)
    row = describe_rows(one)
    return {**row, "text_tokens": mean_tokens, "tokens": mean_tokens - lengths[0] + row["tokens"]}


def _row_text(processor: Any, question: str) -> str:
    from vizsage.config import Config
    from vizsage.data.images import EmbeddedImage
    from vizsage.data.prompts import messages
    from vizsage.data.sample import Sample

    instruction = Config.model_fields["instruction"].default
    sample = Sample("", (EmbeddedImage("", b""),), question, "a woman")
    turns = [
        *messages(sample, instruction, None),
        {"role": "assistant", "content": [{"type": "text", "text": sample.answer}]},
    ]
    return str(processor.apply_chat_template(turns, tokenize=False))
