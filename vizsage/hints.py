"""The names of other tools' settings and what they are called here, for messages on unknown keys.

Standard library only.
"""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any

_STEPS = "a number of optimizer steps"
_VISION = "with the opposite value"
_NUMBER_OF_STEPS = {
    "eval_strategy": f"eval_steps, {_STEPS}",
    "evaluation_strategy": f"eval_steps, {_STEPS}",
    "save_strategy": f"save_steps, {_STEPS}",
    "logging_strategy": f"logging_steps, {_STEPS}",
    "evals_per_epoch": f"eval_steps, {_STEPS}",
    "saves_per_epoch": f"save_steps, {_STEPS}",
}
_MODULES = "finetune_vision_layers, finetune_language_layers, finetune_attention_modules, finetune_mlp_modules"

# Names in transformers' TrainingArguments, TRL, PEFT, unsloth, LLaMA-Factory and axolotl -> the key here and, after a
# comma, how its value differs.
OTHER_TOOLS = {
    # model
    "model": "model_name",
    "model_id": "model_name",
    "model_path": "model_name",
    "model_name_or_path": "model_name",
    "pretrained_model_name_or_path": "model_name",
    "base_model": "model_name",
    "model_revision": "revision",
    "attn_impl": "attn_implementation",
    "flash_attn": "attn_implementation, such as flash_attention_2",
    "flash_attention": "attn_implementation, such as flash_attention_2",
    "use_flash_attention_2": "attn_implementation, such as flash_attention_2",
    "load_in_8bit": "load_in_4bit, true or false: 8 bits are not offered",
    "quantization_bit": "load_in_4bit, true or false: 4 bits or none",
    "use_4bit": "load_in_4bit",
    "device_map": "device",
    "torch_dtype": "use_bf16, true or false",
    "dtype": "use_bf16, true or false",
    "bf16": "use_bf16",
    "fp16": "use_bf16, true or false: float16 is not offered",
    "gradient_checkpointing": "use_gradient_checkpointing",
    # LoRA
    "r": "lora_r",
    "rank": "lora_r",
    "lora_rank": "lora_r",
    "alpha": "lora_alpha",
    "rslora": "use_rslora",
    "dora": "use_dora",
    "peft_use_rslora": "use_rslora",
    "peft_use_dora": "use_dora",
    "lora_bias": "bias",
    "adapter_name_or_path": "init_adapter, to begin a training from it; vizsage eval --adapter DIR evaluates one",
    "lora_model_dir": "init_adapter",
    "target_modules": _MODULES,
    "lora_target": _MODULES,
    "lora_target_modules": _MODULES,
    "lora_target_linear": _MODULES,
    "freeze_vision_tower": f"finetune_vision_layers, {_VISION}",
    "freeze_vit": f"finetune_vision_layers, {_VISION}",
    "freeze_language_model": f"finetune_language_layers, {_VISION}",
    "freeze_llm": f"finetune_language_layers, {_VISION}",
    # training
    "learning_rate": "lr",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "per_device_train_batch_size": "batch_size",
    "train_batch_size": "batch_size",
    "micro_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "gradient_accumulation_steps": "grad_accum",
    "gradient_accumulation": "grad_accum",
    "warmup_ratio": "warmup_steps, a number of steps: the ratio times all optimizer steps",
    "warmup": "warmup_steps",
    "lr_scheduler_type": "scheduler",
    "lr_scheduler": "scheduler",
    "optimizer": "optim",
    "gradient_clipping": "max_grad_norm",
    "cutoff_len": "max_seq_length",
    "max_length": "max_seq_length",
    "model_max_length": "max_seq_length",
    "sequence_len": "max_seq_length",
    "random_state": "seed",
    "data_seed": "seed",
    "save_total_limit": "n_saves",
    "dataloader_num_workers": "num_proc",
    "preprocessing_num_workers": "num_proc",
    "dataset_num_proc": "num_proc",
    "num_workers": "num_proc",
    "resume_from_checkpoint": "resume, true or false: the newest whole checkpoint in output_dir is taken",
    "overwrite_output_dir": "resume, false sets the earlier run aside",
    "load_best_model_at_end": "use_early_stopping, which stops at the best score; the best checkpoint is kept anyway",
    "early_stopping_patience": "early_stopping_patience_ratio, a share of all steps",
    **_NUMBER_OF_STEPS,
    # prompts and answers
    "system_prompt": "instruction",
    "system": "instruction",
    "prompt": "instruction",
    "max_tokens": "max_new_tokens",
    "generation_max_length": "max_new_tokens",
    "beams": "num_beams",
    # data
    "data": "dataset and base_path, folders: the splits are in base_path/dataset",
    "datasets": "dataset and base_path, folders: the splits are in base_path/dataset",
    "dataset_name": "dataset",
    "data_path": "base_path",
    "data_dir": "base_path",
    "dataset_dir": "base_path",
    "image_dir": "base_path, the folder that contains Images/",
    "image_folder": "base_path, the folder that contains Images/",
    "media_dir": "base_path, the folder that contains Images/",
    "image_max_pixels": "resize_px",
    "max_pixels": "resize_px",
    "streaming": "use_streaming",
    # logging and output
    "report_to": "trackers, a list: [tensorboard, wandb]",
    "loggers": "trackers, a list: [tensorboard, wandb]",
    "logger": "trackers, a list: [tensorboard, wandb]",
    "use_tensorboard": "trackers, a list: [tensorboard]",
    "eval_on_start": "val_at_start",
    "run_name": "wandb_run_name",
    "wandb_name": "wandb_run_name",
    "output": "output_dir",
    "out_dir": "output_dir",
}

