"""`vizsage eval`: answer a split, keep each answer as it comes, score them all."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vizsage.config import Config
from vizsage.data.images import refuse_bad_image
from vizsage.data.sample import Sample
from vizsage.data.sources import Split, open_split
from vizsage.errors import CheckpointError, ConfigError, Interrupted, VizSageError
from vizsage.evaluation.predictions import Predictions, Row
from vizsage.evaluation.results import SCHEMA_VERSION, complaints, score
from vizsage.evaluation.table import show
from vizsage.files import nearest_existing, sha256_file, write_json
from vizsage.interruption import SignalLatch, catch_signals
from vizsage.record import hardware, now, versions

if TYPE_CHECKING:
    from vizsage.backends.generation import Answer

log = logging.getLogger(__name__)

RESULTS = "results.json"
_SCAN_RECORDS = 1000


@dataclass(frozen=True)
class Answerer:
    """A model ready to answer, and `made_by`: all that decides its answers besides the samples."""

    model: Any
    processor: Any
    config: Config  # as resolved for this hardware
    adapter: Path | None
    made_by: dict[str, Any]


def find_adapter(config: Config, *, base: bool = False, adapter: Path | None = None) -> Path | None:
    """The adapter's folder: `adapter`, or the one that `config` trains; None for the base model.

    Raises ConfigError (`base` together with `adapter`), CheckpointError (no adapter there).
    """
    if base:
        if adapter is not None:
            raise ConfigError(f"the base model was asked for together with adapter {adapter}; leave one of them out")
        return None
    folder = adapter or config.adapter_dir
    if not (folder / "adapter_config.json").is_file():
        raise CheckpointError(
            f"{folder}: no adapter there (adapter_config.json is missing); train it first, name another folder, or "
            "evaluate the base model"
        )
    return folder


def load_answerer(config: Config, adapter: Path | None) -> Answerer:
    """Load the base model and put the adapter in folder `adapter` on it; None: the base model alone.

    Raises ConfigError, CheckpointError (an adapter of another base, template, instruction or pixel limits) or
    RepeatingError (GPU memory exceeded).
    """
    from vizsage.backends.hardware import resolve_for_hardware
    from vizsage.backends.loading import load_base
    from vizsage.backends.lora import load_adapter
    from vizsage.backends.memory import memory_reported
    from vizsage.data.prompts import fingerprint

    config, replaced = resolve_for_hardware(config)
    for warning in replaced:
        log.warning("%s", warning)
    with memory_reported(config, "loading the base model"):
        loaded = load_base(config)
        model = loaded.model if adapter is None else load_adapter(loaded, config, adapter)
    prompt = fingerprint(loaded.processor, config, loaded.base_identity)
    del prompt["base_model"]  # a name, and the same base may lie under another one; base_identity tells it
    made_by = {
        **_adapter_hashes(adapter),
        "fingerprint": prompt,
        "generation": generation_settings(config),
        "precision": {"dtype": str(loaded.dtype).removeprefix("torch."), "load_in_4bit": config.load_in_4bit},
        "max_seq_length": config.max_seq_length,  # longer descriptions are shortened to fit
    }
    return Answerer(model, loaded.processor, config, adapter, made_by)


def generation_settings(config: Config) -> dict[str, Any]:
    """The settings that decide how an answer is generated."""
    names = ["max_new_tokens", "num_beams", "do_sample"]
    if config.do_sample:
        names += ["temperature", "top_p", "top_k", "seed"]
    return {name: getattr(config, name) for name in names}


def evaluate(
    config: Config,
    *,
    split: str = "test",
    limit: int | None = None,
    base: bool = False,
    adapter: Path | None = None,
    fresh: bool = False,
    console: Console | None = None,
) -> dict[str, Any]:
    """Answer the samples of `split`; write predictions.jsonl as the answers come and results.json in the end.

    Both lie in output_dir/evaluation_results/<split>/, for the base model in <split>-base/. Answers that the same
    model gave before are kept and not made again; failed records are retried.

    Args:
        split: test, val, train, or the name of another file beside them, without its ending.
        limit: only the first so many samples, in file order.
        base: the base model without an adapter.
        adapter: folder of another adapter than the one that `config` trains.
        fresh: set earlier answers aside and begin anew.
        console: gets the progress bar and the tables; None: nothing is shown.

    Returns the content of results.json.

    Raises:
        Interrupted: a signal came; the answers so far are on disk and the same call continues.
        VizSageError: more than 1% of the records failed; the results are written all the same.
        RepeatingError: GPU memory exceeded; the answers so far are on disk.
        ConfigError, DataError, CheckpointError: before anything is written, or for an undecodable image on the way.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: expected at least 1, found {limit}")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError("evaluation runs in one process, found several (WORLD_SIZE); start it without torchrun")
    adapter = find_adapter(config, base=base, adapter=adapter)
    opened = open_split(config, split)
    folder = config.output_dir / "evaluation_results" / (f"{opened.name}-base" if base else opened.name)
    _check_writable(folder)
    questions = Questions(opened, streaming=config.use_val_streaming, limit=limit)
    with catch_signals() as latch:
        answerer = load_answerer(config, adapter)
        config, normalise = answerer.config, answerer.config.use_text_normalization
        predictions = Predictions(folder, answerer.made_by, normalise=normalise, fresh=fresh)
        with predictions.timed(), _progress(console) as progress:
            task = progress.add_task(opened.name, total=questions.total)
            for samples in questions.chunks(config.stream_buffer_size):
                for done in _answer(answerer, samples, predictions, latch):
                    progress.advance(task, done)
    if latch.signal:
        raise Interrupted(
            f"{latch.signal}: stopped with {len(predictions.answered)} answers in {predictions.path}; the same command "
            "continues"
        )

    summary, highlights, data_sha256 = score(predictions.finish(questions), questions.total, normalise=normalise)
    results = {
        "schema_version": SCHEMA_VERSION,
        **summary,
        "split": opened.name,
        "limit": limit,
        "mode": "squad" if normalise else "rigorous",
        "knowledge": "oracle" if config.external_knowledge else "none",
        **questions.left_out,
        "data": {"path": str(opened.path), "sha256": data_sha256},
        "base_model": config.model_name,
        "revision": config.revision,
        "adapter": None if adapter is None else str(adapter),
        **answerer.made_by,
        "throughput": predictions.throughput(),
        "seed": config.seed,
        "versions": versions(),
        "hardware": hardware(),
        "finished": now(),
    }
    write_json(folder / RESULTS, results)
    if console is not None:
        show(console, results, highlights, debug_exact_match=config.debug_exact_match)
    error, warning = complaints(summary, config.max_new_tokens)
    if warning:
        log.warning("%s", warning)
    if error:
        raise VizSageError(f"{folder / RESULTS}: {error}")
    return results


