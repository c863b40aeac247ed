"""trl's SFTTrainer with this project's batches, loss, checkpoints and checks.

What is kept of it is the loop of transformers' Trainer below it: optimizers and schedules by name, clipping, mixed
precision, several processes, callbacks, and the state that a resumption restores. To write those again would be a
second loop that fewer people test. All else is switched off or replaced, here and nowhere else:

- tokenising and collating: steps come from vizsage.training.loader, cut into micro-batches before they get here;
- its loss, entropy and token accuracy: `compute_loss`;
- evaluation, checkpoints, progress bar and reports: vizsage.training.flow, `_save_checkpoint` and metrics_log;
- skipping of samples after a resumption, which would read them: the loader begins at the right one;
- checkpointing of activations: the backend switches it on (see vizsage.training.trainer_arguments);
- DataParallel over the GPUs that one process sees: `OneGpu` of vizsage.training.trainer_arguments;
- the rounding of what is trained on a base in 4 bits: `__init__`;
- mapping of states to a device that CPU processes do not have: `_load_optimizer_and_scheduler`.

The private names of Trainer that this module uses are listed in tests/test_private_names.py.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME
from trl import SFTTrainer

from vizsage.config import Config
from vizsage.data.left_out import NOTICEABLE, nothing_to_learn, summary
from vizsage.data.prompts import compare_fingerprints
from vizsage.distributed.messages import first_problem, to_all
from vizsage.errors import CheckpointError, DataError, RepeatingError, VizSageError
from vizsage.files import write_json
from vizsage.models.adapters.adapter_config import check_adapter_config
from vizsage.models.adapters.adapter_weights import adapter_shapes, check_weights
from vizsage.models.adapters.lora import save_adapter_weights
from vizsage.models.loaded import ADAPTER_CONFIG, FINGERPRINT_FILE
from vizsage.models.shared_image.sharing import Sharing
from vizsage.training import checkpoints
from vizsage.training.checkpoint_state import reading
from vizsage.training.loader import Steps, TrainLoader, read_ahead
from vizsage.training.longer import RateFactor
from vizsage.training.loss import count_targets, on_device, summed_loss
from vizsage.training.progress import Progress
from vizsage.training.random_state import save_random_state

log = logging.getLogger(__name__)
_ENOUGH_SAMPLES = 1000  # a run warns of the share of samples left out after so many, or after an epoch


class VisionTrainer(SFTTrainer):
    """Trains one optimizer step after another; the loss of a step is the mean over its answer tokens."""

    # The Trainer declares that they may be None, which they are before training only.
    model: Any
    optimizer: Any
    lr_scheduler: Any

    def __init__(
        self,
        *,
        config: Config,
        steps: Steps,
        sharing: Sharing | None,
        progress: Progress,
        stop: Callable[[], bool],
        before_saving: Callable[[], None],
        fingerprint: dict[str, str],
        identity: dict[str, Any],
        rates: RateFactor | None,
        **kwargs: Any,
    ) -> None:
        """Prepare for `train`.

        Args:
            config: the settings.
            steps: what this process does in each step.
            sharing: runs the packed micro-batches of `steps`; None where they are plain.
            progress: what the run knows about itself.
            stop: whether a signal asks to stop.
            before_saving: raises where the run directory is gone.
            fingerprint: identifies base model, prompt and pixels; saved with each checkpoint.
            identity: identifies the run; saved with each checkpoint.
            rates: the learning rate of a run that was made longer; None: that of the arguments.
            kwargs: the arguments of SFTTrainer: model, processor, SFTConfig and callbacks.
        """
        self.config, self.steps, self.sharing, self.progress = config, steps, sharing, progress
        self.stop, self.before_saving, self.fingerprint, self.identity = stop, before_saving, fingerprint, identity
        self.rates = rates
        self.loader: TrainLoader | None = None
        self.much_left_out = False
        self.loss_since_log = torch.zeros((), device=kwargs["args"].device)
        """Sum over the steps since the last line of the log, of this process."""
        trained = [(weight, weight.data) for weight in kwargs["model"].parameters() if weight.requires_grad]
        # SFTTrainer looks at one row to learn that the data has images; the batches come from the loader below.
        super().__init__(train_dataset=Dataset.from_dict({"images": [""], "messages": [""]}), **kwargs)
        # On a base in 4 bits it rounds the trained weights to bfloat16. Updates by a small learning rate would be lost
        # there: a norm's weight of about 1 would never change.
        for weight, data in trained:
            weight.data = data
        # compute_loss divides by the tokens of the whole step, so the Trainer must not divide by grad_accum again.
        self.model_accepts_loss_kwargs = True

    def get_train_dataloader(self) -> Any:
        """The steps that are still to do."""
        workers, ahead = read_ahead(self.config.num_proc, self.steps.share.of_process)
        self.loader = TrainLoader(self.steps, workers, self.args.device.type == "cuda", ahead, self.stop)
        return self.loader

    def end_workers(self) -> None:
        """End the worker processes."""
        if self.loader is not None:
            self.loader.end()

    def get_batch_samples(self, epoch_iterator: Any, num_batches: int, device: torch.device) -> Any:
        """The next step, and its number of answer tokens over all processes.

        An error or a signal in one process raises in all of them, so that none waits for the others for ever. The steps
        so far are saved then. Not on DataError: a checkpoint would forbid changing the setting that fixes it.
        """
        steps, problem = [], None
        try:
            steps = list(islice(epoch_iterator, num_batches))
        except VizSageError as error:
            problem = error
        if met := first_problem(problem, self.accelerator.num_processes):
            if self.state.global_step and not isinstance(met, DataError):
                self._save_checkpoint(self.model, None)
            raise met
        for step in steps:
            self.progress.left_out |= dict(step["left_out"])
        own = torch.tensor(sum(count_targets(batch) for step in steps for batch in step["micro_batches"]))
        targets = self.accelerator.gather(own.to(device)).sum()
        if steps and not int(targets):
            self.progress.empty_steps += 1
            # Raised before a checkpoint is saved, which would forbid changing the setting that fixes it.
            if self.progress.empty_steps == self.args.max_steps:
                raise nothing_to_learn(list(self.progress.left_out.values()))
        return steps, targets

    def log(self, logs: dict[str, Any], start_time: float | None = None) -> None:
        """Log the mean loss of the steps since the last line; None if all their samples were left out."""
        progress = self.progress
        if "loss" in logs:
            steps = self.state.global_step - progress.loss_logged_step
            steps -= progress.empty_steps - progress.empty_steps_logged
            logs["loss"] = self._mean_of_processes(self.loss_since_log) / steps if steps else None
            self.loss_since_log.zero_()
            progress.empty_steps_logged, progress.loss_logged_step = progress.empty_steps, self.state.global_step
        super().log(logs, start_time)

    def training_step(self, model: Any, inputs: dict[str, Any], num_items_in_batch: Any = None) -> torch.Tensor:
        """Run forward and backward of each micro-batch of a step.

        Args:
            model: the model, wrapped for several processes.
            inputs: a `Step`.
            num_items_in_batch: answer tokens of the step, over all processes.

        Returns:
            The loss of the step: this process's part of it.
        """
        batches = inputs["micro_batches"]
        loss = torch.zeros((), device=self.args.device)
        for number, batch in enumerate(batches, start=1):
            # Processes may have different numbers of micro-batches: they exchange gradients after the last one only.
            last = number == len(batches)
            with nullcontext() if last else self.accelerator.no_sync(model):
                moved = on_device(batch, self.sharing, self.args.device)
                loss += super().training_step(model, moved, num_items_in_batch)
        self.loss_since_log += loss
        return loss

    def compute_loss(
        self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """This micro-batch's part of the mean over the answer tokens of the step.

        SFTTrainer's own loss needs a GPU (its kernel is written in Triton). Its entropy and teacher-forced token
        accuracy would make the CPU wait for the GPU in every micro-batch.
        """
        summed, outputs = summed_loss(model, inputs, self.sharing)
        # DDP averages gradients over the processes, while num_items_in_batch counts the tokens of all of them.
        loss = summed / num_items_in_batch.clamp(min=1) * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Not counted: the Trainer's estimate is for a dense model without images."""
        return 0

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        """The gradient norm. Called once per step before the optimizer, which would spoil the weights otherwise.

        Raises:
            RepeatingError: loss or gradient is not finite.
        """
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        value = float(norm)
        if not math.isfinite(value):
            raise RepeatingError(
                f"{self.config.output_dir}: loss or gradient is not finite at step {self.state.global_step + 1} "
                f"(gradient norm {value}); lower lr (now {self.config.lr:g}), raise warmup_steps, or set max_grad_norm "
                "lower; the checkpoints before this step are whole"
            )
        return norm

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Write checkpoint-<step>, complete or not at all, then delete those that are no longer needed."""
        self.before_saving()
        output_dir = self.config.output_dir
        main = self.args.should_save
        step = self.state.global_step
        self.progress.loss_sum = self._mean_of_processes(self.loss_since_log)
        self.gather_left_out()
        barrier = self.accelerator.wait_for_everyone
        with checkpoints.writing(output_dir, step, main=main, barrier=barrier) as folder:
            if main:
                save_adapter_weights(self.model, self.config, folder)
                write_json(folder / FINGERPRINT_FILE, self.fingerprint)
                write_json(folder / checkpoints.IDENTITY, self.identity)
                self.state.save_to_json(str(folder / TRAINER_STATE_NAME))
                write_json(folder / checkpoints.PROGRESS, self.progress.as_dict())
                torch.save(self.optimizer.state_dict(), folder / OPTIMIZER_NAME)
                torch.save(self.lr_scheduler.state_dict(), folder / SCHEDULER_NAME)
            save_random_state(folder, self.args.process_index, self.args.world_size)
        if main:
            checkpoints.clean_up(output_dir, keep=self.config.n_saves, best=self.progress.best_checkpoint(output_dir))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Restore both. The Trainer would map them to "cpu:0" on several CPU processes; torch has no such device."""
        if checkpoint is None:
            return
        for name, part in ((OPTIMIZER_NAME, self.optimizer), (SCHEDULER_NAME, self.lr_scheduler)):
            with reading(Path(checkpoint) / name):
                part.load_state_dict(torch.load(Path(checkpoint) / name, map_location="cpu", weights_only=True))
        if self.rates is not None:  # both states have the learning rate of the earlier schedule
            self.lr_scheduler = LambdaLR(self.optimizer, self.rates, last_epoch=self.state.global_step - 1)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        if checkpoint is not None:
            with reading(Path(checkpoint) / "rng_state.pth"):
                super()._load_rng_state(checkpoint)

    def _mean_of_processes(self, value: torch.Tensor) -> float:
        return float(self.accelerator.gather(value.reshape(1)).mean())

    def gather_left_out(self) -> None:
        """Combine the samples that the processes left out; warn once, before the end of the run, if they are many."""
        if self.accelerator.num_processes > 1:
            for part in to_all(self.progress.left_out):
                self.progress.left_out |= part
        seen, enough = self.samples_seen(), min(_ENOUGH_SAMPLES, self.steps.order.total)
        if self.state.global_step == self.args.max_steps or seen < enough or self.much_left_out:
            return
        if len(self.progress.left_out) >= NOTICEABLE * seen:
            self.much_left_out = True
            log.warning(summary(self.progress.left_out.values(), seen))

    def samples_seen(self) -> int:
        """Different training samples that the run has read so far, those left out included."""
        return min(self.state.global_step * self.steps.share.global_batch, self.steps.order.total)

    def restore_loss(self) -> None:
        """Continue the loss since the last log line from the checkpoint; called by on_train_begin."""
        self.loss_since_log += self.progress.loss_sum
        # The Trainer takes this setting from the checkpoint, but it may be changed when a run is continued.
        self.state.logging_steps = self.config.logging_steps

    def load_adapter_weights(self, folder: Path) -> None:
        """Load the weights of a checkpoint into the adapter that is being trained.

        Raises:
            CheckpointError: base, prompt or pixels are not those that the checkpoint was trained with, or weights are
                missing, unknown or not finite.
        """
        saved = checkpoints.read_object(folder / FINGERPRINT_FILE)
        if different := compare_fingerprints(saved, self.fingerprint):
            raise CheckpointError(
                f"{folder}: {', '.join(different)} changed since it was written, so the run cannot go on from it; "
                "restore the earlier model, or begin again with resume=false"
            )
        check_weights(folder, adapter_shapes(self.model), "begin again with resume=false")
        check_adapter_config(folder)
        with reading(folder / ADAPTER_CONFIG):
            self.model.load_adapter(str(folder), self.model.active_adapter, is_trainable=True)