_LORA = "LoRA is what every training does"
_COMMANDS = "vizsage train and vizsage eval are commands"
_ONE_GPU = "a model has to fit on one GPU"
_CHAT = "the chat template of the base model is used"

# Names of settings that do not exist here -> what there is instead.
NOT_HERE = {
    "adapter": _LORA,
    "use_peft": _LORA,
    "use_lora": _LORA,
    "finetuning_type": _LORA,
    "stage": _LORA,
    "do_train": _COMMANDS,
    "do_eval": _COMMANDS,
    "do_predict": _COMMANDS,
    "template": _CHAT,
    "chat_template": _CHAT,
    "deepspeed": _ONE_GPU,
    "fsdp": _ONE_GPU,
    "fsdp_config": _ONE_GPU,
    "val_size": "the samples for validation are a split val beside train",
    "val_set_size": "the samples for validation are a split val beside train",
    "max_samples": "vizsage eval --limit N asks fewer samples, max_steps ends a training earlier",
    "packing": "questions on one image share a row with share_images",
    "sample_packing": "questions on one image share a row with share_images",
    "token": "log in with hf auth login, or set HF_TOKEN in the environment",
    "hf_token": "log in with hf auth login, or set HF_TOKEN in the environment",
}


def hint_for(key: str, known: Collection[str]) -> str:
    """What follows `unknown key 'x'` in a message: the probable one of `known`, or nothing.

    Dashes, underscores or neither, and capitals, make no difference.
    """
    plain = key.strip().lower().replace("-", "_")
    if plain not in {*known, *OTHER_TOOLS, *NOT_HERE}:  # learningrate: learning_rate
        alike = {_letters(name): name for name in (*NOT_HERE, *OTHER_TOOLS)}
        plain = alike.get(_letters(plain), plain)
    meant = plain if plain in known else OTHER_TOOLS.get(plain, "")
    if plain in NOT_HERE and "output_dir" in known:  # settings of a run
        return f": there is no such setting, {NOT_HERE[plain]}"
    if not set(re.split(", | and ", meant)) & set(known):
        near = difflib.get_close_matches(plain, known, n=1, cutoff=0.6)
        return f", did you mean {near[0]!r}?" if near else ""
    names, comma, note = meant.partition(",")
    return f": here it is {names}{comma}{note}"


def _letters(name: str) -> str:
    return name.lower().replace("_", "")


def examples(lines: str) -> str:
    """The end of a command's help: its examples, one on each of the lines."""
    return "\n".join(["examples:", *(f"  {line.strip()}" for line in lines.strip().splitlines())])


def parse_with_overrides(
    parser: argparse.ArgumentParser, arguments: list[str], known: Callable[[], Collection[str]], **defaults: Any
) -> argparse.Namespace:
    """The options of a command line on which `key=value` may be written anywhere; they are `overrides` of the options.

    argparse accepts a list of positionals in one place only and returns those behind an option as unknown.

    Args:
        parser: of the command line.
        arguments: its words.
        known: gives the names of settings; called for an error only, because they take long to import.
        defaults: options that the parser does not set.

    Raises:
        SystemExit: after --help, or after one line on stderr if the arguments are wrong.
    """
    options, rest = parser.parse_known_args(arguments, argparse.Namespace(**defaults))
    unknown = [word for word in rest if word.startswith("-") or not hasattr(options, "overrides")]
    if unknown:
        hint = dashed_settings(arguments, unknown, known())
        parser.error(f"unrecognised arguments: {' '.join(unknown)}{hint}")
    if rest:
        options.overrides = [*options.overrides, *rest]
    return options


def dashed_settings(arguments: Sequence[str], unknown: Sequence[str], known: Collection[str]) -> str:
    """What follows a message on `unknown` options of a command line: how to write those that are `known` settings.

    Args:
        arguments: all words of the command line.
        unknown: those that the parser did not accept.
        known: names of settings.
    """
    written = []
    for option in unknown:
        name, equals, value = option.lstrip("-").partition("=")
        plain = name.lower().replace("-", "_")
        key, note, _ = (plain, "", "") if plain in known else OTHER_TOOLS.get(plain, "").partition(",")
        if not option.startswith("--") or key not in known:
            continue
        if not equals:
            value = next(iter(arguments[arguments.index(option) + 1 :]), "-")
        if note or (not equals and (value.startswith("-") or "=" in value)):
            value = "..."  # its value means something else here, or it has none
        written.append(f"{key}={value}")
    return f"; a setting is written without dashes: {' '.join(written)}" if written else ""
