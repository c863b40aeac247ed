"""The settings of a run in the words of transformers' Trainer."""

from __future__ import annotations

import logging

from trl import SFTConfig

from vizsage.config import Config

log = logging.getLogger(__name__)


class OneGpu(SFTConfig):
    """One GPU per process: of several the Trainer would make a DataParallel, which is slow and not supported here."""

    @property
    def visible_gpus(self) -> int:
        """GPUs that this process sees and the Trainer would use; 0 on a CPU."""
        return int(super().n_gpu)

    @property
    def n_gpu(self) -> int:
        """GPUs that it uses."""
        return min(1, self.visible_gpus)


def warmup_steps(config: Config, total_steps: int) -> int:
    """The steps of warm-up: at most half of all, so that the learning rate reaches its setting.

    They depend on settings and `total_steps` only, so that a continued run has the same schedule.
    """
    return min(config.warmup_steps, total_steps // 2)


def trainer_arguments(config: Config, *, total_steps: int, seed: int, longer: bool = False) -> SFTConfig:
    """The settings as the Trainer takes them. Its evaluation, saving and reporting are switched off.

    With `longer`, the run follows another schedule than theirs: see vizsage.training.longer.
    """
    warmup = warmup_steps(config, total_steps)
    if warmup < config.warmup_steps and config.scheduler != "constant" and not longer:
        log.warning(
            "warmup_steps: %d replaced by %d: the run has %d optimizer steps, and warm-up takes at most half of them",
            config.warmup_steps,
            warmup,
            total_steps,
        )
    assert isinstance(config.batch_size, int), "auto is replaced by a number before training begins"
    arguments = OneGpu(
        output_dir=str(config.output_dir),
        max_steps=total_steps,
        per_device_train_batch_size=config.batch_size,
        gradient_accumulation_steps=1,  # training_step goes through the micro-batches of a step itself
        learning_rate=config.lr,
        warmup_steps=warmup,
        weight_decay=config.weight_decay,
        optim=config.optim,
        lr_scheduler_type=config.scheduler,
        max_grad_norm=config.max_grad_norm,
        seed=seed,
        bf16=config.use_bf16,
        use_cpu=config.device == "cpu",
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        # The backend switches checkpointing of activations on. The Trainer would make the embeddings require a
        # gradient, and the backward pass would then include the frozen vision tower.
        gradient_checkpointing=False,
        max_length=None,
        remove_unused_columns=False,
        ignore_data_skip=True,  # the loader starts at the right sample by itself
        ddp_find_unused_parameters=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )
    if arguments.visible_gpus > 1:
        log.warning("%d GPUs are visible and one is used; start with torchrun to use them all", arguments.visible_gpus)
    return arguments
