"""The image of a report in the documentation.

Usage: python -m tools.report_screenshot RUN [docs/report.png]

RUN is an output_dir, or one folder of its evaluation_results, as for `vizsage report`. Of an output_dir the evaluation
of the adapter is shown where there is one. The image is the beginning of the page above the beginning of its gallery
of wrong answers.
"""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

from PIL import Image

from tools.browser import Browser, browser
from vizsage.evaluation.report.report_file import evaluation_folders, write_report
from vizsage.files import write_bytes

IMAGE = Path("docs/report.png")
WIDTH_PX = 1160
GAP_PX, BELOW_PX = 28, 12
PARTS = (
    (0, "#score .metrics"),
    ("#gallery", "#cards .card:nth-child(-n + 4)"),
)  # each from the top of one to the end of one


def main() -> int:
    """Write the image and print its path."""
    run = Path(sys.argv[1])
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else IMAGE
    page = write_report(evaluation_folders(run)[0])
    with browser() as chromium:
        parts = images(chromium, page)
    whole = Image.new("RGB", (WIDTH_PX, sum(part.height for part in parts) + GAP_PX * (len(parts) - 1)), "#d8d5cd")
    top = 0
    for part in parts:
        whole.paste(part, (0, top))
        top += part.height + GAP_PX
    file = BytesIO()
    whole.quantize(256, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
    write_bytes(target, file.getvalue())
    print(target)
    return 0


def images(chromium: Browser, page: Path) -> list[Image.Image]:
    """The PARTS of the page, as wide as the window."""
    chromium.resize(WIDTH_PX, 900)
    chromium.emulate()
    chromium.open(page)
    if chromium.run("return !document.querySelector('.chip [value=wrong] + span').textContent.endsWith(' 0')"):
        chromium.click("input[value=wrong]")
    chromium.run("document.documentElement.style.scrollBehavior = 'auto'; scrollTo(0, 0)")
    chromium.resize(WIDTH_PX, chromium.run("return document.documentElement.scrollHeight"))
    chromium.run("return Promise.all([...document.images].map(image => image.decode()))")
    shot = Image.open(BytesIO(chromium.screenshot())).convert("RGB")
    edge = (
        "return Math.max(...[...document.querySelectorAll(arguments[0])]"
        ".map(element => element.getBoundingClientRect()[arguments[1]])) + scrollY"
    )
    found = []
    for first, last in PARTS:
        top = first if isinstance(first, int) else chromium.run(edge, first, "top") - GAP_PX
        found.append(shot.crop((0, int(top), WIDTH_PX, int(chromium.run(edge, last, "bottom")) + BELOW_PX)))
    return found


if __name__ == "__main__":
    sys.exit(main())
