"""What ends the wait for data that does not come: workers that cannot hand it over or were killed, and signals."""

from __future__ import annotations

import faulthandler
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.training.test_train import adapter_bytes, outcome
from vizsage import interruption
from vizsage.config import Config, config_to_yaml
from vizsage.data import prompts
from vizsage.errors import CheckpointError, Interrupted, RepeatingError, VizSageError
from vizsage.json_lines import read_jsonl
from vizsage.training import prefetch
from vizsage.training.loader import TrainLoader
from vizsage.training.plan import make_plan
from vizsage.training.train import train
from vizsage.training.trainer import VisionTrainer

MakeConfig = Callable[..., Config]
PRIVATE = ["unshare", "--mount", *(["--map-root-user"] if os.geteuid() else []), "sh", "-c"]


@pytest.fixture
def in_shared_memory_of(tmp_path: Path) -> Callable[[str, Config], subprocess.CompletedProcess[str]]:
    """Train with a /dev/shm of this size, which no other process sees."""
    try:
        tried = subprocess.run([*PRIVATE, "mount -t tmpfs tmpfs /dev/shm"], capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        pytest.skip(f"needs a mount namespace: {error}")
    if tried.returncode:
        pytest.skip(f"needs a mount namespace: {tried.stderr.strip()}")

    def run(size: str, config: Config) -> subprocess.CompletedProcess[str]:
        path = tmp_path / "run.yaml"
        path.write_text(config_to_yaml(config))
        script = f'mount -t tmpfs -o size={size} tmpfs /dev/shm && exec "$@"'
        command = [*PRIVATE, script, "sh", sys.executable, "-m", "vizsage", "train", str(path)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    return run


@pytest.mark.parametrize(("size", "what"), [("4k", "locks of the workers' queues"), ("120k", "the first step")])
def test_full_shared_memory_is_one_line(
    make_config: MakeConfig,
    in_shared_memory_of: Callable[[str, Config], subprocess.CompletedProcess[str]],
    size: str,
    what: str,
) -> None:
    config = make_config(num_proc=2)
    done = in_shared_memory_of(size, config)
    assert done.returncode == 4, what
    assert done.stderr.splitlines()[-1].startswith("vizsage: error: /dev/shm: the shared memory through which worker")
    assert all(word in done.stderr for word in ("No space left on device", "num_proc", "--shm-size", "emptyDir"))
    assert "Traceback" not in done.stderr
    assert outcome(config)["exit_code"] == 4


class Killed:
    """Its worker is sent the signal before the second item."""

    def __init__(self, number: int) -> None:
        self.number = number

    def of_worker(self, worker: int, workers: int) -> Iterator[int]:
        yield 1
        faulthandler.disable()  # pytest's would print where the worker was
        os.kill(os.getpid(), self.number)
        time.sleep(3600)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGBUS, RepeatingError), (signal.SIGKILL, VizSageError)])
def test_a_killed_worker_is_an_error(number: int, kind: type[VizSageError]) -> None:
    """Bus error: a page of shared memory that is not available, because it was not reserved."""
    loader = TrainLoader(Killed(number), 1, False)
    with pytest.raises(VizSageError, match=f"killed by {signal.Signals(number).name}.*num_proc") as met:
        list(loader)
    loader.end()
    assert type(met.value) is kind


