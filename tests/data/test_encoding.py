"""Prompts without tensors are the prompts with them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tests.families import BUILDERS
from tests.families.data import image, samples, settings
from tests.models.loading.vllm_stand_in import expanded
from vizsage.data.encoding import PromptEncoder
from vizsage.data.images import BadImage, EmbeddedImage
from vizsage.data.sample import Sample
from vizsage.models.loading.hf import load_processor

FAMILIES = sorted(BUILDERS)


def rows_of(encoder: PromptEncoder, asked: list[Sample]) -> tuple[list[list[int]], dict[int, str]]:
    encoded = encoder.encode(asked, [1] * len(asked), skip_bad=True)
    keep = encoded.inputs["attention_mask"].bool()
    return [ids[kept].tolist() for ids, kept in zip(encoded.inputs["input_ids"], keep, strict=True)], encoded.rejected


@pytest.mark.parametrize("window", ["wide", "narrow"])
@pytest.mark.parametrize("family", FAMILIES)
def test_fitted_prompts_are_the_encoded_ones_before_their_images_are_expanded(family: str, window: str) -> None:
    processor = load_processor(settings(family))
    longest = max(map(len, rows_of(PromptEncoder(processor, settings(family, max_seq_length=4096)), samples())[0]))
    # Narrow: the longest prompts just do not fit, so that descriptions are shortened and the rest is close.
    config = settings(family, max_seq_length=4096 if window == "wide" else longest, max_new_tokens=8)
    encoder = PromptEncoder(processor, config)
    asked = [*samples(), replace(samples()[0], sample_id="long", question="why " * 3000)]
    rows, rejected = rows_of(encoder, asked)
    fitted = encoder.fitted(asked, [1] * len(asked), skip_bad=True)
    assert fitted.rejected == rejected
    assert set(rejected) == {len(asked) - 1}
    for i, ids in enumerate(fitted.ids):
        if i not in rejected:
            if family != "mllama":  # there an image stays one token
                ids = expanded(processor, ids, *fitted.images[i])["input_ids"][0].tolist()
            assert ids == rows[i]


def test_a_image_is_processed_once_for_all_its_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = PromptEncoder(load_processor(settings("qwen2_5_vl")), settings("qwen2_5_vl"))
    processed: list[int] = []
    process = encoder.processing.inputs

    def counted(texts: list[str], images: list[Any]) -> Any:
        processed.append(len(images))
        return process(texts, images)

    monkeypatch.setattr(encoder.processing, "inputs", counted)
    encoder.fitted(samples(), [1] * 9, skip_bad=True)
    assert processed == [1] * 4


def test_bad_images_and_refused_ones_are_rejected_or_raised() -> None:
    encoder = PromptEncoder(load_processor(settings("qwen2_5_vl")), settings("qwen2_5_vl"))
    good = samples()[0]
    bad = replace(good, sample_id="bad", images=(EmbeddedImage("broken.png", b"nothing"),))
    thin = replace(good, sample_id="thin", images=(image("red", 2000, 2),))  # Qwen2-VL refuses it
    fitted = encoder.fitted([bad, good, thin], [1] * 3, skip_bad=True)
    assert sorted(fitted.rejected) == [0, 2]
    assert "broken.png" in fitted.rejected[0]
    assert "refused by the model's processor" in fitted.rejected[2]
    for unusable in (bad, thin):
        with pytest.raises(BadImage):
            encoder.fitted([good, unusable], [1] * 2, skip_bad=False)
