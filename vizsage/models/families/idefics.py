"""Idefics3 and SmolVLM: ordinary decoder-only models. Their processors cut an image into several."""

from __future__ import annotations

from vizsage.models.families.family import Family


class Idefics(Family):
    """Idefics3 and SmolVLM."""

    names = ("idefics3", "smolvlm")
    title = "SmolVLM"
