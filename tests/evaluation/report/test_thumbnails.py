"""Images of a report get smaller where there are more of them, so that the page stays below its limit."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest
from PIL import Image

from vizsage.data.images import EmbeddedImage
from vizsage.evaluation.report import thumbnails


@pytest.mark.parametrize(("images", "largest"), [(1, 512), (1000, 512), (3000, 288), (10_000, 160), (100_000, 80)])
def test_the_first_size_that_is_tried_goes_by_their_number(images: int, largest: int) -> None:
    assert thumbnails._sizes(images, 512)[0][0] == largest
    assert thumbnails._sizes(images, 512)[-1][0] == 80
    assert thumbnails._sizes(images, 160)[0][0] == min(largest, 160)


def test_an_image_is_as_large_as_its_share_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    smooth, noise = Image.new("RGB", (1000, 800), "teal"), Image.effect_noise((1000, 800), 60).convert("RGB")
    samples = []
    for name, image in (("smooth", smooth), ("noise", noise)):
        file = io.BytesIO()
        image.save(file, "PNG")
        samples.append(SimpleNamespace(image_names=name, images=(EmbeddedImage(name, file.getvalue()),)))
    monkeypatch.setattr(thumbnails, "open_split", lambda config, split: SimpleNamespace(stream=lambda: iter(samples)))
    monkeypatch.setattr(thumbnails, "TOTAL_BYTES", 40_000)
    found = thumbnails.thumbnails({}, "test", ["smooth", "noise"])
    widths = {name: Image.open(io.BytesIO(file)).width for name, file in found.files.items()}
    assert widths["smooth"] == 512
    assert 80 < widths["noise"] < 512
    assert all(len(file) <= 20_000 for file in found.files.values())


def test_nothing_is_opened_for_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **options: Any) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(thumbnails, "open_split", refuse)
    assert thumbnails.thumbnails({}, "test", ()) == thumbnails.Thumbnails()
