"""`python -m jobs.run`: exit codes unchanged, signals passed on, and what counts as a step forward."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from jobs import workers
from vizsage.config import build_config
from vizsage.contract.run_files import Outcome
from vizsage.errors import ConfigError
from vizsage.files import write_json
from vizsage.lock import only_one
from vizsage.record import write_outcome

ROOT = Path(__file__).parents[2]
MISHAPS = ROOT / "tests" / "integration" / "mishaps"

# `vizsage` as the launcher sees it: another program instead, which runs WORKER.
WORKER = """
import json, os, pathlib, signal, sys, time
rank, folder = int(os.environ.get("RANK", "0")), pathlib.Path(os.environ["FOLDER"])
def attempt(before, after, code):
    (folder / "run.json").write_text(json.dumps({"attempts": [{"resumed_from_step": before, "step": after}]}))
    outcome = {"exit_code": code, "reason": "", "step": after, "attempt": time.time_ns()}
    (folder / "outcome.json").write_text(json.dumps(outcome))
def wait_for_signal(seconds):
    got = []
    for number in (signal.SIGTERM, signal.SIGUSR2):
        signal.signal(number, lambda n, frame: got.append(signal.Signals(n).name))
    (folder / f"ready-{rank}").touch()
    while not got:
        time.sleep(0.05)
    time.sleep(seconds)
    (folder / f"got-{rank}").write_text(got[0])
"""


class Launch:
    """jobs.run in a folder, with a stand-in `vizsage` package before the real one."""

    def __init__(
        self,
        folder: Path,
        body: str,
        *,
        command: str = "train",
        more: tuple[str, ...] = (),
        processes: int = 1,
        variables: dict[str, str] | None = None,
    ) -> None:
        self.folder = folder
        (folder / "worker").mkdir(exist_ok=True)
        (folder / "worker" / "sitecustomize.py").write_text(
            f"import sys\nif '-m' in sys.orig_argv and 'vizsage' in sys.orig_argv:\n"
            f"    exec(compile({(WORKER + body)!r}, 'worker', 'exec'))\n    sys.exit(0)\n"
        )
        (folder / "settings.yaml").write_text(f"output_dir: {folder}\n")
        environment = os.environ | {
            "PYTHONPATH": str(folder / "worker"),
            "FOLDER": str(folder),
            "PROCESSES_PER_NODE": str(processes),
            **(variables or {}),
        }
        self.process = subprocess.Popen(
            [sys.executable, "-m", "jobs.run", command, str(folder / "settings.yaml"), *more],
            env=environment,
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )

    def signal_when_ready(self, number: signal.Signals, processes: int = 1) -> None:
        end = time.monotonic() + 60
        while not all((self.folder / f"ready-{i}").exists() for i in range(processes)):
            assert time.monotonic() < end, self.process.poll()
            time.sleep(0.05)
        self.process.send_signal(number)

    def end(self) -> tuple[int, str]:
        _, printed = self.process.communicate(timeout=120)
        return self.process.returncode, printed


@pytest.mark.parametrize("code", [0, 1, 2, 3, 4, 42])
def test_an_exit_code_comes_back_unchanged(tmp_path: Path, code: int) -> None:
    assert Launch(tmp_path, f"os._exit({code})").end()[0] == code


def test_a_killed_process_is_128_and_its_signal(tmp_path: Path) -> None:
    assert Launch(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)").end()[0] == 137


def test_a_process_killed_before_its_attempt_had_ended_is_not_taken_for_an_earlier_one(tmp_path: Path) -> None:
    write_outcome(tmp_path, Outcome(exit_code=0, reason="done", step=9, attempt=1))
    assert Launch(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)").end()[0] == 137


def test_a_process_killed_after_its_attempt_had_ended_counts_as_it_ended(tmp_path: Path) -> None:
    assert Launch(tmp_path, "attempt(0, 9, 0); os.kill(os.getpid(), signal.SIGUSR2)").end()[0] == 0


def test_the_first_failing_process_decides(tmp_path: Path) -> None:
    """Rank 1 ends with 3; rank 0 is then stopped, and ends with 75."""
    body = "os._exit(3) if rank else (wait_for_signal(1.5), os._exit(75))"
    assert Launch(tmp_path, body, processes=2).end()[0] == 3


def test_of_failures_at_the_same_time_the_one_that_names_a_cause_decides(tmp_path: Path) -> None:
    body = """