class KilledAfterwards(Killed):
    """Its worker is sent the signal when it has prepared an item whose large tensor is still to be fetched from it."""

    def of_worker(self, worker: int, workers: int) -> Iterator[torch.Tensor]:
        yield torch.zeros(100_000)
        faulthandler.disable()
        os.kill(os.getpid(), self.number)


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGBUS, RepeatingError), (signal.SIGKILL, VizSageError)])
def test_what_a_killed_worker_had_prepared_is_lost(
    number: int, kind: type[VizSageError], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error says what happened to the worker, and not that a connection to it was reset."""
    receive = prefetch._receive

    def late(prepared: Future[bytes | None], pin_memory: bool) -> Any:
        prepared.result()
        time.sleep(1)
        return receive(prepared, pin_memory)

    monkeypatch.setattr(prefetch, "_receive", late)
    loader = TrainLoader(KilledAfterwards(number), 1, False)
    with pytest.raises(VizSageError, match=f"killed by {signal.Signals(number).name}.*num_proc") as met:
        list(loader)
    loader.end()
    assert type(met.value) is kind


class Odd(Exception):
    """Cannot be unpickled: its message is not what it is made of."""

    def __init__(self, what: str, where: str) -> None:
        super().__init__(f"{what} at {where}")


class RaisesOdd:
    """Its first item cannot be prepared."""

    def of_worker(self, worker: int, workers: int) -> Iterator[int]:
        raise Odd("lightning", "sea")
        yield 1


def test_an_error_that_cannot_be_handed_over_is_told() -> None:
    loader = TrainLoader(RaisesOdd(), 1, False)
    with pytest.raises(VizSageError, match=r"failed \(Odd: lightning at sea\); set num_proc"):
        list(loader)
    loader.end()


class Unsendable:
    """Its last item cannot be pickled."""

    def of_worker(self, worker: int, workers: int) -> Iterator[object]:
        yield lambda: None


def test_what_cannot_be_handed_over_is_an_error() -> None:
    loader = TrainLoader(Unsendable(), 1, False)
    with pytest.raises(VizSageError, match=r"failed \(.*pickle.*\); set num_proc"):
        list(loader)
    loader.end()


class Stuck:
    """Reads its second item for ever."""

    def of_worker(self, worker: int, workers: int) -> Iterator[int]:
        yield 1
        time.sleep(3600)


@pytest.mark.timeout(60)
def test_workers_that_are_stuck_are_ended_together() -> None:
    loader = TrainLoader(Stuck(), 2, False)
    next(iter(loader))
    assert len(multiprocessing.active_children()) == 2
    loader.end()
    assert not multiprocessing.active_children()


ORPHANS = """
import multiprocessing, time
from vizsage.training.loader import TrainLoader
class Stuck:
    def of_worker(self, worker, workers):
        yield 1
        time.sleep(3600)
loader = TrainLoader(Stuck(), 2, False)
next(iter(loader))
print(*(worker.pid for worker in multiprocessing.active_children()), flush=True)
time.sleep(3600)
"""


def test_no_worker_outlives_a_process_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", ORPHANS], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        workers = [Path("/proc", pid, "cmdline") for pid in run.stdout.readline().split()]
        assert len(workers) == 2
        run.kill()
        give_up_s = time.monotonic() + 60
        while any(_alive(worker) for worker in workers):
            assert time.monotonic() < give_up_s
            time.sleep(0.05)


def _alive(command_line: Path) -> bool:
    """Whether the process is there; that of one that ended and was not waited for is empty."""
    try:
        return bool(command_line.read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        return False


STUCK = """
import sys, time
from vizsage.cli import main
from vizsage.training import loader
cut_step, seen = loader.cut_step, []
def stuck(*arguments):
    seen.append(1)
    if len(seen) == 6:
        time.sleep(3600)
    return cut_step(*arguments)
loader.cut_step = stuck
sys.exit(main(["train", sys.argv[1]]))
"""


def test_a_signal_while_data_is_waited_for(make_config: MakeConfig, tmp_path: Path) -> None:
    """The steps that were done are saved, the worker that reads for ever is ended, and the run can go on."""
    whole = make_config(output_dir=str(tmp_path / "whole"), logging_steps=1)
    train(whole)
    config = make_config(num_proc=1, logging_steps=1, save_steps=100)
    path = tmp_path / "run.yaml"
    path.write_text(config_to_yaml(config))
    command = [sys.executable, "-c", STUCK, str(path)]
    run = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        give_up_s = time.monotonic() + 120
        metrics = config.output_dir / "metrics.jsonl"
        while not metrics.exists() or all(line["step"] != 5 for line in read_jsonl(metrics)):
            assert run.poll() is None
            assert time.monotonic() < give_up_s
            time.sleep(0.1)
        time.sleep(1)
        run.send_signal(signal.SIGTERM)
        _, errors = run.communicate(timeout=60)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    assert run.returncode == 75, errors
    assert errors.splitlines()[-1].startswith("vizsage: interrupted:")
    assert outcome(config)["step"] == 5
    train(config)
    assert (config.output_dir / "checkpoint-5").is_dir()
    assert adapter_bytes(config) == adapter_bytes(whole)


@pytest.mark.parametrize("num_proc", [0, 1])
@pytest.mark.parametrize("signalled", [False, True])
def test_a_template_that_loops_ends_the_run(
    make_config: MakeConfig,
    tiny_mllama: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_proc: int,
    signalled: bool,
) -> None:
    """On a question of training: by its time limit, in a worker as in the main process, or by a signal."""
    monkeypatch.setattr(interruption, "_TICK_S", 0.1)
    monkeypatch.setattr(prompts, "_RENDER_S", 1000 if signalled else 0.2)
    (make_config().split_dir / "val.json").unlink()
    first = next(make_plan(make_config()).order.from_position(0)).question
    word = next(word for word in ("shape", "dark") if word not in first)
    base = tmp_path / "base"
    shutil.copytree(tiny_mllama, base)
    template = base / "chat_template.jinja"
    loop = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    looping = f"{{% if '{word}' in messages[0].content | string %}}{loop}{{% endif %}}"
    template.write_text(looping + template.read_text())
    config = make_config(model_name=str(base), num_proc=num_proc, save_steps=100)
    original = VisionTrainer.get_train_dataloader

    def about_to_read(self: VisionTrainer) -> Any:
        threading.Timer(0.5, os.kill, [os.getpid(), signal.SIGTERM]).start()
        return original(self)

    if signalled:
        monkeypatch.setattr(VisionTrainer, "get_train_dataloader", about_to_read)
    with pytest.raises(Interrupted if signalled else CheckpointError) as caught:
        train(config)
    assert ("its chat template made no prompt in" in str(caught.value)) != signalled
    assert outcome(config)["exit_code"] == (75 if signalled else 3)
