"""The demo in the image, as a user without a name, with a read-only root and without network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.image.container import Container, stop, wait_for

CONFIG = "config/demo_config.yaml"
# 24 steps, of which the first is in metrics.jsonl long before the last; no validation is there before it.
SHORT = (
    "max_steps=24 batch_size=8 warmup_steps=2 logging_steps=1 eval_steps=12 save_steps=12 val_samples=12"
    " val_at_start=false eval_batch_size=12 output_dir=outputs/demo"
).split()
PYTHON = ["python", "-c"]


@pytest.fixture(scope="module")
def data(container: Container, place: Path) -> Path:
    """The demo data set, drawn in the container, with 12 questions to validate and to test."""
    mounts = {**container.mounts, "/workspace/data": (place / "data", "rw")}
    done = replace(container, mounts=mounts).run("demo", "data", entrypoint=["vizsage"])
    assert done.returncode == 0, done.stderr
    for split in ("val", "test"):
        path = place / "data" / "Demo" / f"{split}.json"
        path.write_text(json.dumps(json.loads(path.read_text())[:12]))
    return place / "data"


def test_without_arguments_it_prints_help(image: Container) -> None:
    done = image.run()
    assert done.returncode == 0, done.stderr
    assert "usage: python -m jobs.run" in done.stdout
    assert done.stderr == ""


def test_runs_as_its_own_user(image: Container) -> None:
    code = (
        "import getpass, os; print(os.getuid(), os.getgid(), getpass.getuser(), os.access(os.environ['HOME'], os.W_OK))"
    )
    assert image.run(code, entrypoint=PYTHON).stdout == "10001 0 vizsage False\n"  # False: nothing is mounted there
    for folder in ("home/vizsage", "workspace/data", "workspace/outputs"):
        state = (image.root / folder).stat()
        assert (state.st_uid, state.st_gid, state.st_mode & 0o770) == (10001, 0, 0o770), folder


def test_its_root_is_read_only_in_these_tests(container: Container) -> None:
    for folder in ("/workspace", "/workspace/data", "/opt/vizsage", "/etc"):
        done = replace(container, user="0:0").run(f"{folder}/x", entrypoint=["touch"])
        assert "Read-only file system" in done.stderr
    code = "import os; print(os.getuid(), os.getgid(), *(os.access(d, os.W_OK) for d in ('/tmp', os.environ['HOME'])))"
    assert container.run(code, entrypoint=PYTHON).stdout == "12345 0 True True\n"


@pytest.mark.usefixtures("data")
def test_a_stopped_training_continues_and_is_evaluated(container: Container, place: Path) -> None:
    run = place / "outputs" / "demo"
    process = container.start("train", CONFIG, *SHORT)
    wait_for(run / "metrics.jsonl", process)
    stop(process)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75, errors
    outcome = json.loads((run / "outcome.json").read_text())
    assert 0 < outcome["step"] < 24

    done = container.run("train", CONFIG, *SHORT)
    assert done.returncode == 0, done.stderr
    attempts = json.loads((run / "run.json").read_text())["attempts"]
    assert [attempt["resumed_from_step"] for attempt in attempts] == [0, outcome["step"]]
    assert json.loads((run / "outcome.json").read_text())["step"] == 24
    assert (run / "run.json").stat().st_uid == 12345

    done = container.run("eval", CONFIG, *SHORT)
    assert done.returncode == 0, done.stderr
    results = json.loads((run / "evaluation_results" / "test" / "results.json").read_text())
    assert results["total_samples"] == 12


def test_a_broken_configuration_is_exit_code_2(container: Container) -> None:
    done = container.run("train", CONFIG, "lr=fast")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "lr" in done.stderr


@pytest.mark.usefixtures("data")
def test_offline_a_model_of_the_hub_is_one_line_and_no_attempt(container: Container, place: Path) -> None:
    noted = place / "outputs" / "connections"
    noted.unlink(missing_ok=True)
    offline = replace(container, environment={**container.environment, "HF_HUB_OFFLINE": "1"})
    done = offline.run("train", CONFIG, "model_name=example/model", "output_dir=outputs/offline")
    assert done.returncode in (2, 3), done.stderr
    assert [line for line in done.stderr.splitlines() if "example/model" in line] == done.stderr.splitlines()[-1:]
    assert "Traceback" not in done.stderr
    assert not noted.exists(), noted.read_text()
    # An empty record proves something only if an attempt would be recorded.
    offline.run("import socket; socket.create_connection(('localhost', 9))", entrypoint=PYTHON)
    assert "getaddrinfo" in noted.read_text()


def test_process_1_passes_signals_on(container: Container) -> None:
    code = (
        "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(7)); "
        "open('outputs/ready', 'w').write('x'); time.sleep(60)"
    )
    tini = container.image["Entrypoint"][:2]
    ready = container.mounts["/workspace/outputs"][0] / "ready"
    process = container.start("python", "-c", code, entrypoint=tini)
    wait_for(ready, process)
    stop(process)
    process.communicate(timeout=30)
    assert process.returncode == 7