if rank:
    (folder / "ready").touch()
    os._exit(3)
while not (folder / "ready").exists():
    pass
os._exit(1)
"""
    assert Launch(tmp_path, body, processes=2).end()[0] == 3


def test_the_exit_code_is_left_for_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """srun returns the highest code of all nodes, which need not be the one that names a cause."""
    monkeypatch.setenv("EXIT_CODES_DIR", str(tmp_path / "jobs" / "7.codes"))
    assert Launch(tmp_path, "os._exit(3)").end()[0] == 3
    assert (tmp_path / "jobs" / "7.codes" / "0").read_text() == "3\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR2])
def test_signals_reach_every_process_and_they_get_time(tmp_path: Path, number: signal.Signals) -> None:
    body = "wait_for_signal(2); attempt(0, 5, 75) if rank == 0 else None; os._exit(75)"
    launch = Launch(tmp_path, body, processes=2)
    launch.signal_when_ready(number, processes=2)
    assert launch.end()[0] == 75
    assert [(tmp_path / f"got-{i}").read_text() for i in range(2)] == [number.name, number.name]


def test_a_second_signal_is_passed_on_as_well(tmp_path: Path) -> None:
    """The scheduler warns with one before its limit, and ends with another."""
    # The second wait leaves files of another name, so that nothing of the first is taken for it.
    launch = Launch(tmp_path, "wait_for_signal(0); rank = 1; wait_for_signal(0); attempt(0, 5, 75); os._exit(75)")
    launch.signal_when_ready(signal.SIGUSR2)
    launch.signal_when_ready(signal.SIGTERM, processes=2)
    assert launch.end()[0] == 75
    assert [(tmp_path / f"got-{i}").read_text() for i in range(2)] == ["SIGUSR2", "SIGTERM"]


@pytest.mark.parametrize("damage", ["{", "{}", '{"attempts": []}', None])
def test_without_a_record_of_the_steps_an_interruption_is_a_failure(tmp_path: Path, damage: str | None) -> None:
    damaging = f"(folder / 'run.json').write_text({damage!r})" if damage else "(folder / 'run.json').unlink()"
    found, printed = Launch(tmp_path, f"attempt(0, 5, 75); {damaging}; os._exit(75)").end()
    assert found == 1
    assert "run.json" in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_a_process_that_still_writes_is_not_killed_because_another_has_ended(tmp_path: Path) -> None:
    """torch's launcher gives the others 30 seconds after the first has ended; a checkpoint may take longer."""
    body = "wait_for_signal(0 if rank else 35); rank or attempt(0, 5, 75); os._exit(75)"
    launch = Launch(tmp_path, body, processes=2)
    launch.signal_when_ready(signal.SIGUSR2, processes=2)
    assert launch.end()[0] == 75


@pytest.mark.parametrize(("before", "after", "code"), [(4, 5, 75), (5, 5, 1)])
def test_an_interruption_without_a_step_forward_is_a_failure(
    tmp_path: Path, before: int, after: int, code: int
) -> None:
    write_outcome(tmp_path, Outcome(exit_code=75, reason="signal", step=5, attempt=1))  # of the attempt before
    found, printed = Launch(tmp_path, f"attempt({before}, {after}, 75); os._exit(75)").end()
    assert found == code
    assert ("before the first step" in printed) == (code == 1)


@pytest.mark.parametrize(("appends", "code"), [(True, 75), (False, 1)])
def test_an_evaluation_goes_forward_when_it_has_answered(tmp_path: Path, appends: bool, code: int) -> None:
    answers = tmp_path / "evaluation_results" / "test-blind" / "answers"
    answers.mkdir(parents=True)
    (answers / "earlier-0.jsonl").write_text("{}\n")
    own = f"open({str(answers)!r} + f'/now-{{rank}}.jsonl', 'a').write('{{}}\\n')" if appends else "pass"
    body = f"open({str(answers.parent)!r} + '/predictions.jsonl', 'a').write('{{}}\\n')\nif rank: {own}\nos._exit(75)"
    found, printed = Launch(tmp_path, body, command="eval", processes=2).end()
    assert (found, "before the first step" in printed) == (code, code == 1)


