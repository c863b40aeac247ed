"""One attempt at a training: load the model, continue or start, train, save the best weights."""

from __future__ import annotations

import logging
import time
from itertools import islice
from pathlib import Path

from accelerate import PartialState
from transformers import PrinterCallback

from vizsage.data.collate import TrainCollator
from vizsage.data.left_out import require_some, summary
from vizsage.data.prompts import fingerprint
from vizsage.errors import Interrupted
from vizsage.interruption import SignalLatch
from vizsage.lock import Held
from vizsage.models.adapters.init_adapter import InitAdapter, begin_from, check_init_adapter
from vizsage.models.adapters.lora import add_adapter, save_adapter
from vizsage.models.generation import generate_answers
from vizsage.models.loaded import LoadedModel
from vizsage.models.loading.backends import load_base
from vizsage.models.memory import memory_reported
from vizsage.models.shared_image.sharing import compile_layers, share_images
from vizsage.tracking.tracker import AttemptStart
from vizsage.tracking.trackers import Trackers
from vizsage.training import checkpoints
from vizsage.training.batch_size import find_batch_size
from vizsage.training.card import training_facts, write_card
from vizsage.training.card_snippet import usage_snippet
from vizsage.training.checkpoint_state import check_state
from vizsage.training.flow import Flow
from vizsage.training.loader import Steps
from vizsage.training.longer import described, rate_factor
from vizsage.training.metrics_log import MetricsLog
from vizsage.training.progress import Progress, read_progress
from vizsage.training.resume import Begin, Continue
from vizsage.training.trainer import VisionTrainer
from vizsage.training.trainer_arguments import trainer_arguments
from vizsage.training.validation import Validation, validate, validation_loss

log = logging.getLogger(__name__)


