"""loss.png is drawn from any curves under any title."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from vizsage.contract.run_files import MetricsLine
from vizsage.contract.training_curves import training_curves
from vizsage.training.curves_image import draw_curves

LINES = (
    [],
    [MetricsLine(step=0, exact_match=None, val_loss=2.0)],
    [MetricsLine(step=step, loss=1 / step, lr=0.1) for step in (1, 2)],
)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("lines", "title"), [*zip(LINES, ("$x{_", "模型, \x1b[31m", "a" * 500), strict=True)])
def test_any_curves_and_any_title(lines: list[MetricsLine], title: str) -> None:
    with Image.open(io.BytesIO(draw_curves(training_curves(lines), title))) as image:
        assert image.width == 1000
        assert image.height > 500
