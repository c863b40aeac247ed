"""`vizsage eval`: answer the questions of a split, write each answer to disk at once, and score them all."""

from __future__ import annotations

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from vizsage.config import Config
from vizsage.contract import PREDICTIONS, REPORT, RESULTS, SAMPLE_HASHES
from vizsage.contract.results_file import SCHEMA_VERSION, ResultsFile
from vizsage.data.sample_hashes import write_hashes
from vizsage.data.sources import open_split
from vizsage.distributed.group import own_group
from vizsage.distributed.processes import Processes
from vizsage.errors import ConfigError, DataError, Interrupted, VizSageError, one_line, printable
from vizsage.evaluation.answerer import find_adapter, load_answerer
from vizsage.evaluation.answers import AnswerStore
from vizsage.evaluation.folder import check_base_model, results_folder
from vizsage.evaluation.leaks import asked_hashes, leak_warning, leaks_of
from vizsage.evaluation.predictions import set_aside_other, write_predictions
from vizsage.evaluation.questions import Questions
from vizsage.evaluation.report.beside import shown_by
from vizsage.evaluation.report.report_file import write_report
from vizsage.evaluation.report.tracked_results import tracked_evaluation
from vizsage.evaluation.results import Throughput, complaints, score
from vizsage.evaluation.results_table import show
from vizsage.evaluation.worker import EvaluationWorker
from vizsage.files import write_json
from vizsage.interruption import SignalLatch, catch_signals
from vizsage.lock import Held, only_one
from vizsage.record import hardware, now, versions
from vizsage.scoring.caveats import caveat_warnings
from vizsage.scoring.normalisation import mode_of
from vizsage.tracking.trackers import Trackers, check_trackers

if TYPE_CHECKING:
    pass

log = logging.getLogger(__name__)

_WRITTEN = f".{PREDICTIONS}.new"  # predictions until they replace earlier ones


def evaluate(
    config: Config,
    *,
    split: str = "test",
    limit: int | None = None,
    base: bool = False,
    adapter: Path | None = None,
    blind: bool = False,
    fresh: bool = False,
    other_data: bool = False,
    console: Console | None = None,
    latch: SignalLatch | None = None,
) -> dict[str, Any]:
    """Answer the samples of `split`, write each answer to disk at once, then predictions, results and the report.

    They are written to output_dir/evaluation_results/<split>/, for the base model to <split>-base/, for a blind
    evaluation to <split>-blind/ or <split>-base-blind/. Answers that the same model gave to the same prompts before are
    used again; failed records are retried. Each process that torchrun starts answers a share of the batches, and the
    first one writes the results.

    Args:
        config: the settings.
        split: test, val, train, or the name of another file beside them, without its ending.
        limit: only the first so many samples, in file order.
        base: the base model without an adapter.
        adapter: folder of another adapter than the one that `config` trains.
        blind: withhold the images; the model is shown a plain grey one instead.
        fresh: move earlier answers aside, so that every question is asked again.
        other_data: allow another data set than that of the run in output_dir; its results go to <dataset>-<split>/.
        console: gets the tables; None: neither tables nor progress are shown.
        latch: one that catches signals already; None: signals are caught during this call.

    Returns:
        The content of results.json.

    Raises:
        Interrupted: a signal came; the answers so far are on disk and the same call continues.
        VizSageError: more than 1% of the records failed; the results are written nevertheless.
        RepeatingError: GPU memory exceeded; the answers so far are on disk.
        ConfigError: wrong settings or arguments; nothing is written.
        DataError: unusable data, before anything is written, or an image that cannot be decoded.
        CheckpointError: no adapter, or one of another base or prompt; nothing is written.
    """
    if limit is not None and limit < 1:
        raise ConfigError(f"limit: expected at least 1, found {limit}")
    check_trackers(config)
    own_group()  # refuse wrong variables of the environment before the model is loaded
    adapter = find_adapter(config, base=base, adapter=adapter)
    opened = open_split(config, split)
    folder = results_folder(config, opened, base=base, blind=blind, other_data=other_data)
    questions = Questions(opened, streaming=config.use_val_streaming, limit=limit)
    with catch_signals(latch) as latch, Processes(latch=latch) as processes, ExitStack() as held:
        first = processes.rank == 0
        locked: list[Held] = []

        def lock(*, create: bool) -> None:
            if first and not locked and (create or folder.is_dir()):
                taken = held.enter_context(only_one(folder, "evaluating"))
                taken.clean((PREDICTIONS, _WRITTEN, SAMPLE_HASHES, RESULTS, REPORT))
                locked.append(taken)

        # Before the model is loaded, because two models may not fit. The folder is created only if one was loaded.
        processes.together(lambda: lock(create=False))
        answerer = load_answerer(config, adapter)
        if base:
            check_base_model(config, answerer.made_by)
        processes.together(lambda: lock(create=True))
        conditions = {"split": opened.name, "limit": limit, "blind": blind, **_scoring(config), **answerer.made_by}
        # No process may read answers before the first one has moved aside those of other conditions.
        processes.together(lambda: _begin(folder, conditions, fresh=fresh) if first else None)
        worker = EvaluationWorker(answerer, AnswerStore(folder, rank=processes.rank), processes, blind=blind)
        _answer(worker, questions, latch, folder.name, shown=first and console is not None)
        [results, *_] = processes.together(
            lambda: _conclude(folder, questions, worker, conditions, console) if first else {}
        )
    told = ResultsFile.model_validate(results)
    failed, cut = complaints(told, answerer.config.max_new_tokens)
    if cut:
        log.warning("%s", cut)
    if leaked := leak_warning(told.leaks, told.split):
        log.warning("%s", leaked)
    for warning in caveat_warnings(told, told.mode):
        log.warning("%s", warning)
    if failed:
        raise VizSageError(f"{folder / RESULTS}: {failed}")
    return results


