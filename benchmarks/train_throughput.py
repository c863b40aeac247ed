"""Measure how fast this project trains, beside unsloth and TRL.

Usage: python -m benchmarks.train_throughput

Random weights, drawn images and made-up questions, the same for all: 4.8 questions per image, then 3.6, then 1. Each
contender is a separate process. `--size tiny` shows the ratios on any CPU; `--size real` measures Llama 3.2 11B
Vision or Qwen2.5-VL 7B at their real sizes on a GPU, prints whether the bars are met and exits 1 when one is missed or
a contender failed. A contender that cannot run on the machine is shown with the reason. The time of a step is the
median of the measured ones; the mean wait for data is given as a share of it.

unsloth trains as its notebooks do, except that its collator keeps the size of the images (`resize`), as all others do;
--unsloth-resize min is its own default. Other differences: unsloth and TRL learn all text of a row, as both do by
default (TRL the image's placeholders, too), and this project the answer only, which needs fewer logits. In 4 bits this
project quantises all linear layers except the head; unsloth keeps the projector of Llama 3.2 Vision and the vision
tower of Qwen2.5-VL in 16 bits. Compilation happens before the measured steps and is in no figure.

Peak memory is what torch counts on a GPU, and on a CPU the resident memory of the process, including loading.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.throughput.contenders import CONTENDERS, OUR_BATCH, Job
from benchmarks.throughput.merging import hash_source, take_over
from benchmarks.throughput.ratios import Measurement, find_bars, make_table, notes, with_ratios
from vizsage.files import write_json

ROOT = Path(__file__).resolve().parents[1]
CHILD = ("-m", "benchmarks.train_throughput")  # how Python starts the process of a contender
FAMILIES = ("mllama", "qwen2_5_vl")
NO_TIME = "no time left (--budget)"


def main() -> int:
    """Measure the chosen contenders, one after the other, and print what was found."""
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.contender or arguments.prepare:
        return _child(arguments)
    chosen = _chosen(parser, arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the child ends, too
    if arguments.merge and not arguments.merge.is_file():
        parser.error(f"--merge {arguments.merge}: no such file")
    arguments.our_batch = arguments.our_batch or OUR_BATCH[arguments.size, arguments.family]
    for name in ("our_batch", "their_batch"):
        if arguments.step_questions % getattr(arguments, name):
            parser.error(f"--step-questions {arguments.step_questions} is no multiple of --{name.replace('_', '-')}")
    with tempfile.TemporaryDirectory(prefix="vizsage-benchmark-") as work:
        run = Run(arguments, Path(work))
        run.prepare()
        if arguments.merge:
            run.merge(arguments.merge)
        for name, questions in chosen.items():
            run.measure(name, questions)
            run.save()
    return run.show()


class Run:
    """One call of the benchmark: what it was asked for and what it found so far."""

    def __init__(self, arguments: argparse.Namespace, work: Path) -> None:
        self.arguments, self.work = arguments, work
        self.logs = arguments.logs or work
        self.logs.mkdir(parents=True, exist_ok=True)
        self.job = Job(
            size=arguments.size,
            family=arguments.family,
            text_tokens=arguments.text_tokens,
            step_questions=arguments.step_questions,
            our_batch=arguments.our_batch,
            their_batch=arguments.their_batch,
            warmup=arguments.warmup,
            steps=arguments.steps,
            overrides=tuple(arguments.set),
            unsloth_resize=arguments.unsloth_resize,
            work=str(work),
            models=str((arguments.models or work / "models").absolute()),
        )
        self.job.save(work / "job.json")
        started = datetime.now(timezone.utc).isoformat(timespec="seconds")
        self.deadline = time.monotonic() + arguments.budget
        self.facts: dict[str, Any] = {"started": started}
        self.source = hash_source(ROOT / "vizsage")
        self.measurements: list[Measurement] = []

    def prepare(self) -> None:
        """Make model and questions, in a separate process: this one must hold no memory of the GPU."""
        result = self.work / "prepared.json"
        what = ["--prepare", *(["--merge", str(self.arguments.merge.absolute())] if self.arguments.merge else [])]
        seconds, problem = self._start(what, self.arguments.questions, result, "prepare")
        if not result.exists():
            raise SystemExit(f"nothing is measured: {problem}")
        self.facts |= json.loads(result.read_text(encoding="utf-8"))
        _say(f"model and questions made in {seconds:.0f} s: {self.facts['model']}")

    def merge(self, path: Path) -> None:
        """Take over what an earlier run measured, this project's own figures only if its code is still the same."""
        self.measurements, left = take_over(path, self.source)
        if left:
            _say(f"{path}: {left} figures of this project are left out, measured with other code")

    def measure(self, name: str, questions: list[float]) -> None:
        """Measure one contender; a process that ended early is started again for the numbers of questions left."""
        left = list(questions)
        while left:
            if self.deadline < time.monotonic():
                self._cannot(name, left, {"not_run": NO_TIME})
                return
            result = self.work / f"{name}.json"
            result.unlink(missing_ok=True)
            seconds, problem = self._start(["--contender", name], left, result, name)
            found = json.loads(result.read_text(encoding="utf-8")) if result.exists() else {"measured": []}
            for row in found["measured"]:
                self._add({"contender": name, **row, "process_s": seconds})
                left.remove(row["questions"])
            not_run = found.get("not_run") or (problem if problem == NO_TIME else None)
            if not_run or not found["measured"]:
                self._cannot(name, left, {"not_run": not_run} if not_run else {"failed": problem})
                left = []
            _say(f"{name}: {seconds:.0f} s{f', {problem}' if problem else ''}")

    def save(self) -> None:
        """Write what is measured so far: a run that is interrupted keeps the contenders before."""
        if self.arguments.json:
            write_json(self.arguments.json, self.result())

    def result(self) -> dict[str, Any]:
        """The content of the JSON file."""
        rows = with_ratios(self.measurements)
        bars = find_bars(rows, size=self.job.size, family=self.job.family)
        return {
            "schema_version": 1,
            **self.facts,
            "model": Path(self.facts["model"]).name,  # without the folder, which depends on the machine
            "settings": self.job.settings,
            "measurements": rows,
            "bars": [vars(bar) for bar in bars],
            "notes": notes(rows, self.facts["row"]),
        }

    def show(self) -> int:
        """Print table, notes and bars; the exit code."""
        from rich.table import Table

        # A log file has no width, and a table with wrapped lines is hard to read.
        result, console = self.result(), Console(width=None if sys.stdout.isatty() else 150)
        machine, job = result["machine"], self.job
        title = (
            f"{job.family}, {job.size}; {machine['device']}, {machine['cores']} cores, torch {machine['torch']}; "
            f"{job.step_questions} questions per step, {result['row']['text_tokens']:.0f} text tokens per row"
        )
        console.print(make_table(result["measurements"], title))
        for note in result["notes"]:
            console.print(note, highlight=False, markup=False)
        if result["bars"]:
            table = Table("bar", "found", "wanted", "met")
            for bar in result["bars"]:
                met = {None: "", True: "yes", False: "NO"}[bar["met"]]
                table.add_row(bar["what"], bar["found"], bar["bar"], met)
            console.print(table)
        missed = any(bar["met"] is False for bar in result["bars"])
        return 1 if missed or any("failed" in row for row in result["measurements"]) else 0

    def _cannot(self, name: str, questions: list[float], state: dict[str, str]) -> None:
        """Note why there is no figure; one of an earlier run is kept, unless the contender was tried and failed."""
        there = {(row["contender"], row["questions"]) for row in self.measurements}
        for mean in questions:
            if "failed" in state or (name, mean) not in there:
                self._add({"contender": name, "questions": mean, **state})

    def _add(self, row: Measurement) -> None:
        key = (row["contender"], row["questions"])
        self.measurements = [old for old in self.measurements if (old["contender"], old["questions"]) != key]
        run = {"started": self.facts["started"], "source": self.source, "overrides": list(self.job.overrides)}
        run |= {"our_batch": self.job.our_batch, "warmup": self.job.warmup, "steps": self.job.steps}
        self.measurements.append({**row, "run": run})

    def _start(self, what: list[str], questions: list[float], result: Path, name: str) -> tuple[float, str]:
        """Run this script as a child; its seconds and, if it failed, its last line or why it was ended."""
        place = self.work / f"in-{name}"  # unsloth writes compiled code where it is started
        place.mkdir(exist_ok=True)
        command = [sys.executable, *CHILD, *what, "--job", str(self.work / "job.json")]
        command += ["--result", str(result), "--model", self.facts.get("model", "")]
        command += ["--questions", *(f"{q:g}" for q in questions)]
        log, start = self.logs / f"{name}.log", time.perf_counter()
        timeout = max(1.0, min(self.arguments.timeout, self.deadline - time.monotonic()))
        with log.open("ab") as file:
            child = subprocess.Popen(
                command, stdout=file, stderr=file, cwd=place, env=_environment(), start_new_session=True
            )
            try:
                code = child.wait(timeout=timeout)
                problem = "" if code == 0 else _last_line(log) or f"exit code {code}"
            except subprocess.TimeoutExpired:
                problem = NO_TIME if self.deadline <= time.monotonic() else f"not done after {timeout:.0f} s"
            finally:
                # Workers of a child that was killed would go on.
                if child.poll() is None:
                    os.killpg(child.pid, signal.SIGKILL)
                    child.wait()
        return time.perf_counter() - start, problem


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--size", choices=("real", "tiny"), default="tiny", help="sizes of model and images (default: tiny)")
    add("--family", choices=FAMILIES, default="mllama", help="architecture (default: mllama)")
    add("--questions", type=float, nargs="+", default=[4.8, 3.6, 1.0], metavar="Q", help="questions per image, mean")
    add("--only", nargs="+", metavar="NAME[@Q]", help=f"contenders, as names or patterns: {', '.join(CONTENDERS)}")
    add("--step-questions", type=int, default=24, metavar="N", help="questions of an optimizer step (default: 24)")
    add("--our-batch", type=int, metavar="N", help="batch_size of this project when it shares; default: real 24")
    add("--their-batch", type=int, default=8, metavar="N", help="batch size of all others (default: 8)")
    add("--text-tokens", type=int, default=112, metavar="N", help="text tokens of a row, mean (default: 112)")
    add("--warmup", type=int, default=4, metavar="N", help="steps before the clock (default: 4; unshared half, >= 2)")
    add("--steps", type=int, default=24, metavar="N", help="steps on the clock (default: 24; unshared a sixth, >= 2)")
    add("--set", nargs="+", default=[], metavar="key=value", help="settings of this project's runs")
    add("--unsloth-resize", choices=("max", "min"), default="max", help="max: images keep their size (default)")
    add(
        "--models", type=Path, metavar="DIR", help="where models are kept for later runs; 16 to 22 GB each at real size"
    )
    add("--json", type=Path, metavar="FILE", help="write the measurements there, again after each contender")
    add(
        "--merge",
        type=Path,
        metavar="FILE",
        help="add its figures of what is not measured now; ours of the same code",
    )
    add("--logs", type=Path, metavar="DIR", help="keep what the processes write")
    add("--timeout", type=float, default=600, metavar="S", help="seconds for one contender (default: 600)")
    add("--budget", type=float, default=float("inf"), metavar="S", help="seconds for all; what is left is not run then")
    add("--prepare", action="store_true", help=argparse.SUPPRESS)
    for name in ("--contender", "--model"):
        add(name, help=argparse.SUPPRESS)
    for name in ("--job", "--result"):
        add(name, type=Path, help=argparse.SUPPRESS)
    return parser


