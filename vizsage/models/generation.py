"""Answers of a model to samples, in batches that share images or in left-padded rows."""

from __future__ import annotations

import logging
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

from vizsage.config import Config
from vizsage.data.batching import answer_batches
from vizsage.data.collate import PromptCollator
from vizsage.data.sample import Sample
from vizsage.errors import is_out_of_memory
from vizsage.models.families.registry import family_of
from vizsage.models.loaded import Answer, cuda_devices
from vizsage.models.shared_image.decoding import BranchDecoder
from vizsage.models.shared_image.sharing import why_plain

log = logging.getLogger(__name__)
T = TypeVar("T")
_TURN_S = 1.0


class Generator:
    """A loaded model that answers samples.

    For greedy answers an image is computed once for all its questions (config.share_images) where the model can do
    that; sampling and beams need a row for each question.

    Attributes:
        alone: why each question has a row and its own copy of the image; None where questions share their image.
    """

    def __init__(self, model: Any, processor: Any, config: Config, *, greedy: bool = False) -> None:
        """Prepares `model` and `processor`.

        Args:
            model: a model of transformers, or a PeftModel around one.
            processor: as `load_processor` returns it.
            config: the settings.
            greedy: answer greedily, whatever the values of do_sample and num_beams.

        Raises:
            ConfigError: the chat template cannot serve.
        """
        self.model, self.base, self.config = model, _base_of(model), config
        self.alone = self._why_alone(processor, greedy=greedy)
        self.decoder = None if self.alone else BranchDecoder(self.base)
        self.collate = PromptCollator(processor, config, share_images=not self.alone, pixels=self.base.dtype)
        self.tokenizer = processor.tokenizer
        self.end_ids = end_ids(self.base.generation_config, self.collate.encoder.layout.end_of_turn_id)
        self.settings = generation_settings(config, self.end_ids, self.tokenizer.pad_token_id, greedy=greedy)
        self._fits = config.eval_batch_size  # fewer after a batch that did not fit into memory
        self._collating = threading.Lock()  # tokenizers and processors are not safe for several threads

    def prompt_ids(self, sample: Sample) -> list[int]:
        """The token ids of a sample's prompt with its whole description; the image is one placeholder."""
        return self.collate.encoder.prompt_ids(sample)

    def batches(self, samples: Sequence[Sample]) -> list[list[Sample]]:
        """All of `samples`, in batches of config.eval_batch_size and eval_batch_tokens; see answer_batches."""
        config, encoder = self.config, self.collate.encoder
        beside = family_of(self.base.config).tokens_beside_row(self.base)
        return answer_batches(
            samples,
            encoder.prompt_ids,
            lambda image: encoder.image_tokens(image) + beside,
            questions=config.eval_batch_size,
            tokens=config.eval_batch_tokens,
            shared=self.decoder is not None,
        )

    def answer(self, batches: Sequence[Sequence[Sample]]) -> Iterator[list[Answer]]:
        """The answers to each of `batches`, in its order.

        A batch that does not fit into memory is answered in halves. Train or eval mode, gradients and the random state
        are as before whenever an answer is yielded.

        Raises:
            torch.OutOfMemoryError: one question does not fit.
            DataError: the file of an image can no longer be read.
        """
        for batch, inputs in made_ahead(batches, self._inputs):
            # Not around the loop: training goes on between two batches, with its own random state, mode and gradients.
            with self._answering(zlib.crc32(batch[0].sample_id.encode(), self.config.seed)):
                answers = self._answer(batch, inputs)
            yield answers

    def _why_alone(self, processor: Any, *, greedy: bool) -> str | None:
        config = self.config
        if config.share_images is False:
            return "share_images is false"
        if not greedy and (config.do_sample or config.num_beams > 1):
            return "do_sample is true" if config.do_sample else f"num_beams is {config.num_beams}"
        return why_plain(self.base, processor, config)

    def _inputs(self, batch: Sequence[Sample]) -> dict[str, Any]:
        with self._collating:
            return self.collate(batch)

    def _answer(self, batch: Sequence[Sample], inputs: dict[str, Any] | None = None) -> list[Answer]:
        """`inputs` are those of `batch`, if they are made already."""
        if len(batch) > self._fits:
            return self._in_halves(batch)
        try:
            return self._answer_whole(batch, self._inputs(batch) if inputs is None else inputs)
        except Exception as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
        self._fits = -(-len(batch) // 2)
        log.warning(
            "%d questions at once do not fit into memory; they are answered in halves, and later ones at most %d at "
            "once (eval_batch_size)",
            len(batch),
            self._fits,
        )
        torch.cuda.empty_cache()
        return self._in_halves(batch)

    def _in_halves(self, batch: Sequence[Sample]) -> list[Answer]:
        middle = -(-len(batch) // 2)
        return self._answer(batch[:middle]) + self._answer(batch[middle:])

    def _answer_whole(self, batch: Sequence[Sample], inputs: dict[str, Any]) -> list[Answer]:
        failed: dict[int, str] = dict(inputs["failed"])
        ids: dict[int, list[int]] = {}
        if len(failed) < len(batch):
            ids = self._shared_ids(inputs) if self.decoder else self._plain_ids(inputs)
        answers = []
        for i, sample in enumerate(batch):
            if i in failed:
                answers.append(Answer(sample.sample_id, None, [], "failed", failed[i]))
                continue
            answers.append(as_answer(sample, ids[i], self.end_ids, self.tokenizer))
        return answers

    def _shared_ids(self, inputs: dict[str, Any]) -> dict[int, list[int]]:
        """By index of the sample, the generated ids, up to and including an end; questions share images."""
        assert self.decoder is not None
        trees, asked = self._on_device(inputs), inputs["asked"]
        with self._precision():
            found = self.decoder.generate(trees, inputs["last"], set(self.end_ids), self.config.max_new_tokens)
        pairs = zip(asked, found, strict=True)
        return {i: ids for samples, answers in pairs for i, ids in zip(samples, answers, strict=True)}

    def _plain_ids(self, inputs: dict[str, Any]) -> dict[int, list[int]]:
        """By index of the sample, the ids that transformers' generate appends to its row, an end and padding too."""
        rows = self._on_device(inputs)
        width = rows["input_ids"].shape[1]
        with self._precision():
            output = self.base.generate(**rows, generation_config=self.settings)
        return dict(enumerate(output[:, width:].tolist()))

    def _on_device(self, inputs: dict[str, Any]) -> dict[str, torch.Tensor]:
        device, dtype = self.base.device, self.base.dtype
        tensors = {name: value for name, value in inputs.items() if torch.is_tensor(value)}
        return {name: value.to(device, dtype if value.is_floating_point() else None) for name, value in tensors.items()}

    def _precision(self) -> torch.autocast:
        """Autocast as in training: some layers are in full precision, the others in bfloat16."""
        dtype = self.base.dtype
        return torch.autocast(self.base.device.type, dtype, enabled=dtype is not torch.float32)

    @contextmanager
    def _answering(self, seed: int) -> Iterator[None]:
        """As `evaluating`, with the settings of generation and a random state from `seed`."""
        own_settings = self.base.generation_config
        # generate() takes each setting that is not given from the model: its repetition penalty would change answers.
        self.base.generation_config = self.settings
        try:
            with evaluating(self.model):
                torch.manual_seed(seed)
                yield
        finally:
            self.base.generation_config = own_settings


@contextmanager
def evaluating(model: Any) -> Iterator[None]:
    """Eval mode, no gradients, and a random state that may be changed; afterwards all are as before."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        with torch.random.fork_rng(devices=cuda_devices(model)), torch.no_grad():
            yield
    finally:
        for module in training:
            module.training = True


def generate_answers(
    model: Any, processor: Any, samples: Sequence[Sample], config: Config, *, greedy: bool = False
) -> Iterator[Answer]:
    """Answer `samples` batch by batch, in the order of Generator.batches."""
    generator = Generator(model, processor, config, greedy=greedy)
    for answers in generator.answer(generator.batches(samples)):
        yield from answers


def generation_settings(config: Config, end_ids: list[int], pad_token_id: int, *, greedy: bool) -> Any:
    """A GenerationConfig from the settings alone; the base model's own settings of sampling have no influence."""
    from transformers import GenerationConfig

    sampling: dict[str, Any] = {"do_sample": False}
    if config.do_sample and not greedy:
        sampling = {
            "do_sample": True,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "top_k": config.top_k,
        }
    return GenerationConfig(
        max_new_tokens=config.max_new_tokens,
        num_beams=1 if greedy else config.num_beams,
        eos_token_id=end_ids,
        pad_token_id=pad_token_id,
        use_cache=True,
        **sampling,
    )


def end_ids(generation_config: Any, end_of_turn_id: int) -> list[int]:
    """Ids that end an answer: those of the base model, and the one that ends a turn in the prompts of training."""
    named = generation_config.eos_token_id
    ids = set(named if isinstance(named, (list, tuple)) else [] if named is None else [named])
    return sorted(ids | {end_of_turn_id})


def made_ahead(
    batches: Sequence[Sequence[Sample]], make: Callable[[Sequence[Sample]], T]
) -> Iterator[tuple[Sequence[Sample], T]]:
    """Each batch with its inputs; a thread prepares those of the next batch while the model answers this one."""
    with ThreadPoolExecutor(max_workers=1) as thread:
        following = [thread.submit(make, batch) for batch in batches[:1]]
        for i, batch in enumerate(batches):
            [under_way] = following
            while not under_way.done():  # in turns: signals and time limits act in this thread
                wait([under_way], timeout=_TURN_S)
            inputs = following.pop().result()
            following += [thread.submit(make, later) for later in batches[i + 1 : i + 2]]
            yield batch, inputs


def as_answer(sample: Sample, ids: list[int], end_ids: list[int], tokenizer: Any) -> Answer:
    """The answer to `sample` from the generated `ids`, in which an end may be followed by others."""
    kept, stopped = _cut_at_end(ids, end_ids)
    text, raw = decoded(tokenizer, kept)
    return Answer(sample.sample_id, text, kept, "stop" if stopped else "length", raw_text=raw)


def decoded(tokenizer: Any, ids: list[int]) -> tuple[str, str]:
    """The text of an answer without outer white space and special tokens, and the text with both."""
    text, raw = (
        tokenizer.decode(ids, skip_special_tokens=skip, clean_up_tokenization_spaces=False) for skip in (True, False)
    )
    return text.strip(), raw


def _cut_at_end(ids: list[int], end_ids: list[int]) -> tuple[list[int], bool]:
    """The ids before the first of `end_ids`, and whether there is one."""
    for i, token in enumerate(ids):
        if token in end_ids:
            return ids[:i], True
    return ids, False


def _base_of(model: Any) -> Any:
    """The model of transformers; adapters act in its layers, so it answers with them."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
