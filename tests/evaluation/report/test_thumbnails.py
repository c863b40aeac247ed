"""Thumbnails get smaller where there are more of them."""

from __future__ import annotations

from typing import Any

import pytest

from vizsage.evaluation.report import thumbnails


@pytest.mark.parametrize(("images", "size"), [(1, (160, 72)), (2000, (160, 72)), (2001, (112, 60)), (10_001, (80, 50))])
def test_the_size_of_a_thumbnail_goes_by_their_number(images: int, size: tuple[int, int]) -> None:
    assert thumbnails._size(images) == size


def test_nothing_is_opened_for_no_images(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any) -> None:
        raise AssertionError("opened")

    monkeypatch.setattr(thumbnails, "open_split", refuse)
    assert thumbnails.thumbnails({}, "test", ()) == thumbnails.Thumbnails()
