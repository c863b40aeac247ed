"""A fine-tuning run from its settings to its adapter: plan, train, save, say how it ended."""

from __future__ import annotations

import logging
import time
from itertools import islice
from pathlib import Path
from typing import Any

from accelerate import PartialState
from transformers import PrinterCallback

from vizsage.check import quick_check
from vizsage.config import Config, config_to_yaml
from vizsage.contract import EXIT_UNKNOWN, EXITS_WITH_CAUSE
from vizsage.data.collate import TrainCollator
from vizsage.data.left_out import require_some, summary
from vizsage.data.prompts import fingerprint
from vizsage.distributed.group import own_group
from vizsage.distributed.processes import reaching
from vizsage.errors import Interrupted, RepeatingError, VizSageError, is_out_of_memory
from vizsage.files import write_text
from vizsage.interruption import SignalLatch, catch_signals
from vizsage.lock import Held
from vizsage.models.adapters.lora import add_adapter, save_adapter
from vizsage.models.generation import generate_answers
from vizsage.models.loaded import LoadedModel
from vizsage.models.loading.backends import load_base, load_early, refuse_vllm
from vizsage.models.loading.hardware import resolve_for_hardware
from vizsage.models.memory import memory_exceeded, memory_reported
from vizsage.models.shared_image.sharing import compile_layers, share_images
from vizsage.record import RunRecord, read_outcome, versions, write_outcome
from vizsage.tracking import Tracker, WandbTracker
from vizsage.training import checkpoints
from vizsage.training.batch_size import DEFAULT, find_batch_size, memory_is_limited
from vizsage.training.card import write_card
from vizsage.training.checkpoint_state import check_state
from vizsage.training.continuation import from_checkpoint, is_done, is_done_for, plan_here
from vizsage.training.directory import on_main, only_one_run, set_aside
from vizsage.training.flow import Flow
from vizsage.training.loader import Steps
from vizsage.training.metrics_log import MetricsLog
from vizsage.training.plan import Plan
from vizsage.training.progress import Progress, read_progress
from vizsage.training.trainer import VisionTrainer, trainer_arguments
from vizsage.training.validation import validate

log = logging.getLogger(__name__)


def train(config: Config, latch: SignalLatch | None = None) -> None:
    """Fine-tune as `config` says, or continue the run in its output_dir.

    `latch` is one that catches signals already; without it the signals of this call are caught. Raises ConfigError,
    DataError or CheckpointError before anything is trained; RepeatingError when the run cannot go on; Interrupted
    after a signal, once a checkpoint is on disk. outcome.json tells the same to whoever asks later.
    """
    if latch is None:
        with catch_signals() as caught:
            return train(config, caught)
    own_group()  # refused now rather than after the model is loaded
    refuse_vllm(config)
    given = config
    config, warnings = resolve_for_hardware(config)
    if config.resume and is_done_for(config):
        return None
    if own_group().rank == 0:
        for warning in warnings:
            log.warning(warning)
    quick_check(config)
    with memory_reported(config, "loading the base model"):
        loaded = load_early(config)
    with reaching("this process"):
        world = PartialState(cpu=config.device == "cpu")
    with only_one_run(config, world) as held:
        record, plan = plan_here(config, world)
        if not config.resume and not record.goes_on_anew(plan.identity):
            on_main(world, lambda: set_aside(config, record))
            record, plan = plan_here(config, world)
        # Without a result or a checkpoint nothing is lost by other settings: a mistake in the first try is mended.
        if is_done(config, record, plan):
            return None
        plan, checkpoint = from_checkpoint(plan, world)
        if not plan.settled and not memory_is_limited(config):
            plan = plan.with_batch_size(DEFAULT)
            log.warning("batch_size: auto replaced by %d: on a CPU there is no limit to find", DEFAULT)
        return _attempt(plan, given, record, world, latch, held, checkpoint, loaded)


