"""One, two and three processes give the same files; they stop and fail together, and any number goes on."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from vizsage.config import Config, config_to_yaml
from vizsage.demo.drawn_data import write_demo
from vizsage.lock import only_one

VOLATILE = ("throughput", "finished", "processes")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    write_demo(folder)
    return folder


@pytest.fixture
def config(data: Path, tmp_path: Path) -> Config:
    return Config(
        model_name="vizsage-tiny", device="cpu", load_in_4bit=False, use_bf16=False, dataset="Demo", base_path=data,
        eval_batch_size=8, max_new_tokens=8, output_dir=tmp_path / "out",
    )  # fmt: skip


def start(config: Config, path: Path, processes: int, *more: str) -> list[subprocess.Popen[str]]:
    """`vizsage eval --base` in some processes that talk through a store of the first one."""
    path.write_text(config_to_yaml(config))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "vizsage", "eval", str(path), "--base", *more]
    common = {**os.environ, "WORLD_SIZE": str(processes), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    common["VIZSAGE_SECRET"] = "known to these processes"
    return [
        subprocess.Popen(
            command,
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]


def end(processes: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and output of each."""
    return [(process.returncode, text) for process in processes for text, _ in [process.communicate(timeout=300)]]


def results(config: Config, folder: str = "test-base") -> tuple[bytes, dict[str, Any]]:
    folder_ = config.output_dir / "evaluation_results" / folder
    found = json.loads((folder_ / "results.json").read_text())
    del found["settings"]["output_dir"]
    return (folder_ / "predictions.jsonl").read_bytes(), {k: v for k, v in found.items() if k not in VOLATILE}


@pytest.mark.slow
def test_one_two_and_three_processes_give_the_same_files(config: Config, tmp_path: Path) -> None:
    found = []
    for count in (1, 2, 3):
        run = config.model_copy(update={"output_dir": tmp_path / str(count)})
        ended = end(start(run, tmp_path / f"{count}.yaml", count, "--limit", "60"))
        assert [code for code, _ in ended] == [0] * count, ended
        assert ["Exact match" in text for _, text in ended] == [True] + [False] * (count - 1)  # one of them reports
        answers = list((run.output_dir / "evaluation_results/test-base/answers").iterdir())
        assert len(answers) == count
        assert all(path.stat().st_size for path in answers)
        found.append(results(run))
    assert found[0] == found[1] == found[2]


@pytest.mark.slow
def test_a_signal_to_one_of_two_stops_both_and_three_go_on(config: Config, tmp_path: Path) -> None:
    processes = start(config, tmp_path / "run.yaml", 2)
    answers = config.output_dir / "evaluation_results/test-base/answers"
    while len(list(answers.glob("*.jsonl"))) < 2 and all(process.poll() is None for process in processes):
        time.sleep(0.02)
    os.kill(processes[1].pid, signal.SIGTERM)  # the other one learns of it
    ended = end(processes)
    assert [code for code, _ in ended] == [75, 75], ended
    assert all("SIGTERM: stopped" in text for _, text in ended)
    kept = sum(path.read_bytes().count(b"\n") for path in answers.iterdir())
    assert kept
    assert not (answers.parent / "results.json").exists()
    ended = end(start(config, tmp_path / "run.yaml", 3))
    assert [code for code, _ in ended] == [0] * 3, ended
    total = sum(path.read_bytes().count(b"\n") for path in answers.iterdir())
    whole = config.model_copy(update={"output_dir": tmp_path / "whole"})
    assert [code for code, _ in end(start(whole, tmp_path / "whole.yaml", 1))] == [0]
    assert results(config) == results(whole)
    assert total == results(whole)[1]["total_samples"]  # no sample was answered again


@pytest.mark.slow
def test_a_folder_that_is_in_use_ends_all_with_exit_code_2(config: Config, tmp_path: Path) -> None:
    """One process takes the lock, and all learn that it could not be had."""
    with only_one(config.output_dir / "evaluation_results/test-base", "evaluating"):
        ended = end(start(config, tmp_path / "run.yaml", 2))
    assert [code for code, _ in ended] == [2, 2], ended
    assert all(f"process {os.getpid()} on host {socket.gethostname()} has been evaluating" in text for _, text in ended)


@pytest.mark.slow
def test_a_failure_in_one_process_ends_all_with_its_exit_code(config: Config, data: Path, tmp_path: Path) -> None:
    broken = tmp_path / "data"
    broken.symlink_to(data)
    records = json.loads((data / "Demo" / "test.json").read_text())[:24]
    records[-1] = {**records[-1], "image": "broken.png"}
    (data / "Images" / "broken.png").write_bytes(b"no image")
    (data / "Demo" / "broken.json").write_text(json.dumps(records))
    ended = end(start(config, tmp_path / "run.yaml", 2, "--split", "broken"))
    assert [code for code, _ in ended] == [3, 3], ended
    assert any("broken.png" in text and "process" not in text for _, text in ended)
    assert sum("failed: " in text for _, text in ended) == 1
