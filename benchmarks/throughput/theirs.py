"""The other contenders: unsloth as its vision notebooks use it, and TRL's SFTTrainer with peft.

Both train on the same images and the same text, with as many questions in an optimizer step, by their own means.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.throughput.contenders import LEARNING_RATE, LORA, SEED, WEIGHT_DECAY, Contender, Job
from benchmarks.throughput.drawn_questions import read_samples
from benchmarks.throughput.machine import free_memory, peak_gb
from benchmarks.throughput.measured_rows import describe_rows

MakeTrainer = Callable[[float], Any]


def measure_unsloth(contender: Contender, job: Job, model: Path, questions: list[float]) -> Iterator[dict[str, Any]]:
    """FastVisionModel, UnslothVisionDataCollator, SFTTrainer: the settings of the notebooks but for the sizes.

    The images are opened and kept in a list, as there.
    """
    import unsloth  # noqa: F401 -- before transformers, trl and peft, which it patches
    from trl import SFTConfig, SFTTrainer
    from unsloth import FastVisionModel
    from unsloth.trainer import UnslothVisionDataCollator

    network, processor = FastVisionModel.from_pretrained(
        str(model), load_in_4bit=contender.bits == 4, use_gradient_checkpointing="unsloth"
    )
    network = FastVisionModel.get_peft_model(
        network,
        finetune_vision_layers=False,
        finetune_language_layers=True,
        finetune_attention_modules=True,
        finetune_mlp_modules=True,
        random_state=SEED,
        use_rslora=False,
        loftq_config=None,
        **LORA,
    )

    def make(mean: float) -> Any:
        FastVisionModel.for_training(network)
        return SFTTrainer(
            model=network,
            processing_class=processor,
            data_collator=UnslothVisionDataCollator(network, processor, resize=job.unsloth_resize),
            train_dataset=[{"messages": turns} for _, turns in conversations(job, mean, open_images=True)],
            args=SFTConfig(
                **common_arguments(contender, job),
                optim="adamw_8bit",
                remove_unused_columns=False,
                dataset_text_field="",
                dataset_kwargs={"skip_prepare_dataset": True},
                max_length=job.max_length,
            ),
        )

    yield from measure_trainer(contender, job, make, questions)


def measure_trl(contender: Contender, job: Job, model: Path, questions: list[float]) -> Iterator[dict[str, Any]]:
    """SFTTrainer as its documentation trains vision-language models: bfloat16, checkpointing, its own collator.

    Its loss is a Triton kernel; on a CPU the loss of transformers replaces it.
    """
    import torch
    from datasets import Dataset, Features, Image, List, Value
    from peft import LoraConfig
    from transformers import AutoModelForImageTextToText, AutoProcessor, Trainer
    from trl import SFTConfig, SFTTrainer

    class OnCpu(SFTTrainer):
        compute_loss = Trainer.compute_loss

    cuda = torch.cuda.is_available()
    network = AutoModelForImageTextToText.from_pretrained(
        str(model), dtype=torch.bfloat16 if cuda else torch.float32, device_map={"": 0} if cuda else None
    )
    processor = AutoProcessor.from_pretrained(str(model))
    language = r".*language_model.*\.(q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    turn = {"role": Value("string"), "content": List({"type": Value("string"), "text": Value("string")})}
    features = Features({"images": List(Image()), "messages": List(turn)})
    adapted: list[Any] = []  # the model with its adapter, made by the first trainer

    def make(mean: float) -> Any:
        rows = [
            {"images": [str(image)], "messages": turns} for image, turns in conversations(job, mean, open_images=False)
        ]
        trainer = (SFTTrainer if cuda else OnCpu)(
            model=adapted[0] if adapted else network,
            processing_class=processor,
            train_dataset=Dataset.from_list(rows, features=features),
            peft_config=None if adapted else LoraConfig(task_type="CAUSAL_LM", target_modules=language, **LORA),
            args=SFTConfig(
                **common_arguments(contender, job),
                optim="adamw_8bit" if cuda else "adamw_torch",
                bf16=cuda,
                use_cpu=not cuda,
                gradient_checkpointing=True,
                max_length=None,
            ),
        )
        adapted[:] = [trainer.model]
        return trainer

    yield from measure_trainer(contender, job, make, questions)


def common_arguments(contender: Contender, job: Job) -> dict[str, Any]:
    """The arguments that both trainers receive."""
    warmup, steps = job.measured_steps(contender)
    return {
        "output_dir": str(Path(job.work) / f"run-{contender.name}"),
        "max_steps": warmup + steps,
        "per_device_train_batch_size": job.their_batch,
        "gradient_accumulation_steps": job.step_questions // job.their_batch,
        "learning_rate": LEARNING_RATE,
        "warmup_steps": 2,
        "weight_decay": WEIGHT_DECAY,
        "lr_scheduler_type": "linear",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": SEED,
    }


def conversations(job: Job, mean: float, *, open_images: bool) -> list[tuple[Path, list[dict[str, Any]]]]:
    """Image and conversation of each sample, with this project's prompt: the text is the same for all."""
    from PIL import Image

    from vizsage.data.prompts import messages

    config, samples = read_samples(job.data_folder(mean))
    opened: dict[Path, Any] = {}
    found = []
    for sample in samples:
        path = config.images_dir / sample.image_names
        turns = [
            *messages(sample, config.instruction, None),
            {"role": "assistant", "content": [{"type": "text", "text": sample.answer}]},
        ]
        if open_images:
            if path not in opened:
                opened[path] = Image.open(path).convert("RGB")
            turns[0]["content"] = [
                {**part, "image": opened[path]} if part["type"] == "image" else part for part in turns[0]["content"]
            ]
        found.append((path, turns))
    return found


