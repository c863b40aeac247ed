"""A fine-tuning run from its settings to its adapter: what is already done, one attempt, how it ended."""

from __future__ import annotations

import logging
from dataclasses import replace

from accelerate import PartialState

from vizsage.check import quick_check
from vizsage.config import Config, config_to_yaml
from vizsage.contract import CONFIG, EXIT_DONE, EXIT_UNKNOWN, EXITS_WITH_CAUSE, OUTCOME
from vizsage.contract.run_files import Outcome
from vizsage.distributed.group import own_group
from vizsage.distributed.processes import reaching
from vizsage.errors import RepeatingError, VizSageError, is_out_of_memory
from vizsage.files import write_text
from vizsage.interruption import SignalLatch, catch_signals
from vizsage.models.loading.backends import load_early, refuse_vllm
from vizsage.models.loading.hardware import resolve_for_hardware
from vizsage.models.memory import memory_exceeded, memory_reported
from vizsage.record import RunRecord, outcome_of, write_outcome
from vizsage.training.attempt import TrainingAttempt
from vizsage.training.batch_size import DEFAULT, memory_is_limited
from vizsage.training.directory import only_one_run
from vizsage.training.resume import Done, done_without_peers, resumption
from vizsage.training.training_hashes import note_hashes
from vizsage.training.training_result import TrainingResult, result_of

log = logging.getLogger(__name__)


def train(config: Config, latch: SignalLatch | None = None) -> TrainingResult:
    """Fine-tune with the settings `config`, or continue the run in its output_dir.

    Args:
        config: the settings.
        latch: one that catches signals already; None: the signals of this call are caught.

    Returns:
        Where the adapter is, and how good it is; also for a run that was done before.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is trained.
        RepeatingError: the run cannot continue.
        Interrupted: after a signal, once a checkpoint is on disk.

    outcome.json contains the same for later readers.
    """
    if latch is None:
        with catch_signals() as caught:
            return train(config, caught)
    own_group()  # raises now, not after the model has been loaded
    refuse_vllm(config)
    given = config
    config, warnings = resolve_for_hardware(config)
    if done := done_without_peers(config):
        return result_of(config, done.step)
    if own_group().rank == 0:
        for warning in warnings:
            log.warning(warning)
    quick_check(config)
    with memory_reported(config, "loading the base model"):
        loaded = load_early(config)
    with reaching("this process"):
        world = PartialState(cpu=config.device == "cpu")
    with only_one_run(config, world) as held:
        start = resumption(config, world)
        if isinstance(start, Done):
            return result_of(config, start.step)
        if not start.plan.settled and not memory_is_limited(config):
            start = replace(start, plan=start.plan.with_batch_size(DEFAULT))
            log.warning("batch_size: auto replaced by %d: on a CPU there is no limit to find", DEFAULT)
        attempt = TrainingAttempt(start, world=world, latch=latch, held=held, loaded=loaded)
        _run_and_record(attempt, given)
        return result_of(config, attempt.step)


def _run_and_record(attempt: TrainingAttempt, given: Config) -> None:
    """Run the attempt, and write down how it ended, however it ends. `given`: the settings as the user gave them."""
    output_dir, main, record = attempt.config.output_dir, attempt.world.is_main_process, attempt.record
    if main:
        write_text(output_dir / CONFIG, config_to_yaml(given))
        # Otherwise a kill would leave the outcome of the attempt before as that of this one.
        (output_dir / OUTCOME).unlink(missing_ok=True)
        record.begin_attempt(attempt.plan.facts, attempt.step, resume=given.resume)
    exit_code, reason = EXIT_UNKNOWN, "unknown failure"
    try:
        note_hashes(
            attempt.plan,
            record,
            world=attempt.world,
            continued=attempt.checkpoint is not None,
            stop=lambda: attempt.latch.signal is not None,
        )
        attempt.run()
        exit_code, reason = EXIT_DONE, "done"
    except VizSageError as error:
        exit_code, reason = error.exit_code, str(error)
        raise
    except BaseException as error:
        if is_out_of_memory(error):
            exit_code, reason = RepeatingError.exit_code, memory_exceeded(attempt.config, error, "training")
            raise RepeatingError(reason) from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise
    finally:
        if not main and exit_code in EXITS_WITH_CAUSE:
            # The main process cannot know the cause: it only loses its peer, or waits until the launcher ends it.
            number = RunRecord(output_dir).attempt
            write_outcome(output_dir, Outcome(exit_code=exit_code, reason=reason, step=attempt.step, attempt=number))
        if main:
            attempt.close_bar()
            if exit_code == EXIT_UNKNOWN and (cause := outcome_of(output_dir)):
                exit_code, reason = cause.exit_code, cause.reason
            if attempt.held.is_there():
                record.end_attempt(step=attempt.step, exit_code=exit_code, reason=reason)
                write_outcome(
                    output_dir,
                    Outcome(exit_code=exit_code, reason=reason, step=attempt.step, attempt=record.attempt),
                )
            # Last: an upload may take a minute, and a scheduler may kill this process before that has passed.
            attempt.trackers.finish(exit_code, attempt.progress.best_scores)