class TrainingAttempt:
    """One attempt at a plan; `run` is its course, and `step` the optimizer steps done so far."""

    def __init__(
        self,
        start: Begin | Continue,
        *,
        world: PartialState,
        latch: SignalLatch,
        held: Held,
        loaded: LoadedModel | None,
    ) -> None:
        """`loaded`: the base model where it was loaded before the processes met, see vizsage.models.loading.backends.

        Raises CheckpointError where the checkpoint of `start` contains something else than a run writes.
        """
        self.plan, self.config, self.record = start.plan, start.plan.config, start.record
        self.checkpoint = start.checkpoint if isinstance(start, Continue) else None
        self.world, self.latch, self.held, self.loaded = world, latch, held, loaded
        self.step = checkpoints.step_of(self.checkpoint) if self.checkpoint else 0
        self.progress = Progress()
        if self.checkpoint:
            self.progress = read_progress(self.checkpoint)
            # With more steps, or more patience, a run that early stopping ended goes on.
            self.progress.stopped_early = self.progress.stays_stopped(self.config, self.plan.total_steps, self.step)
        self.init: InitAdapter | None = None if self.checkpoint else check_init_adapter(self.config)
        self.trackers = Trackers()
        self.metrics: MetricsLog | None = None

    def run(self) -> None:
        """Load, continue or start, train, save the best weights.

        Raises VizSageError: Interrupted after a signal, once a checkpoint is on disk.
        """
        with memory_reported(self.config, "loading the base model"):
            loaded = self.loaded or load_base(self.config)
            self.model, self.processor = add_adapter(loaded, self.config), loaded.processor
            if self.init:
                begin_from(self.model, loaded, self.config, self.init)
        sharing = share_images(self.model.get_base_model(), self.processor, self.config, self.plan.questions_per_image)
        self.sharing = sharing
        self.collate = collate = TrainCollator(
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
        compile_layers(sharing, self.config, self.plan.total_steps)
        before = self._show_example("before training")
        trainer, flow = self._trainer(loaded.base_identity)
        self._start_logs(trainer)
        if self.checkpoint:
            self._restore(trainer, flow, self.checkpoint)
        elif self.config.val_at_start and self.plan.validation:
            flow.validate_at_start()
        self._train(trainer, flow)
        self._take_best(trainer)
        trainer.gather_left_out()
        after = self._show_example("after training")
        if self.world.is_main_process:
            self.held.require()
            self._deliver(loaded.base_identity, trainer.samples_seen(), before, after)
            self.held.require()
        self.world.wait_for_everyone()

    def _trainer(self, base_identity: str) -> tuple[VisionTrainer, Flow]:
        """The trainer of this attempt, and the callback that decides after each of its steps."""
        config, plan = self.config, self.plan
        validation = self._validate if plan.validation else None
        flow = Flow(config, self.latch, self.progress, plan.total_steps, validation, self._report)
        trainer = VisionTrainer(
            config=config,
            steps=Steps(plan.order, self.collate, plan.share, first_step=self.step, total_steps=plan.total_steps),
            sharing=self.sharing,
            progress=self.progress,
            stop=lambda: self.latch.signal is not None,
            before_saving=self.held.require,
            fingerprint=fingerprint(self.processor, config, base_identity),
            identity=plan.identity,
            rates=rate_factor(config, plan.total_steps, plan.extensions) if plan.extensions else None,
            model=self.model,
            processing_class=self.processor,
            args=trainer_arguments(
                config, total_steps=plan.total_steps, seed=config.seed, longer=bool(plan.extensions)
            ),
            callbacks=[flow],
        )
        trainer.remove_callback(PrinterCallback)  # it prints to stdout what metrics.jsonl contains
        flow.trainer = trainer
        return trainer, flow

    def _restore(self, trainer: VisionTrainer, flow: Flow, checkpoint: Path) -> None:
        """Take over the weights of the checkpoint, and validate them where the interruption came before that."""
        log.info("continuing from %s", checkpoint)
        if self.plan.extensions and self.world.is_main_process:
            log.info(described(self.config, self.plan.extensions))
        check_state(checkpoint)
        trainer.load_adapter_weights(checkpoint)
        if self.progress.pending_validation and self.plan.validation:
            flow.validate_now(self.step)

    def _train(self, trainer: VisionTrainer, flow: Flow) -> None:
        """Do the steps that are left. Raises Interrupted, or what failed in them."""
        total_steps = self.plan.total_steps
        flow.interrupted = flow.agreed_to_stop() or flow.interrupted
        if self.step < total_steps and not self.progress.stopped_early and not flow.interrupted:
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
                f"{self.config.output_dir}: stopped by {self.latch.signal or 'a signal to another process'} after step "
                f"{self.step} of {total_steps}; the same command continues"
            )

    def _settle(self, batch_size: int) -> None:
        """Continue with the batch size that was found, and record it at once: a later attempt must take the same."""
        self.plan = self.plan.with_batch_size(batch_size)
        self.config = self.plan.config
        if self.world.is_main_process:
            self.record.note(**self.plan.facts)

    def close_bar(self) -> None:
        """Stop the progress bar; the lines after it are plain."""
        if self.metrics:
            self.metrics.close()

    def _start_logs(self, trainer: VisionTrainer) -> None:
        if not self.world.is_main_process:
            return
        config, plan, attempt = self.config, self.plan, self.record.attempt
        trackers = Trackers(config)
        self.metrics = MetricsLog(
            config.output_dir,
            title=f"{config.output_dir.absolute().name}, {config.model_name}",
            attempt=attempt,
            total_steps=plan.total_steps,
            global_batch=plan.share.global_batch,
            epoch_samples=plan.order.total,
            trackers=trackers,
            before_writing=self.held.require,
        )
        # An attempt that begins at step 0 begins the curves again, because its settings may be others.
        again = self.progress.pending_validation or self.checkpoint is None
        kept = self.metrics.forget_after(self.step, validation_too=again)
        self.trackers = trackers
        trackers.begin(AttemptStart(self.step, attempt, [line for line in kept if line.step == self.step]))
        trainer.add_callback(self.metrics)

    def _validate(self) -> Validation | None:
        began_s = time.monotonic()
        scores = validate(
            self.model,
            self.processor,
            self.plan.validation,
            self.config,
            rank=self.world.process_index,
            world_size=self.world.num_processes,
            stop=lambda: self.latch.signal is not None,
        )
        if scores is None:
            return None
        answered_s = time.monotonic()
        loss = validation_loss(
            self.model,
            self.plan.validation,
            self.collate,
            self.sharing,
            batch_size=self.plan.share.batch_size,
            rank=self.world.process_index,
            world_size=self.world.num_processes,
            stop=lambda: self.latch.signal is not None,
        )
        if loss is None:
            return None
        return Validation(scores, loss.mean, answered_s - began_s, time.monotonic() - answered_s)

    def _report(self, step: int, validation: Validation) -> None:
        if failed := validation.scores["failed_predictions"]:
            log.warning("step %d: %d validation samples failed and count as wrong", step, failed)
        if self.metrics:
            self.metrics.on_validation(step, validation)

    def _show_example(self, when: str) -> str | None:
        """The greedy answer to the plan's example, in the main process; None in others."""
        if not self.world.is_main_process:
            return None
        sample = self.plan.example
        with memory_reported(self.config, "a validation"):
            [answer] = generate_answers(self.model, self.processor, [sample], self.config, greedy=True)
        log.info(
            "%s, %s: %r -> %r (expected %r)", when, sample.image_names, sample.question, answer.text, sample.answer
        )
        return answer.text

    def _take_best(self, trainer: VisionTrainer) -> None:
        """Load the weights of the best checkpoint into the model."""
        best = self.progress.best_checkpoint(self.config.output_dir)
        if best is None or self.progress.best_step == self.step:
            return
        if problem := checkpoints.damage(best):
            log.warning("%s has the best weights but %s; the weights of step %d are saved", best, problem, self.step)
            self.progress.best_step = self.progress.best_score = self.progress.best_scores = None
        else:
            log.info("best weights: step %d, exact match %.3f", self.progress.best_step, self.progress.best_score)
            trainer.load_adapter_weights(best)

    def _deliver(self, base_identity: str, seen: int, before: str | None, after: str | None) -> None:
        """Save the adapter and its model card, and record which samples were left out."""
        config, progress, sample = self.config, self.progress, self.plan.example
        if progress.left_out:
            log.warning("%s; run.json lists them", summary(progress.left_out.values(), seen))
        if self.metrics:
            self.metrics.compare_with_start(progress)
        self.record.note(left_out=progress.left_out, best_step=progress.best_step or self.step)
        if not config.save_model:
            return
        folder = config.adapter_dir
        save_adapter(self.model, self.processor, config, folder, base_identity)
        facts = training_facts(self.plan, self.step, len(progress.left_out))
        example = {
            "image": sample.image_names,
            "question": sample.question,
            "expected": sample.answer,
            "before training": before,
            "after training": after,
        }
        snippet = usage_snippet(config, self.processor, self.model.get_base_model().generation_config, base_identity)
        write_card(
            folder,
            config,
            base_identity=base_identity,
            snippet=snippet,
            facts=facts,
            scores=progress.best_scores,
            example=example,
        )
        log.info("adapter saved in %s", folder)