def _attempt(
    plan: Plan,
    given: Config,
    record: RunRecord,
    world: PartialState,
    latch: SignalLatch,
    held: Held,
    checkpoint: Path | None,
    loaded: LoadedModel | None,
) -> None:
    """Train, and write down how it ended, however it ends."""
    output_dir, main = plan.config.output_dir, world.is_main_process
    run = _Run(plan, record, world, latch, held, checkpoint, loaded)
    if main:
        write_text(output_dir / "config.yaml", config_to_yaml(given))
        # How the attempt before ended stays in run.json; a kill must not leave its outcome as that of this one.
        (output_dir / "outcome.json").unlink(missing_ok=True)
        record.begin_attempt(plan.facts | {"versions": versions()}, run.step, resume=given.resume)
    exit_code, reason = EXIT_UNKNOWN, "unknown failure"
    try:
        run.go()
        exit_code, reason = 0, "done"
    except VizSageError as error:
        exit_code, reason = error.exit_code, str(error)
        raise
    except BaseException as error:
        if is_out_of_memory(error):
            exit_code, reason = RepeatingError.exit_code, memory_exceeded(run.config, error, "training")
            raise RepeatingError(reason) from error
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        raise
    finally:
        if not main and exit_code in EXITS_WITH_CAUSE:
            # The main process only loses its peer, or waits for it until the launcher ends it.
            write_outcome(
                output_dir, exit_code=exit_code, reason=reason, step=run.step, attempt=RunRecord(output_dir).attempt
            )
        if main:
            run.close_bar()
            if exit_code == EXIT_UNKNOWN and (cause := read_outcome(output_dir)):
                exit_code, reason = cause["exit_code"], cause["reason"]
            if held.is_there():
                record.end_attempt({"step": run.step, "exit_code": exit_code, "reason": reason})
                write_outcome(output_dir, exit_code=exit_code, reason=reason, step=run.step, attempt=record.attempt)
            # Last: an upload may take a minute, and who waits for this process may not grant it.
            run.tracker.finish(exit_code, run.progress.best_scores)