def test_an_evaluation_has_a_process_for_each_gpu_and_its_options(tmp_path: Path) -> None:
    shown = "{os.environ['WORLD_SIZE']} {sys.orig_argv[-2:]} {os.environ['VIZSAGE_CALLED_AS']}"
    body = f"(folder / f'ran-{{rank}}').write_text(f\"{shown}\"); os._exit(0)"
    more = ("use_wandb=false", "--blind", "--adapter", "sweep/lr=1e-4,seed=7/adapter")
    assert Launch(tmp_path, body, command="eval", more=more, processes=3).end() == (0, "")
    assert {path.read_text() for path in tmp_path.glob("ran-*")} == {f"3 {['--adapter', more[-1]]} python -m jobs.run"}
    assert len(list(tmp_path.glob("ran-*"))) == 3


# A training that leaves its files, and an evaluation that records that it ran, with which variables.
TRAIN_THEN_EVAL = """
command = sys.orig_argv[sys.orig_argv.index("vizsage") + 1]
(folder / f"ran-{command}-{os.environ.get('GROUP_RANK', '0')}").write_text(os.environ.get("WORLD_SIZE", ""))
if command == "train":
    attempt(0, 5, 0)
    os._exit(0)
os._exit(3)
"""


def test_an_evaluation_follows_the_training_and_its_exit_code_counts(tmp_path: Path) -> None:
    launch = Launch(tmp_path, TRAIN_THEN_EVAL, more=("lr=1e-3", "--then-eval"), processes=2)
    assert launch.end()[0] == 3
    assert (tmp_path / "ran-train-0").read_text() == "2"
    assert (tmp_path / "ran-eval-0").read_text() == "2"


def test_no_evaluation_follows_without_being_asked_for(tmp_path: Path) -> None:
    assert Launch(tmp_path, TRAIN_THEN_EVAL).end()[0] == 0
    assert not list(tmp_path.glob("ran-eval-*"))


def test_a_failed_training_is_not_evaluated(tmp_path: Path) -> None:
    body = TRAIN_THEN_EVAL.replace("attempt(0, 5, 0)", "os._exit(4)")
    assert Launch(tmp_path, body, more=("--then-eval",)).end()[0] == 4
    assert not list(tmp_path.glob("ran-eval-*"))


