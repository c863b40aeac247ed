"""Every setting of a run: its type, default, bounds and one line of help.

The documentation's table, the JSON Schema for editors and the messages about wrong values are all made from this class.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from vizsage.config.field_types import (
    OPTIMIZERS,
    SCHEDULERS,
    Count,
    FilePath,
    Float,
    NameOrPath,
    PositiveInt,
    ProjectName,
    TrackerNames,
    no_switch,
)
from vizsage.contract import PREVIOUS_PREFIX, RUN_FILES

_POLYNOMIAL_END = 1e-7  # the last learning rate of transformers' polynomial schedule


class Config(BaseModel):
    """The settings of one run, validated. Relative paths start at the current directory."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", coerce_numbers_to_str=True, allow_inf_nan=False, title="VizSage settings"
    )

    # model
    model_name: NameOrPath = Field(
        "unsloth/Llama-3.2-11B-Vision-Instruct",
        description="Base model: a Hugging Face name, a folder, or vizsage-tiny (embedded in the package).",
    )
    revision: str | None = Field(None, description="Branch, tag or commit of the base model; null: its main branch.")
    trust_remote_code: bool = Field(False, description="Allow the base model to run its own Python code.")
    backend: Literal["auto", "hf", "unsloth", "vllm"] = Field(
        "auto",
        description="Library that runs the model: hf (transformers and peft), unsloth, or vllm, which answers only; "
        "auto: hf.",
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where to run; auto: a GPU where there is one.")
    attn_implementation: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        "auto", description="Attention kernel; auto: what transformers chooses."
    )
    load_in_4bit: bool = Field(True, description="Load the base model in 4 bits (QLoRA); needs a GPU and bitsandbytes.")
    use_gradient_checkpointing: Literal["unsloth"] | bool = Field(
        "unsloth", description="Recompute activations to save memory: unsloth (its own variant), true or false."
    )
    name_trained_model: str = Field(
        "vizsage-adapter",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=96,
        description="Folder name of the trained adapter below output_dir.",
    )
    finetune_vision_layers: bool = Field(False, description="Put adapters on the vision tower and the projector.")
    finetune_language_layers: bool = Field(True, description="Put adapters on the language model.")
    finetune_attention_modules: bool = Field(True, description="Put adapters on attention projections.")
    finetune_mlp_modules: bool = Field(True, description="Put adapters on the feed-forward projections.")
    finetune_norm_layers: bool = Field(False, description="Also train the normalisation layers, in full.")

    # LoRA
    lora_r: PositiveInt = Field(16, le=1024, description="Rank of the LoRA matrices.")
    lora_alpha: Float = Field(16, gt=0, description="LoRA scale: the update is multiplied by lora_alpha / lora_r.")
    lora_dropout: Float = Field(0.0, ge=0, lt=1, description="Dropout before the LoRA matrices.")
    bias: Literal["none", "all", "lora_only"] = Field("none", description="Which biases are trained as well.")
    use_rslora: bool = Field(False, description="Rank-stabilised LoRA: scale by lora_alpha / sqrt(lora_r).")
    use_dora: bool = Field(False, description="DoRA: train magnitude and direction separately.")
    loftq_config: dict[str, PositiveInt] | None = Field(
        None, description="LoftQ initialisation, for example {loftq_bits: 4, loftq_iter: 1}; null: none."
    )

    # training
    batch_size: Literal["auto"] | PositiveInt = Field(
        2, description="Questions per process and forward pass; auto: the most that fit into GPU memory, up to 64."
    )
    grad_accum: PositiveInt = Field(4, description="Forward passes before each optimizer step.")
    epochs: Float = Field(1.0, gt=0, le=1e6, description="Times each training sample is seen.")
    max_steps: PositiveInt | None = Field(None, description="Stop after this many optimizer steps; null: after epochs.")
    longer_schedule: Literal["stretch", "rewarm", "constant"] = Field(
        "stretch",
        description="Learning rate of steps that are added to a run: as if planned (stretch), schedule again (rewarm), "
        "or lr (constant).",
    )
    init_adapter: FilePath | None = Field(
        None,
        description="Adapter whose weights a new run begins from: its folder, or its run's output_dir; null: none.",
    )
    lr: Float = Field(2e-4, gt=0, le=1, description="Highest learning rate.")
    warmup_steps: Count = Field(10, description="Steps over which the learning rate rises; at most half of all.")
    weight_decay: Float = Field(0.01, ge=0, description="Weight decay of the optimizer.")
    optim: OPTIMIZERS = Field("adamw_torch", description="Optimizer; the 8-bit and paged ones need bitsandbytes.")
    scheduler: SCHEDULERS = Field("linear", description="Shape of the learning rate after warm-up.")
    max_grad_norm: Float = Field(1.0, ge=0, description="Gradients are clipped to this norm; 0: not clipped.")
    max_seq_length: Annotated[int, Field(ge=16), BeforeValidator(no_switch)] = Field(
        2048, description="Longest sample in tokens, image tokens included; descriptions are shortened to fit."
    )
    share_images: Literal["auto"] | bool = Field(
        "auto",
        description="Compute an image once for all its questions; same loss. auto: where that is possible and faster.",
    )
    torch_compile: Literal["auto"] | bool = Field(
        "auto",
        description="Compile layers, with share_images on a GPU: slow start, fast steps. auto: from 500 steps on.",
    )
    use_bf16: bool = Field(True, description="Compute in bfloat16 if the hardware supports it.")
    seed: Annotated[int, Field(ge=0, le=2**31 - 1), BeforeValidator(no_switch)] = Field(
        3407, description="Seed of data order, dropout and LoRA."
    )
    reproducible: bool = Field(
        True,
        description="true: use seed. false: draw a new seed, recorded in run.json so that the run can be repeated.",
    )
    logging_steps: PositiveInt = Field(10, description="Steps between two lines of metrics.jsonl.")
    eval_steps: PositiveInt = Field(100, description="Steps between two evaluations on the validation split.")
    save_steps: PositiveInt = Field(100, description="Steps between two checkpoints.")
    n_saves: PositiveInt = Field(3, description="Newest checkpoints kept; the best one is kept too.")
    num_proc: Count | None = Field(
        None, description="Worker processes that read and decode data; null: up to 4, one core left free."
    )
    resume: bool = Field(True, description="Continue from the newest complete checkpoint in output_dir.")

    # early stopping
    use_early_stopping: bool = Field(False, description="Stop when validation exact match no longer improves.")
    early_stopping_patience_ratio: Float = Field(
        0.1, gt=0, le=1, description="Share of all steps without improvement after which the run stops."
    )
    early_stopping_threshold: Float = Field(
        0.0, ge=0, le=1, description="Rise in exact match (0 to 1) that counts as an improvement."
    )
    val_samples: PositiveInt = Field(200, description="Validation samples answered at each evaluation in training.")
    val_at_start: bool = Field(
        True, description="Also evaluate before the first step, so that the curves begin at step 0."
    )

    # inference
    instruction: str = Field(
        "Answer the question about the picture in a few words.", description="Text that begins every prompt."
    )
    max_new_tokens: PositiveInt = Field(64, description="Longest answer in tokens.")
    do_sample: bool = Field(False, description="Sample answers; false: greedy or beam search.")
    temperature: Float = Field(1.0, gt=0, description="Sampling temperature (do_sample only).")
    top_p: Float = Field(1.0, gt=0, le=1, description="Nucleus sampling mass (do_sample only).")
    top_k: Count = Field(50, description="Sample among this many tokens; 0: all.")
    num_beams: PositiveInt = Field(1, description="Beams of beam search; 1: greedy.")
    eval_batch_size: PositiveInt = Field(128, description="Questions answered in one batch at most.")
    eval_batch_tokens: PositiveInt = Field(
        32768, description="Tokens of prompts in one batch of answers at most, those of images and padding included."
    )

    # data
    dataset: str = Field("AQUA", min_length=1, description="Folder of the data set below base_path.")
    base_path: FilePath = Field(Path("data"), description="Folder of the data set and of Images/.")
    external_knowledge: bool = Field(
        False,
        description="Add the description of its image to each sample that needs it; false: leave such samples out.",
    )
    external_knowledge_path: FilePath | None = Field(
        None, description="Table of descriptions (SemArt: tab-separated; or CSV), or a folder of such tables."
    )
    external_knowledge_source: Literal["oracle", "retrieved"] = Field(
        "oracle",
        description="Recorded in the results: descriptions are the image's own (oracle), or were found by a retriever.",
    )
    use_streaming: bool = Field(
        False, description="Read the training split piece by piece, so that memory does not grow with it."
    )
    use_val_streaming: bool = Field(False, description="Read the validation and test splits piece by piece.")
    stream_buffer_size: PositiveInt = Field(1000, description="Samples among which a streamed split is shuffled.")
    on_bad_image: Literal["fail", "skip"] = Field(
        "fail",
        description="If an image cannot be decoded: fail stops the run; skip leaves it out, counts it and reports it.",
    )
    max_image_px: PositiveInt = Field(
        64_000_000,
        description="Images with more pixels (width x height) are refused; decoding takes 10 to 25 bytes of memory per "
        "pixel in each worker.",
    )
    resize_px: Annotated[int, Field(ge=1024), BeforeValidator(no_switch)] | None = Field(
        None, description="Scale images with more pixels down to this many before the model; null: never."
    )

    # evaluation
    use_text_normalization: Literal["light"] | bool = Field(
        True,
        description="Exact match: true: as SQuAD; light: without case, white space and Unicode form; false: character "
        "by character.",
    )
    debug_exact_match: bool = Field(False, description="Show the first 5 comparisons, original and normalised.")

    # logging
    trackers: TrackerNames = Field(
        (),
        description="Where else curves and scores are shown: tensorboard (files in output_dir), wandb.",
    )
    use_wandb: bool = Field(False, description="The same as wandb in trackers (Weights & Biases).")
    wandb_project: ProjectName = Field(
        "vizsage", description="Project in Weights & Biases; WANDB_ENTITY names the team."
    )
    wandb_run_name: str | None = Field(None, description="Name of the run there; null: the name of output_dir.")
    wandb_tags: tuple[Annotated[str, Field(min_length=1, max_length=64)], ...] = Field(
        (), description="Tags of the run there."
    )

    # output
    output_dir: FilePath = Field(Path("outputs/run"), description="Folder of the run: checkpoints, adapter, results.")
    save_model: bool = Field(True, description="Save the adapter at the end.")
    save_path: FilePath | None = Field(None, description="Folder of the adapter, instead of one below output_dir.")

    @model_validator(mode="after")
    def _together(self) -> Config:
        """Rules over several settings."""
        problems = []
        if self.backend in ("unsloth", "vllm") and self.device == "cpu":
            problems.append(
                f"backend: found {self.backend!r}, but it needs a GPU and device is cpu, so set either to auto"
            )
        if self.backend == "vllm" and (self.do_sample or self.num_beams > 1):
            found = "do_sample: true" if self.do_sample else f"num_beams: {self.num_beams}"
            problems.append(
                f"backend: found 'vllm', which answers greedily here, and {found}; leave that out or set hf"
            )
        if self.external_knowledge and self.external_knowledge_path is None:
            problems.append("external_knowledge: true needs external_knowledge_path, the table of descriptions")
        if not (self.finetune_vision_layers or self.finetune_language_layers):
            problems.append("finetune_vision_layers and finetune_language_layers are both false: nothing is trained")
        if not (self.finetune_attention_modules or self.finetune_mlp_modules):
            problems.append("finetune_attention_modules and finetune_mlp_modules are both false: nothing is trained")
        if self.loftq_config is not None:
            problems += _loftq_problems(self.loftq_config)
            if self.load_in_4bit:
                problems.append("loftq_config needs load_in_4bit: false, because LoftQ quantises the weights itself")
            if self.init_adapter is not None:
                problems.append("loftq_config and init_adapter cannot be combined: both set the first weights")
        if self.init_adapter is not None and self._is_own(self.init_adapter.absolute()):
            problems.append(
                f"init_adapter: {self.init_adapter} is in output_dir, where the run writes; name another output_dir"
            )
        if self.name_trained_model in RUN_FILES or re.match(
            r"(damaged-)?checkpoint-|previous-", self.name_trained_model
        ):
            problems.append(f"name_trained_model: {self.name_trained_model!r} is a name that the run itself uses")
        if self.use_dora and self.loftq_config is not None:
            problems.append("use_dora and loftq_config cannot be combined")
        if self.scheduler == "polynomial" and self.lr <= _POLYNOMIAL_END:
            problems.append(
                f"scheduler: polynomial ends at a learning rate of {_POLYNOMIAL_END:g}, lr {self.lr:g} is not above "
                "that; raise lr or choose linear"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _is_own(self, path: Path) -> bool:
        """Whether `path` is in output_dir, but not in an earlier run that was moved aside there."""
        own = self.output_dir.absolute()
        return path == own or (own in path.parents and not path.relative_to(own).parts[0].startswith(PREVIOUS_PREFIX))

    @property
    def split_dir(self) -> Path:
        """Folder of train, val and test."""
        return self.base_path / self.dataset

    @property
    def images_dir(self) -> Path:
        """Folder of the image files."""
        return self.base_path / "Images"

    @property
    def tracker_names(self) -> tuple[str, ...]:
        """The names in `trackers`, each once, and wandb where use_wandb asks for it."""
        return tuple(dict.fromkeys((*self.trackers, *(["wandb"] if self.use_wandb else []))))

    @property
    def adapter_dir(self) -> Path:
        """Folder of the trained adapter."""
        return (self.save_path or self.output_dir) / self.name_trained_model


def _loftq_problems(loftq: dict[str, int]) -> list[str]:
    allowed = {"loftq_bits": (4, 8), "loftq_iter": range(1, 101)}
    problems = [f"loftq_config: unknown key {k!r}, allowed are {', '.join(allowed)}" for k in loftq if k not in allowed]
    if loftq.get("loftq_bits", 4) not in allowed["loftq_bits"]:
        problems.append(f"loftq_config: loftq_bits must be 4 or 8, found {loftq['loftq_bits']}")
    if loftq.get("loftq_iter", 1) not in allowed["loftq_iter"]:
        problems.append(f"loftq_config: loftq_iter must be 1 to 100, found {loftq['loftq_iter']}")
    return problems