def measure_trainer(
    contender: Contender, job: Job, make: MakeTrainer, questions: list[float]
) -> Iterator[dict[str, Any]]:
    """One short training for each number of questions per image, all of the same model."""
    for mean in questions:
        trainer = make(mean)
        watch = Watch(trainer)
        trainer.train()
        warmup, _ = job.measured_steps(contender)
        yield {"questions": mean, **watch.figures(warmup), "peak_gb": peak_gb()}
        del trainer, watch
        free_memory()  # the model stays


class Watch:
    """Times the optimizer steps of a Trainer from outside, and what its batches look like."""

    def __init__(self, trainer: Any) -> None:
        """Hooks into `trainer`."""
        import torch
        from transformers import TrainerCallback

        self.borders: list[float] = []
        self.waited: list[float] = []
        self.row: dict[str, Any] = {}
        watch, get_batches, collate = self, trainer.get_batch_samples, trainer.data_collator

        class AtBorders(TrainerCallback):
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if torch.cuda.is_available():
                    torch.cuda.synchronize()
                watch.borders.append(time.perf_counter())

        def timed_batches(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return get_batches(*args, **kwargs)
            finally:
                watch.waited.append(time.perf_counter() - start)

        def seen(examples: Any) -> Any:
            batch = collate(examples)
            watch.row = describe_rows(batch)
            return batch

        trainer.get_batch_samples = timed_batches
        trainer.data_collator = seen
        trainer.add_callback(AtBorders())

    def figures(self, warmup: int) -> dict[str, Any]:
        """Times of the steps after `warmup` ones, those spent in getting their batches, the last batch's shape."""
        times = [
            after - before for before, after in zip(self.borders[warmup - 1 :], self.borders[warmup:], strict=False)
        ]
        # One wait per step, and one more at the end of the data, if it is reached.
        waits = self.waited[warmup : warmup + len(times)]
        return {
            "step_times_s": times,
            "step_waits_s": waits if len(waits) == len(times) else None,
            "row": self.row,
        }