def nodes(**more: str) -> list[dict[str, str]]:
    """The variables of two nodes on this host."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    common = {"NNODES": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": port, **more}
    return [common | {"NODE_RANK": "0"}, common | {"NODE_RANK": "1"}]


def test_only_the_first_node_evaluates_and_an_index_is_a_node_s_rank(tmp_path: Path) -> None:
    first, second = nodes()
    second["JOB_COMPLETION_INDEX"] = second.pop("NODE_RANK")
    first["JOB_COMPLETION_INDEX"] = "7"  # a rank that is set outweighs it
    launches = [
        Launch(tmp_path, TRAIN_THEN_EVAL, more=("--then-eval",), variables=variables) for variables in (second, first)
    ]
    assert [launch.end()[0] for launch in launches] == [0, 3]
    assert sorted(path.name for path in tmp_path.glob("ran-*")) == ["ran-eval-0", "ran-train-0", "ran-train-1"]


def test_after_a_training_the_first_node_s_processes_meet_on_it_alone(tmp_path: Path) -> None:
    first, second = nodes()
    body = TRAIN_THEN_EVAL.replace(
        "os._exit(3)",
        "names = ('WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'GROUP_RANK', 'LOCAL_RANK', 'MASTER_ADDR', 'MASTER_PORT')\n"
        "(folder / f'eval-{rank}').write_text(json.dumps([os.environ[name] for name in names]))\n"
        "os._exit(0)",
    )
    launches = [
        Launch(tmp_path, body, more=("--then-eval",), variables=variables, processes=2) for variables in (second, first)
    ]
    assert [launch.end()[0] for launch in launches] == [0, 0]
    assert sorted(path.name for path in tmp_path.glob("eval-*")) == ["eval-0", "eval-1"]
    found = [json.loads((tmp_path / f"eval-{i}").read_text()) for i in range(2)]
    assert [one[:-1] for one in found] == [["2", "2", "0", str(i), "127.0.0.1"] for i in range(2)]
    assert found[0][-1] == found[1][-1] != first["MASTER_PORT"]


EVALUATE = """
(folder / f"ran-{rank}").write_text(os.environ["WORLD_SIZE"])
os._exit(0)
"""


def test_nodes_evaluate_together_and_end_without_a_word_of_a_training(tmp_path: Path) -> None:
    launches = [Launch(tmp_path, EVALUATE, command="eval", variables=variables) for variables in nodes()]
    assert [launch.end() for launch in launches] == [(0, ""), (0, "")]
    assert {path.name: path.read_text() for path in tmp_path.glob("ran-*")} == {"ran-0": "2", "ran-1": "2"}


@pytest.mark.parametrize("rank", [0, 1])
def test_nodes_of_an_evaluation_wait_for_each_other_although_the_run_is_done(tmp_path: Path, rank: int) -> None:
    finish(tmp_path)
    launch = Launch(tmp_path, EVALUATE, command="eval", variables=nodes()[rank])
    time.sleep(8)
    launch.process.send_signal(signal.SIGTERM)
    code, printed = launch.end()
    assert (code, "before all nodes had started" in printed) == (1, True)
    assert not list(tmp_path.glob("ran-*"))


def test_a_node_sees_the_answers_of_another_when_the_storage_shows_them(tmp_path: Path) -> None:
    """An interrupted evaluation of two nodes: this one's process had answered nothing yet."""
    first, second = nodes()
    answers = tmp_path / "evaluation_results" / "test" / "answers"
    late = f"(sleep 4; mkdir -p {answers}; echo > {answers}/0.jsonl)"
    body = f"rank or os.system({late + ' &'!r})\nos._exit(75)"
    launches = [Launch(tmp_path, body, command="eval", variables=variables) for variables in (first, second)]
    assert [launch.end()[0] for launch in launches] == [75, 75]


def test_nodes_wait_for_each_other_and_start_together(tmp_path: Path) -> None:
    first, second = nodes()
    early = Launch(tmp_path, TRAIN_THEN_EVAL, variables=second)
    time.sleep(4)
    assert early.process.poll() is None
    assert not list(tmp_path.glob("ran-*"))
    with contextlib.suppress(OSError):  # another program that connects is not taken for a node
        socket.create_connection(("localhost", int(first["MASTER_PORT"])), timeout=1).close()
    late = Launch(tmp_path, TRAIN_THEN_EVAL, variables=first)
    assert (late.end()[0], early.end()[0]) == (0, 0)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_signal_ends_the_waiting_for_other_nodes(tmp_path: Path, rank: int) -> None:
    launch = Launch(tmp_path, TRAIN_THEN_EVAL, variables=nodes()[rank])
    time.sleep(8)  # its start: no file shows that it waits
    launch.process.send_signal(signal.SIGTERM)
    code, printed = launch.end()
    assert (code, "before all nodes had started" in printed) == (1, True)
    assert not list(tmp_path.glob("ran-*"))


def finish(run_dir: Path) -> None:
    """The files by which a training is recognised as done."""
    write_outcome(run_dir, Outcome(exit_code=0, reason="done", step=9, attempt=1))
    write_json(run_dir / "run.json", {"settings": build_config({"max_steps": 9}).model_dump(mode="json")})
    (run_dir / "vizsage-adapter").mkdir()
    (run_dir / "vizsage-adapter" / "adapter_model.safetensors").write_text("")


def test_a_run_that_is_done_waits_for_nobody(tmp_path: Path) -> None:
    finish(tmp_path)
    body = TRAIN_THEN_EVAL.replace("attempt(0, 5, 0)", "pass")
    more = ("max_steps=9", "--then-eval")
    assert Launch(tmp_path, body, more=more, variables=nodes()[0]).end()[0] == 3