class _Run:
    """One attempt at a plan. `go` is its story."""

    def __init__(
        self,
        plan: Plan,
        record: RunRecord,
        world: PartialState,
        latch: SignalLatch,
        held: Held,
        checkpoint: Path | None,
        loaded: LoadedModel | None,
    ) -> None:
        self.plan, self.config, self.record, self.world, self.latch = plan, plan.config, record, world, latch
        self.held, self.checkpoint, self.loaded = held, checkpoint, loaded
        self.step = checkpoints.step_of(checkpoint) if checkpoint else 0
        self.progress = read_progress(checkpoint) if checkpoint else Progress()
        self.tracker = Tracker()
        self.metrics: MetricsLog | None = None
        self.validation_began_s = 0.0

    def go(self) -> None:
        """Load, continue or start, train, save the best weights."""
        with memory_reported(self.config, "loading the base model"):
            loaded = self.loaded or load_base(self.config)
            self.model, self.processor = add_adapter(loaded, self.config), loaded.processor
        sharing = share_images(self.model.get_base_model(), self.processor, self.config, self.plan.questions_per_image)
        collate = TrainCollator(
            self.processor,
            self.config,
            share_images=sharing is not None,
            pixels=loaded.dtype,
            row_tokens=sharing.row_tokens if sharing else None,
        )
        order = self.plan.order
        require_some(islice(order.from_position(0), order.total), collate)
        if not self.plan.settled:
            self._settle(find_batch_size(self.plan, self.model, collate, sharing))
        config, plan = self.config, self.plan
        compile_layers(sharing, config, plan.total_steps)
        before = self._show_example("before training")
        flow = Flow(
            config,
            self.latch,
            self.progress,
            plan.total_steps,
            self._validate if plan.validation else None,
            self._report,
        )
        trainer = VisionTrainer(
            config=config,
            steps=Steps(
                plan.order,
                collate,
                plan.share,
                first_step=self.step,
                total_steps=plan.total_steps,
            ),
            sharing=sharing,
            progress=self.progress,
            stop=lambda: self.latch.signal is not None,
            before_saving=self.held.require,
            fingerprint=fingerprint(self.processor, config, loaded.base_identity),
            identity=plan.identity,
            model=self.model,
            processing_class=self.processor,
            args=trainer_arguments(config, total_steps=plan.total_steps, seed=config.seed),
            callbacks=[flow],
        )
        trainer.remove_callback(PrinterCallback)  # it prints to stdout what metrics.jsonl holds
        flow.trainer = trainer
        self._start_logs(trainer)
        if self.checkpoint:
            log.info("continuing from %s", self.checkpoint)
            check_state(self.checkpoint)
            trainer.load_adapter_weights(self.checkpoint)
            if self.progress.pending_validation and plan.validation:
                flow.validate_now(self.step)
        flow.interrupted = flow.agreed_to_stop() or flow.interrupted
        if self.step < plan.total_steps and not self.progress.stopped_early and not flow.interrupted:
            try:
                trainer.train(resume_from_checkpoint=str(self.checkpoint) if self.checkpoint else None)
            except Interrupted:  # while data was waited for
                flow.interrupted = True
            finally:
                self.step = trainer.state.global_step
                trainer.end_workers()
            if flow.failure is not None:
                raise flow.failure
        if flow.interrupted:
            raise Interrupted(
                f"{config.output_dir}: stopped by {self.latch.signal or 'a signal to another process'} after step "
                f"{self.step} of {plan.total_steps}; the same command continues"
            )
        self._take_best(trainer)
        trainer.gather_left_out()
        after = self._show_example("after training")
        if self.world.is_main_process:
            self.held.require()
            self._deliver(loaded.base_identity, trainer.samples_seen(), before, after)
            self.held.require()
        self.world.wait_for_everyone()

    def _settle(self, batch_size: int) -> None:
        """Go on with the batch size that was found; written down at once, so that whoever continues takes the same."""
        self.plan = self.plan.with_batch_size(batch_size)
        self.config = self.plan.config
        if self.world.is_main_process:
            self.record.note(self.plan.facts)

    def close_bar(self) -> None:
        """Stop the progress bar; what follows are plain lines."""
        if self.metrics:
            self.metrics.close()

    def _start_logs(self, trainer: VisionTrainer) -> None:
        if not self.world.is_main_process:
            return
        config, plan = self.config, self.plan
        if config.use_wandb:
            run_id = self.record.content.get("wandb_run_id")
            self.tracker = WandbTracker(config, run_id, config.model_dump(mode="json"))
            self.record.note({"wandb_run_id": self.tracker.run_id})
        self.metrics = MetricsLog(
            config.output_dir,
            attempt=self.record.attempt,
            total_steps=plan.total_steps,
            global_batch=plan.share.global_batch,
            epoch_samples=plan.order.total,
            tracker=self.tracker,
            before_writing=self.held.require,
        )
        self.metrics.forget_after(self.step, validation_too=self.progress.pending_validation)
        trainer.add_callback(self.metrics)

    def _validate(self) -> dict[str, Any] | None:
        self.validation_began_s = time.monotonic()
        return validate(
            self.model,
            self.processor,
            self.plan.validation,
            self.config,
            rank=self.world.process_index,
            world_size=self.world.num_processes,
            stop=lambda: self.latch.signal is not None,
        )

    def _report(self, step: int, scores: dict[str, Any]) -> None:
        if scores["failed_predictions"]:
            log.warning("step %d: %d validation samples failed and count as wrong", step, scores["failed_predictions"])
        if self.metrics:
            self.metrics.on_validation(step, scores, time.monotonic() - self.validation_began_s)

    def _show_example(self, when: str) -> str | None:
        """Answer the example, greedily. Main process only."""
        if not self.world.is_main_process:
            return None
        sample = self.plan.example
        with memory_reported(self.config, "a validation"):
            [answer] = generate_answers(self.model, self.processor, [sample], self.config, greedy=True)
        log.info("%s, %s: %r -> %r (expected %r)", when, sample.image.name, sample.question, answer.text, sample.answer)
        return answer.text

    def _take_best(self, trainer: VisionTrainer) -> None:
        """Put the weights of the best checkpoint into the model."""
        best = self.progress.best_checkpoint(self.config.output_dir)
        if best is None or self.progress.best_step == self.step:
            return
        if problem := checkpoints.damage(best):
            log.warning("%s holds the best weights but %s; the weights of step %d are saved", best, problem, self.step)
            self.progress.best_step = self.progress.best_score = self.progress.best_scores = None
        else:
            log.info("best weights: step %d, exact match %.3f", self.progress.best_step, self.progress.best_score)
            trainer.load_adapter_weights(best)

    def _deliver(self, base_identity: str, seen: int, before: str | None, after: str | None) -> None:
        """Save adapter and model card, and what was left out."""
        config, progress, sample = self.config, self.progress, self.plan.example
        if progress.left_out:
            log.warning("%s; run.json lists them", summary(progress.left_out.values(), seen))
        self.record.note({"left_out": progress.left_out, "best_step": progress.best_step or self.step})
        if not config.save_model:
            return
        folder = config.adapter_dir
        save_adapter(self.model, self.processor, config, folder, base_identity)
        facts = {f"{key} ({split})": n for split, counts in self.plan.counts.items() for key, n in counts.items()}
        facts |= {"optimizer steps": self.step, "samples left out in training": len(progress.left_out)}
        example = {
            "image": sample.image.name,
            "question": sample.question,
            "expected": sample.answer,
            "before training": before,
            "after training": after,
        }
        write_card(folder, config, facts=facts, scores=progress.best_scores, example=example)
        log.info("adapter saved in %s", folder)
