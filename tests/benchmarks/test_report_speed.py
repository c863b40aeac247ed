"""benchmarks/report_speed.py and tools/report_screenshot.py on a small report, in a real browser."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from benchmarks import report_speed as report
from tools import report_screenshot
from tools.browser import browser_missing

pytestmark = pytest.mark.skipif(browser_missing() is not None, reason=str(browser_missing()))


def test_the_benchmark_measures_a_report_with_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "TIMES", 1)
    monkeypatch.setattr(report, "IMAGE", (64, 48))
    figures = report.measure(tmp_path, 60)
    assert figures["images"] == 13
    assert figures["cards_at_first"] == 40
    assert 0 < figures["opening_s"] < 60
    assert 0 < figures["search_s"] < 60


def test_the_image_for_the_readme_has_headline_and_gallery(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(report, "IMAGE", (64, 48))
    report.write_evaluation(tmp_path, 20)
    target = tmp_path / "report.png"
    monkeypatch.setattr("sys.argv", ["report_screenshot", str(tmp_path / "run"), str(target)])
    assert report_screenshot.main() == 0
    assert capsys.readouterr().out == f"{target}\n"
    with Image.open(target) as image:
        assert image.width == report_screenshot.WIDTH_PX
        assert 900 < image.height < 2000
        assert len(image.convert("RGB").getcolors(1 << 20) or ()) > 50
    assert target.stat().st_size < 400_000