@pytest.mark.parametrize("setting", ["resume=false", "name_trained_model=other", "max_steps=10"])
def test_a_run_that_only_looks_done_waits_for_its_nodes(tmp_path: Path, setting: str) -> None:
    finish(tmp_path)
    """With another adapter to deliver, or more steps to do: see docs/how-to/train-longer.md."""
    more = ("max_steps=9", setting)
    launch = Launch(tmp_path, TRAIN_THEN_EVAL, more=more, variables=nodes()[0])
    time.sleep(8)
    launch.process.send_signal(signal.SIGTERM)
    assert "before all nodes had started" in launch.end()[1]
    assert not list(tmp_path.glob("ran-*"))


def test_nohup_is_heeded(tmp_path: Path) -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        launch = Launch(tmp_path, "wait_for_signal(0); attempt(0, 5, 0); os._exit(0)")
    finally:
        signal.signal(signal.SIGHUP, before)
    launch.signal_when_ready(signal.SIGHUP)
    time.sleep(1)
    assert launch.process.poll() is None
    launch.process.send_signal(signal.SIGTERM)
    assert launch.end()[0] == 0


def test_another_node_ends_well_only_when_the_first_has_said_that_the_run_is_done(tmp_path: Path) -> None:
    first, second = nodes()
    body = TRAIN_THEN_EVAL.replace(
        "attempt(0, 5, 0)", "os._exit(0) if os.environ['GROUP_RANK'] == '1' else (time.sleep(3), os._exit(9))"
    )
    launches = [Launch(tmp_path, body, variables=variables) for variables in (first, second)]
    assert launches[0].end()[0] == 9
    launches[1].process.send_signal(signal.SIGTERM)  # two minutes are too long for a test
    code, printed = launches[1].end()
    assert (code, "the first node has not said" in printed) == (1, True)


@pytest.mark.parametrize(("trained", "code"), [("attempt(0, 5, 0)", 75), ("pass", 1)])
def test_a_signal_that_comes_too_late_for_the_training_stops_before_the_evaluation(
    tmp_path: Path, trained: str, code: int
) -> None:
    body = TRAIN_THEN_EVAL.replace("attempt(0, 5, 0)", f"wait_for_signal(0); {trained}")
    launch = Launch(tmp_path, body, more=("--then-eval",))
    launch.signal_when_ready(signal.SIGTERM)
    found, printed = launch.end()
    assert (found, "between training and evaluation" in printed) == (code, True)
    assert not list(tmp_path.glob("ran-eval-*"))


# What a process finds of the place of others, and who may reach the store of its launcher.
PLACE = f"""
sys.path.insert(0, {str(ROOT)!r})
from tests.listening import listening
names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "PMI_SIZE", "TORCHELASTIC_RUN_ID", "VIZSAGE_SECRET"]
found = {{name: os.environ[name] for name in names if name in os.environ}}
found["at"] = listening(int(os.environ.get("MASTER_PORT", "0")))
(folder / f"place-{{rank}}").write_text(json.dumps(found))
os._exit(0)
"""
FROM_OUTSIDE = {
    "RANK": "5", "WORLD_SIZE": "9", "LOCAL_RANK": "3", "MASTER_ADDR": "elsewhere", "MASTER_PORT": "1",
    "PMI_SIZE": "9", "TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_USE_AGENT_STORE": "True", "VIZSAGE_SECRET": "old",
}  # fmt: skip


@pytest.mark.parametrize("processes", [1, 2])
def test_the_place_of_another_process_reaches_none_and_only_this_host_reaches_the_store(
    tmp_path: Path, processes: int
) -> None:
    """A port from outside does not matter on one node: its launcher chooses one."""
    assert Launch(tmp_path, PLACE, processes=processes, variables=FROM_OUTSIDE).end() == (0, "")
    found = [json.loads((tmp_path / f"place-{rank}").read_text()) for rank in range(processes)]
    if processes == 1:
        assert found == [{"at": []}]
        return
    secrets = {one.pop("VIZSAGE_SECRET") for one in found}
    assert len(secrets) == 1
    assert len(min(secrets)) == 64
    common = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "at": ["127.0.0.1"]}
    assert found == [common | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(2)]


def test_a_port_in_use_is_named_and_worth_another_try(tmp_path: Path) -> None:
    first, _ = nodes()
    with socket.create_server(("", int(first["MASTER_PORT"]))):
        code, printed = Launch(tmp_path, PLACE, variables=first).end()
    assert code == 1
    assert f"another program listens at port {first['MASTER_PORT']} of this host" in printed
    assert printed.count("\n") == 1


