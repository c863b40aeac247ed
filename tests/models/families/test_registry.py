"""Families: each model type belongs to one, and an undeclared one is served the plain way."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.families import BUILDERS
from tests.families.data import samples, settings
from vizsage.data.collate import PromptCollator, TrainCollator
from vizsage.data.model_inputs import ORDINARY, ModelInputs, TokenInput, declare_inputs, inputs_of
from vizsage.data.prompts import fingerprint, reserved_tokens
from vizsage.errors import ConfigError
from vizsage.models.families.family import Undeclared
from vizsage.models.families.registry import FAMILIES, family_of
from vizsage.models.loading.hf import load_base, load_processor


def test_each_model_type_belongs_to_one_family_and_has_a_small_model_to_test_it_with() -> None:
    counted = Counter(name for family in FAMILIES for name in family.names)
    assert set(counted.values()) == {1}
    assert counted.keys() == BUILDERS.keys()
    assert all(family.title for family in FAMILIES)


@pytest.mark.parametrize("name", sorted(BUILDERS))
def test_a_loaded_processor_carries_what_its_family_declares(name: str) -> None:
    loaded = load_base(settings(name))
    family = family_of(loaded.model.config)
    assert name in family.names
    assert inputs_of(loaded.processor) is family.inputs


def test_a_family_that_nobody_declared_answers_all_questions_the_ordinary_way() -> None:
    config = copy.deepcopy(load_base(settings("llava")).model.config)
    config.model_type = "some_vlm"
    family = family_of(config)
    assert isinstance(family, Undeclared)
    assert "'some_vlm'" in str(family.why_plain(None))
    assert family.inputs == ModelInputs()


def with_places(processor: Any) -> Any:
    """A processor of a model that also wants the place of each token in its row."""
    kind = type(processor)

    class Placing(kind):  # type: ignore[misc, valid-type]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            batch = super().__call__(*args, **kwargs)
            batch["places"] = batch["attention_mask"].cumsum(dim=1)
            return batch

    processor.__class__ = Placing
    return processor


@pytest.mark.parametrize("collator", [TrainCollator, PromptCollator])
def test_an_input_with_a_value_per_token_that_no_family_declares_is_refused(collator: Callable[..., Any]) -> None:
    config = settings("llava")
    processor = with_places(load_processor(config))
    with pytest.raises(ConfigError, match="its processor makes an input 'places' with a value per token") as caught:
        collator(processor, config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("of_answer", ["zeros", "ones", "last"])
def test_a_declared_input_is_padded_and_goes_on_at_the_answer_as_its_family_says(of_answer: Any) -> None:
    config = settings("llava")
    processor = with_places(load_processor(config))
    declare_inputs(processor, ModelInputs(by_token=ORDINARY | {"places": TokenInput(-1, of_answer)}))
    batch = TrainCollator(processor, config)(samples())
    for places, mask, labels in zip(batch["places"], batch["attention_mask"], batch["labels"], strict=True):
        tokens, answer = int(mask.sum()), int((labels != -100).sum())
        prompt = tokens - answer
        expected = {"zeros": 0, "ones": 1, "last": prompt}[of_answer]
        assert places[:prompt].tolist() == list(range(1, prompt + 1))
        assert places[prompt:tokens].tolist() == [expected] * answer
        assert (places[tokens:] == -1).all()
    packed = TrainCollator(processor, config, share_images=True)(samples())
    assert packed["places"].shape == packed["input_ids"].shape


def test_a_family_adds_to_the_fingerprint_and_to_the_tokens_that_texts_must_not_contain() -> None:
    config = settings("llava")
    processor = load_processor(config)
    before = fingerprint(processor, config, "content:1")
    ordinary = ModelInputs()
    inputs = ModelInputs(
        pixel_limits=(*ordinary.pixel_limits, "max_patches"), image_tokens=(*ordinary.image_tokens, "row_token")
    )
    declare_inputs(processor, inputs)
    assert fingerprint(processor, config, "content:1") == before
    processor.image_processor.max_patches, processor.row_token = 7, "<row>"
    assert '"max_patches": 7' in fingerprint(processor, config, "content:1")["pixel_limits"]
    assert "<row>" in reserved_tokens(processor)


def test_what_a_processor_carries_is_not_saved_with_it(tmp_path: Any) -> None:
    processor = load_processor(settings("mllama"))
    processor.save_pretrained(tmp_path)
    assert not [path for path in tmp_path.iterdir() if "vizsage" in path.read_text(encoding="utf-8")]
