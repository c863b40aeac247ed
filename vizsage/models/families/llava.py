"""LLaVA-1.5: an ordinary decoder-only model. Its features come from a vision layer before the last."""

from __future__ import annotations

from vizsage.models.families.family import Family


class Llava(Family):
    """LLaVA-1.5."""

    names = ("llava",)
    title = "LLaVA-1.5"