def test_no_signal_changes_the_exit_code_while_the_launcher_shuts_down(tmp_path: Path) -> None:
    """Python puts the system's own handlers back then, of which each ends a process."""
    code = (
        "import atexit, pathlib, signal\n"
        "names = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR1', 'SIGUSR2']\n"
        "ignored = lambda: [name for name in names if signal.getsignal(getattr(signal, name)) is signal.SIG_IGN]\n"
        f"atexit.register(lambda: pathlib.Path({str(tmp_path / 'ignored')!r}).write_text(str(ignored() == names)))\n"
    )
    (tmp_path / "sitecustomize.py").write_text(code)
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, "-m", "jobs.run", "dance", "run.yaml"]
    assert subprocess.run(command, env=environment, capture_output=True, check=False).returncode == 2
    assert (tmp_path / "ignored").read_text() == "True"


@pytest.mark.parametrize("word", ["--help", "-h"])
def test_help(word: str) -> None:
    command = [sys.executable, "-m", "jobs.run", word]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: python -m jobs.run train CONFIG")


def test_one_process_in_all_joins_nobody() -> None:
    assert workers.worker_environments({}, 1) == [{}]


def test_processes_of_two_nodes() -> None:
    given = {"NNODES": "2", "NODE_RANK": "1", "MASTER_ADDR": "n1", "MASTER_PORT": "15001", "OMP_NUM_THREADS": "1"}
    first, second = workers.worker_environments(given, 2)
    common = {
        "WORLD_SIZE": "4",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_RANK": "1",
        "MASTER_ADDR": "n1",
        "MASTER_PORT": "15001",
    }
    assert first == common | {"RANK": "2", "LOCAL_RANK": "0"}
    assert second == common | {"RANK": "3", "LOCAL_RANK": "1"}