def _chosen(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Names of the contenders, in their order, each with its numbers of questions per image."""
    chosen: dict[str, set[float]] = {}
    for pattern in arguments.only or ["*"]:
        glob, _, mean = pattern.partition("@")
        names = fnmatch.filter(CONTENDERS, glob)
        if not names:
            parser.error(f"--only {pattern}: no such contender; known: {', '.join(CONTENDERS)}")
        if mean and mean not in [f"{q:g}" for q in arguments.questions]:
            parser.error(f"--only {pattern}: {mean} is not among --questions")
        for name in names:
            chosen.setdefault(name, set()).update([float(mean)] if mean else arguments.questions)
    return {name: [q for q in arguments.questions if q in chosen[name]] for name in CONTENDERS if name in chosen}


def _child(arguments: argparse.Namespace) -> int:
    from benchmarks.throughput import child

    job = Job.load(arguments.job)
    if arguments.prepare:
        child.prepare(job, arguments.questions, arguments.result, arguments.merge)
    else:
        child.measure(arguments.contender, job, Path(arguments.model), arguments.questions, arguments.result)
    return 0


def _environment() -> dict[str, str]:
    """Nothing from the network, this source tree first."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {
        "PYTHONPATH": path,
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "WANDB_MODE": "disabled",
        "OMP_WAIT_POLICY": "PASSIVE",  # threads that spin while they wait slow down those that have work
    }


def _last_line(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line.strip()[:300] for line in reversed(lines) if line.strip()), "")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
