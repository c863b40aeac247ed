"""Measure what docs/benchmarks.md promises of start-up and data reading.

Usage: python -m benchmarks.data_speed

Writes its data into a temporary folder, prints one table and exits 1 when a bar is missed. The figures are those of the
machine at hand, with whatever else it does at the time. Linux only: peak memory is read from /proc.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vizsage.config import Config, build_config
from vizsage.files import write_json

HELP_BAR_S = 0.6
READING_BAR_S = 3.0
STREAMING_BAR_MIB = 50.0
QUESTIONS_PER_IMAGE = 3.7  # AQUA's training split
IMAGE = (1024, 768)
BATCH = 4


@dataclass(frozen=True)
class Row:
    """One line of the table; `met` is None where there is no bar."""

    what: str
    found: str
    bar: str = ""
    met: bool | None = None


def main() -> int:
    """Run the chosen measurements and print them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("only", nargs="*", help=f"measurements to run, of {', '.join(MEASUREMENTS)}; default: all")
    parser.add_argument("--records", type=int, default=70_000, help="records that are read and checked")
    parser.add_argument("--streamed", type=int, default=1_000_000, help="records of the large streamed split")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="DataLoader workers that decode images")
    parser.add_argument("--images", type=int, default=600, help="questions whose images are decoded")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the measurements there, too")
    parser.add_argument("--stream-child", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.stream_child:
        return stream_child(arguments.stream_child)
    if unknown := set(arguments.only) - set(MEASUREMENTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}; known: {', '.join(MEASUREMENTS)}")

    table = Table("measured", "found", "bar", "met", title=f"Python {sys.version.split()[0]}, {os.cpu_count()} cores")
    rows: list[Row] = []
    for name, measure in MEASUREMENTS.items():
        if name in (arguments.only or MEASUREMENTS):
            with tempfile.TemporaryDirectory(prefix="vizsage-benchmark-") as folder:
                rows += measure(Path(folder), arguments)
    for row in rows:
        table.add_row(row.what, row.found, row.bar, {None: "", True: "yes", False: "NO"}[row.met])
    Console().print(table)
    if arguments.json:
        machine = f"{os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}"
        write_json(arguments.json, {"machine": machine, "rows": [{"what": r.what, "found": r.found} for r in rows]})
    return 1 if any(row.met is False for row in rows) else 0


# --- start-up ---------------------------------------------------------------------------------------------------------


def measure_help(folder: Path, arguments: argparse.Namespace) -> list[Row]:
    """Seconds of `vizsage --help`, and whether it imports torch."""
    start = "import sys; from vizsage.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\n"
    seconds = [timed_run([sys.executable, "-c", start]) for _ in range(6)][1:]  # the first one compiles
    report = subprocess.run(
        [sys.executable, "-c", f"{start}print(sum(m.split('.')[0] == 'torch' for m in sys.modules), file=sys.stderr)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    torch_modules = int(report.stderr.split()[-1])
    middle = statistics.median(seconds)
    return [
        Row("vizsage --help, median of 5", f"{middle:.2f} s", f"< {HELP_BAR_S} s", middle < HELP_BAR_S),
        Row("torch modules that it imports", str(torch_modules), "0", torch_modules == 0),
    ]


def timed_run(command: list[str]) -> float:
    """Seconds of wall clock."""
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


# --- reading ----------------------------------------------------------------------------------------------------------


def measure_reading(folder: Path, arguments: argparse.Namespace) -> list[Row]:
    """Seconds to read and check a split with its table of descriptions: from nothing to a list of samples."""
    from vizsage.data.sources import open_split

    rows = []
    for suffix in ("json", "jsonl"):
        config = write_split(folder / suffix, suffix, arguments.records, with_files=True)
        start = time.perf_counter()
        samples = open_split(config, "train").load()
        seconds = time.perf_counter() - start
        images = len({sample.group for sample in samples})
        what = f"reading and checking {len(samples):,} samples on {images:,} images, {suffix} and table"
        rows.append(Row(what, f"{seconds:.2f} s", f"< {READING_BAR_S:g} s", seconds < READING_BAR_S))
    return rows


def write_split(folder: Path, suffix: str, records: int, *, with_files: bool = False) -> Config:
    """A training split of AQUA's proportions: visual questions first, then the 70% that need a description."""
    (folder / "AQUA").mkdir(parents=True)
    images, visual = int(records / QUESTIONS_PER_IMAGE), int(0.3 * records)
    with (folder / "semart.csv").open("w", encoding="latin-1") as table:
        table.write("IMAGE_FILE\tDESCRIPTION\tAUTHOR\n")
        for i in range(20_000):  # as many as SemArt, for every split
            table.write(f"{i:05d}-paint.jpg\t{'The painting shows a scène by the water. ' * 14}\tAUTHOR {i}\n")
    if with_files:
        (folder / "Images").mkdir()
        for i in range(images):
            (folder / "Images" / f"{i:05d}-paint.jpg").touch()
    with (folder / "AQUA" / f"train.{suffix}").open("w", encoding="utf-8") as file:
        file.write("[" if suffix == "json" else "")
        for i in range(records):
            # As in AQUA, neighbours ask about one image, and most images are in both blocks.
            image = int(i / visual * images) if i < visual else int((i - visual) / (records - visual) * images)
            record = {
                "image": f"{image:05d}-paint.jpg",
                "question": f"what do a group of people number {i} stand next to",
                "answer": f"the answer {i}",
                "need_external_knowledge": i >= visual,
            }
            between = "\n" if suffix == "jsonl" else "]" if i == records - 1 else ", "
            file.write(json.dumps(record) + between)
    return config_of(folder)


def config_of(folder: Path) -> Config:
    """Settings that train on the split in `folder`, with knowledge."""
    table = {"external_knowledge": True, "external_knowledge_path": str(folder / "semart.csv")}
    return build_config({"base_path": str(folder), **(table if (folder / "semart.csv").exists() else {})})


# --- streaming --------------------------------------------------------------------------------------------------------


def measure_streaming(folder: Path, arguments: argparse.Namespace) -> list[Row]:
    """Peak resident memory of a process that checks a split and streams one epoch of it."""
    rows = []
    for suffix in ("json", "jsonl"):
        peaks, seconds = [], []
        for records in (10_000, arguments.streamed):
            place = folder / f"{suffix}-{records}"
            write_split(place, suffix, records)
            command = [sys.executable, __file__, "--stream-child", str(place)]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            if found["samples"] != records:
                raise SystemExit(f"streamed {found['samples']} samples of {records}")
            peaks.append(found["peak_bytes"] / 2**20)
            seconds.append(found["seconds"])
        growth = peaks[1] - peaks[0]
        what = f"peak memory, streaming 10,000 and {arguments.streamed:,} samples, {suffix}"
        rows += [
            Row(
                what,
                f"{peaks[0]:.0f} and {peaks[1]:.0f} MiB",
                f"within {STREAMING_BAR_MIB:g}",
                growth < STREAMING_BAR_MIB,
            ),
            Row(f"checking and streaming {arguments.streamed:,} samples, {suffix}", f"{seconds[1]:.1f} s"),
        ]
    return rows


def stream_child(folder: Path) -> int:
    """Stream one epoch and print what it took, as JSON."""
    from vizsage.data.batching import step_samples, stream_order
    from vizsage.data.sources import open_split

    config = config_of(folder)
    start = time.perf_counter()
    order = stream_order(open_split(config, "train"), config.seed, config.stream_buffer_size)
    batches = step_samples(order, first_step=0, steps=order.total // 8, of_process=8)
    samples = sum(len(batch) for batch in batches)
    # Not ru_maxrss: Linux hands the parent's peak down to it.
    status = Path("/proc/self/status").read_text(encoding="ascii").split()
    peak = int(status[status.index("VmHWM:") + 1]) * 1024
    print(json.dumps({"samples": samples, "peak_bytes": peak, "seconds": time.perf_counter() - start}))
    return 0


# --- decoding ---------------------------------------------------------------------------------------------------------


def measure_decoding(folder: Path, arguments: argparse.Namespace) -> list[Row]:
    """Samples per second whose images worker processes decode ahead of the main process."""
    import numpy as np
    import torch

    from vizsage.data.batching import memory_order, step_samples
    from vizsage.data.images import load_image
    from vizsage.data.sources import open_split
    from vizsage.training.loader import TrainLoader

    class Decoded:
        """Batches of decoded images: each worker decodes its own part only."""

        def of_worker(self, worker: int, workers: int) -> Iterator[list[torch.Tensor]]:
            part = {"worker": worker, "workers": workers}
            for batch in step_samples(order, first_step=0, steps=10**9, of_process=BATCH, **part):
                images = (load_image(image, max_image_px=10**8) for sample in batch for image in sample.images)
                yield [torch.from_numpy(np.array(image)) for image in images]

    image_bytes = draw_images(folder, arguments.images)
    order = memory_order(open_split(build_config({"base_path": str(folder)}), "train").load(), seed=0)
    rows = []
    for workers in arguments.workers:
        loader = TrainLoader(Decoded(), workers, pin_memory=False)
        batches = iter(loader)
        list(islice(batches, 8 * workers))  # the workers start, and what they decoded until then is used up
        start = time.perf_counter()
        samples = sum(len(batch) for batch in islice(batches, arguments.images // BATCH))
        rate = samples / (time.perf_counter() - start)
        loader.end()
        what = f"decoding ahead, {IMAGE[0]}x{IMAGE[1]} JPEG of {image_bytes / 1024:.0f} KiB, {workers} worker(s)"
        rows.append(Row(what, f"{rate:.0f} samples/s, {rate / workers:.0f} per worker"))
    return rows


def draw_images(folder: Path, questions: int) -> float:
    """Draw smooth images with some grain, one for each question, and return their mean size in bytes."""
    from PIL import Image, ImageFilter

    (folder / "AQUA").mkdir(parents=True)
    (folder / "Images").mkdir()
    generator = random.Random(0)
    grain = Image.effect_noise(IMAGE, 24).filter(ImageFilter.GaussianBlur(1))
    records = []
    for i in range(questions):
        name = f"{i}.jpg"
        if i < 60:
            coarse = Image.frombytes("RGB", (8, 6), generator.randbytes(144)).resize(IMAGE, Image.Resampling.BICUBIC)
            Image.blend(coarse, grain.convert("RGB"), 0.3).save(folder / "Images" / name, quality=88)
        else:
            os.link(folder / "Images" / f"{i % 60}.jpg", folder / "Images" / name)
        records.append({"image": name, "question": "what is shown", "answer": "an image"})
    (folder / "AQUA" / "train.json").write_text(json.dumps(records), encoding="utf-8")
    sizes = [(folder / "Images" / record["image"]).stat().st_size for record in records]
    return statistics.mean(sizes)


MEASUREMENTS: dict[str, Callable[[Path, argparse.Namespace], list[Row]]] = {
    "help": measure_help,
    "reading": measure_reading,
    "streaming": measure_streaming,
    "decoding": measure_decoding,
}

if __name__ == "__main__":
    sys.exit(main())