def _answer(worker: EvaluationWorker, questions: Questions, latch: SignalLatch, name: str, *, shown: bool) -> None:
    """All processes answer their shares, with a progress bar called `name` if `shown`. Raises Interrupted in each."""
    with _progress(shown=shown) as progress:
        task = progress.add_task(escape(printable(name)), total=questions.total)
        stopped = worker.processes.together(
            lambda: worker.answer_all(questions, lambda done: progress.advance(task, done))
        )
    if any(stopped):
        signals, kept = worker.processes.gather(latch.signal), worker.store.folder
        signal = next(filter(None, signals), "a signal")
        raise Interrupted(f"{signal}: stopped; the answers so far are in {kept}, and the same command continues")


def _scoring(config: Config) -> dict[str, str]:
    """The settings that decide the results besides the model and the samples."""
    return {
        "mode": mode_of(config.use_text_normalization),
        "knowledge": config.external_knowledge_source if config.external_knowledge else "none",
    }


def _begin(folder: Path, conditions: dict[str, Any], *, fresh: bool) -> None:
    if fresh and (aside := AnswerStore(folder).set_aside()):
        log.warning("%s: earlier answers are set aside in %s: a fresh start was asked for", folder, aside.name)
    set_aside_other(folder, conditions)


def _conclude(
    folder: Path, questions: Questions, worker: EvaluationWorker, conditions: dict[str, Any], console: Console | None
) -> dict[str, Any]:
    """Write and show the results of what all processes answered. Returns the content of results.json."""
    config, store = worker.answerer.config, worker.store
    normalise = config.use_text_normalization
    store.read_all()
    throughput, collector = Throughput(), asked_hashes(worker.keys)
    # Do not replace earlier predictions yet: only the rows show whether those are of other data and must be kept.
    written = folder / _WRITTEN
    rows = write_predictions(written, collector.watch(questions), worker.shown, worker.keys, store, normalise=normalise)
    summary, highlights, data = score(throughput.watch(rows), questions.total, normalise=normalise)
    set_aside_other(folder, {f"data.{name}": sha256 for name, sha256 in data.items()})
    written.replace(folder / PREDICTIONS)
    adapter, asked = worker.answerer.adapter, collector.hashes()
    leaks = leaks_of(asked, config, adapter)
    content = {
        "schema_version": SCHEMA_VERSION,
        **summary,
        **conditions,
        **questions.left_out,
        "data": {"path": str(questions.path), **data, "sample_hashes": write_hashes(folder, asked).model_dump()},
        "base_model": config.model_name,
        "revision": config.revision,
        "adapter": None if adapter is None else str(adapter),
        "settings": config.model_dump(mode="json"),
        "leaks": None if leaks is None else leaks.model_dump(),
        "throughput": throughput.as_dict(),
        "processes": worker.processes.count,
        "seed": config.seed,
        "versions": versions(),
        "hardware": hardware(),
        "finished": now(),
    }
    results = ResultsFile.model_validate(content)
    write_json(folder / RESULTS, content)
    report = write_report(folder)
    for other in shown_by(folder):
        try:
            write_report(other)
        except (DataError, OSError) as error:  # of an older version, damaged or not writable; this evaluation is whole
            log.warning("%s: not written again: %s", other / REPORT, one_line(error))
    Trackers(config).log_evaluation(tracked_evaluation(config, results, folder))
    if console is not None:
        show(console, results, highlights, debug_exact_match=config.debug_exact_match)
    log.info("%s shows the answers with their images", report)
    return content


def _progress(*, shown: bool) -> Progress:
    """A bar on stderr where that is a terminal; stdout is for what scripts read."""
    stderr = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=stderr, transient=True, disable=not (shown and stderr.is_terminal))
