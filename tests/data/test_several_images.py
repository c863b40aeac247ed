"""Samples of several images, ready before records may have them: grouped, asked and shown by all of their images."""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
from PIL import Image

from tests.families.data import image, settings
from vizsage.data.batching import evaluation_order, images_joined
from vizsage.data.encoding import PromptEncoder
from vizsage.data.image_groups import image_numbers
from vizsage.data.sample import ImageRef, Sample
from vizsage.evaluation.answers import AnswerKeys
from vizsage.evaluation.questions import blinded
from vizsage.evaluation.report import thumbnails
from vizsage.models.loading.hf import load_processor

RED, BLUE = image("red"), image("blue", 30, 90)


def asked(*images: tuple[ImageRef, ...]) -> list[Sample]:
    return [Sample(f"test-{i}", one, "what differs?", "the colour") for i, one in enumerate(images)]


def test_a_group_is_all_images_in_their_order() -> None:
    samples = asked((RED, BLUE), (RED,), (BLUE, RED), (RED, BLUE))
    groups = evaluation_order(samples)
    assert [[sample.sample_id for sample in group] for group in groups] == [
        ["test-0", "test-3"],
        ["test-1"],
        ["test-2"],
    ]
    assert image_numbers(samples) == [0, 1, 2, 0]
    assert list(images_joined(samples)) == samples


def test_images_of_one_name_and_different_bytes_are_two_groups() -> None:
    samples = asked((RED, BLUE), (RED, replace(RED, name=BLUE.name)), (RED, BLUE))
    assert image_numbers(samples) == [0, 1, 0]


def test_each_image_is_in_the_prompt_and_in_the_model_inputs() -> None:
    config = settings("qwen2_5_vl")
    encoder = PromptEncoder(load_processor(config), config)
    samples = asked((RED, BLUE), (BLUE,))
    encoded = encoder.encode(samples, [1, 1], skip_bad=False)
    assert encoded.rejected == {}
    alone = [encoder.encode(asked((one,)), [1], skip_bad=False).inputs for one in (RED, BLUE)]
    grids = [inputs["image_grid_thw"].tolist() for inputs in alone]
    assert encoded.inputs["image_grid_thw"].tolist() == [*grids[0], *grids[1], *grids[1]]
    fitted = encoder.fitted(samples, [1, 1], skip_bad=False)
    assert (list(map(len, fitted.images)), fitted.rejected) == ([2, 1], {})


def test_the_key_of_an_answer_depends_on_every_image_and_stays_that_of_earlier_runs_for_one() -> None:
    keys = AnswerKeys({"adapter": "aa"}, lambda sample: [1, 2])
    both, one, turned = map(keys, asked((RED, BLUE), (RED,), (BLUE, RED)))
    assert len({both, one, turned}) == 3
    shown = ['{"adapter": "aa"}', hashlib.sha256(RED.data).hexdigest(), [1, 2]]
    assert one == hashlib.sha256(json.dumps(shown).encode()).hexdigest()


def test_a_blind_evaluation_withholds_every_image() -> None:
    (sample,) = map(blinded, asked((RED, BLUE)))
    assert sample.group == ("withheld.png", "withheld.png")


def test_a_thumbnail_shows_all_images_side_by_side(monkeypatch: pytest.MonkeyPatch) -> None:
    samples = asked((RED, BLUE), (RED,))
    split = SimpleNamespace(stream=lambda: iter(samples))
    monkeypatch.setattr(thumbnails, "open_split", lambda config, name: split)
    names = [sample.image_names for sample in samples]
    found = thumbnails.thumbnails({}, "test", names)
    assert not found.problems
    sizes = [Image.open(io.BytesIO(found.files[name])).size for name in names]
    assert sizes == [(40 + 30, 90), (40, 30)]