def test_processes_of_one_node_meet_by_themselves_and_share_its_cores() -> None:
    given = {"A": "b"}
    first, second = workers.worker_environments(given, 2)
    assert (first["MASTER_ADDR"], first["WORLD_SIZE"], first["GROUP_RANK"]) == ("127.0.0.1", "2", "0")
    assert (first["GLOO_SOCKET_IFNAME"], second["NCCL_SOCKET_IFNAME"]) == ("lo", "lo")
    assert "NCCL_SOCKET_IFNAME" not in workers.worker_environments(given | {"NCCL_SOCKET_IFNAME": "eth1"}, 2)[0]
    assert int(first["OMP_NUM_THREADS"]) == max(1, len(os.sched_getaffinity(0)) // 2)
    assert "OMP_NUM_THREADS" not in workers.worker_environments(given | {"OMP_NUM_THREADS": "3"}, 2)[0]
    assert given == {"A": "b"}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"NNODES": "2", "NODE_RANK": "2"}, "NODE_RANK: expected 0 to 1"),
        ({"NNODES": "two"}, "whole numbers"),
        ({"NNODES": "0"}, "NODE_RANK"),
        ({"NODE_RANK": "-1"}, "NODE_RANK"),
        ({"NNODES": "2"}, "MASTER_ADDR and MASTER_PORT"),
        ({"NNODES": "2", "MASTER_ADDR": "n1"}, "MASTER_ADDR and MASTER_PORT"),
        ({"NNODES": "2", "MASTER_ADDR": "n1", "MASTER_PORT": "ssh"}, "MASTER_ADDR and MASTER_PORT"),
    ],
)
def test_variables_that_describe_no_node(given: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        workers.worker_environments(given, 1)


@pytest.mark.parametrize(
    ("words", "variables", "message"),
    [
        ([], {}, "usage"),
        (["dance", "run.yaml"], {}, "usage"),
        (["train"], {}, "usage"),
        (["train", "none.yaml"], {}, "none.yaml"),
        (["train", "run.yaml", "--fresh"], {}, "--fresh"),
        (["train", "run.yaml", "lr=fast"], {}, "lr"),
        (["train", "run.yaml"], {"PROCESSES_PER_NODE": "0"}, "PROCESSES_PER_NODE"),
        (["train", "run.yaml"], {"PROCESSES_PER_NODE": "all"}, "PROCESSES_PER_NODE"),
        (["train", "run.yaml"], {"PROCESSES_PER_NODE": "1", "NNODES": "2"}, "MASTER_ADDR"),
        (["eval", "run.yaml"], {"PROCESSES_PER_NODE": "1", "NNODES": "2"}, "MASTER_ADDR"),
        (["eval", "run.yaml"], {"PROCESSES_PER_NODE": "all"}, "PROCESSES_PER_NODE"),
        (["eval", "run.yaml", "--split", "val", "lr=fast"], {}, "lr"),
        (["eval", "run.yaml", "--fresh"], {}, "--fresh"),
        (["eval", "run.yaml", "--then-eval"], {}, "--then-eval"),
        (["train", "run.yaml", "resume=false", "--then-eval"], {}, "resume: false"),
        (
            ["train", "run.yaml"],
            {"PROCESSES_PER_NODE": "1", "NNODES": "2", "MASTER_ADDR": "x", "MASTER_PORT": "99999"},
            "MASTER_PORT",
        ),
        (["train", "run.yaml"], {"JOB_COMPLETION_INDEX": "1", "PROCESSES_PER_NODE": "1"}, "NODE_RANK"),
    ],
)
def test_a_wrong_command_is_one_line(tmp_path: Path, words: list[str], variables: dict[str, str], message: str) -> None:
    (tmp_path / "run.yaml").write_text("output_dir: out\n")
    environment = os.environ | {"PYTHONPATH": str(ROOT)} | variables
    command = [sys.executable, "-m", "jobs.run", *words]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("jobs.run: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_directory_in_use_is_worth_another_try_to_a_scheduler_and_a_mistake_to_a_user(
    tmp_path: Path, write_data: Callable[..., Path], write_settings: Callable[..., Path]
) -> None:
    settings = write_settings(
        model_name="vizsage-tiny", device="cpu", load_in_4bit=False, use_bf16=False, max_steps=1, warmup_steps=0,
        num_proc=0, dataset="AQUA", base_path=str(write_data()), output_dir=str(tmp_path / "run"),
    )  # fmt: skip
    codes = {}
    with only_one(tmp_path / "run", "training"):
        for module in ("jobs.run", "vizsage"):
            command = [sys.executable, "-m", module, "train", str(settings)]
            environment = os.environ | {"PROCESSES_PER_NODE": "1"}
            done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
            assert f"process {os.getpid()} on host" in done.stderr
            codes[module] = done.returncode
    assert codes == {"jobs.run": 1, "vizsage": 2}


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGUSR2, signal.SIGKILL])
def test_a_run_of_two_processes_is_interrupted_and_continues(
    tmp_path: Path, write_data: Callable[..., Path], write_settings: Callable[..., Path], number: signal.Signals
) -> None:
    """Killed, the launcher passes nothing on: its processes notice, still save and leave the run to the next."""
    settings = write_settings(
        model_name="vizsage-tiny",
        device="cpu",
        load_in_4bit=False,
        use_bf16=False,
        use_gradient_checkpointing=False,
        batch_size=1,
        grad_accum=1,
        max_steps=6,
        eval_steps=100,
        save_steps=100,
        val_samples=1,
        num_proc=0,
        dataset="AQUA",
        base_path=str(write_data()),
        output_dir=str(tmp_path / "run"),
    )
    environment = os.environ | {"PROCESSES_PER_NODE": "2", "PYTHONPATH": str(MISHAPS), "MISHAP": "hold 3"}
    process = subprocess.Popen(
        [sys.executable, "-m", "jobs.run", "train", str(settings), "lr=1e-3"],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    while process.poll() is None and len(list((tmp_path / "run").glob("held-*"))) < 2:
        time.sleep(0.1)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=300)  # until the last process has closed its end
    assert process.returncode == (75 if number == signal.SIGUSR2 else -signal.SIGKILL), printed
    assert json.loads((tmp_path / "run" / "outcome.json").read_text())["exit_code"] == 75
    assert (tmp_path / "run" / "checkpoint-3").is_dir()
    again = subprocess.run(process.args, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    outcome = json.loads((tmp_path / "run" / "outcome.json").read_text())
    assert outcome == {"exit_code": 0, "reason": "done", "step": 6, "attempt": 2}