class Questions:
    """The samples of a split that are asked, in file order; held in memory, or read anew each time when `streaming`.

    `total` is their number. `left_out` counts, over the whole split, the samples left out because they need external
    knowledge and those that need a description the table lacks. Raises DataError that lists the bad records.
    """

    def __init__(self, split: Split, *, streaming: bool, limit: int | None) -> None:
        self._split, self._limit = split, limit
        self._samples = None if streaming else split.load()
        kept = sum(split.scan(_SCAN_RECORDS)) if self._samples is None else len(self._samples)
        self.total = kept if limit is None else min(limit, kept)
        counts = split.counts
        self.left_out = {
            "left_out": {"need_external_knowledge": counts.left_out_knowledge},
            "missing_descriptions": counts.missing_description,
        }
        if counts.left_out_knowledge:
            log.info(
                "%s: %d of %d samples need external knowledge and are left out (external_knowledge: false)",
                split.path,
                counts.left_out_knowledge,
                counts.records,
            )
        if counts.missing_description:
            log.warning(
                "%s: %d samples need a description that the table of external knowledge lacks; asked without it",
                split.path,
                counts.missing_description,
            )

    def __iter__(self) -> Iterator[Sample]:
        samples: Iterable[Sample] = self._split.stream() if self._samples is None else self._samples
        return islice(samples, self._limit)

    def chunks(self, size: int) -> Iterator[list[Sample]]:
        """All at once when in memory, where all questions on an image meet; else `size` consecutive ones at a time."""
        if self._samples is not None:
            yield list(self)
            return
        samples = iter(self)
        while chunk := list(islice(samples, size)):
            yield chunk


def _answer(answerer: Answerer, samples: list[Sample], predictions: Predictions, latch: SignalLatch) -> Iterator[int]:
    """Answer those of `samples` that have no answer yet, a batch at a time; yields how many more are done.

    Ends after the batch under way when a signal came.
    """
    from vizsage.backends.generation import answer_batches, generate_answers
    from vizsage.backends.memory import memory_reported

    config = answerer.config
    asked = [sample for sample in samples if not predictions.has(sample)]
    yield len(samples) - len(asked)
    if latch.signal or not asked:
        return
    batch_ends = set(accumulate(len(batch) for batch in answer_batches(asked, config.eval_batch_size)))
    by_id = {sample.sample_id: sample for sample in asked}
    answers = generate_answers(answerer.model, answerer.processor, asked, config, batch_size=config.eval_batch_size)
    batch: list[tuple[Sample, Row]] = []
    try:
        with memory_reported(config, "answering"):
            for count, answer in enumerate(answers, start=1):
                sample = by_id[answer.sample_id]
                if answer.text is None:
                    refuse_bad_image(sample.image, config)  # a sample that failed otherwise is recorded as failed
                batch.append((sample, _as_row(answer, answerer.processor)))
                if count in batch_ends:
                    predictions.append(batch)
                    yield len(batch)
                    batch = []
                    if latch.signal:
                        return
    finally:
        if batch:  # an error came in the middle of a batch
            predictions.append(batch)


def _as_row(answer: Answer, processor: Any) -> Row:
    raw_text = (
        None
        if answer.text is None
        else processor.tokenizer.decode(answer.token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    )
    return {
        "prediction": answer.text,
        "raw_text": raw_text,
        "token_ids": answer.token_ids,
        "finish_reason": answer.finish_reason,
        "error": answer.error,
    }


def _adapter_hashes(adapter: Path | None) -> dict[str, str | None]:
    """Weights and configuration (rank, scale) of an adapter decide alike what it answers."""
    if adapter is None:
        return {"adapter_sha256": None, "adapter_config_sha256": None}
    return {
        "adapter_sha256": sha256_file(next(adapter.glob("adapter_model.*"))),
        "adapter_config_sha256": sha256_file(adapter / "adapter_config.json"),
    }


def _check_writable(folder: Path) -> None:
    """Raise ConfigError now rather than after the model is loaded. Creates nothing."""
    existing = nearest_existing(folder)
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise ConfigError(f"output_dir: {existing} is not a folder that can be written to; name another output_dir")


def _progress(console: Console | None) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=console is None)
