"""The supervisor with commands of bash: order, room, exit codes, cancellation, and what a killed one leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.schedulers.local.local_entries import Ended, Entry, Progress
from jobs.schedulers.local.local_processes import processes_of, send
from jobs.schedulers.local.local_queue import Queue
from jobs.schedulers.local.local_supervisor import Supervisor
from tests.jobs.schedulers.local.machine import until

# A job writes when it begins and when it ends, so that what ran beside it is read off one file.
BEGIN = 'echo "begin $JOB" >> "$HISTORY"'
END = 'echo "end $JOB" >> "$HISTORY"'


class Bench:
    """A queue in a folder, and entries whose commands are lines of bash."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.history = folder / "history"
        self.queue = Queue(folder / "queue" / "machine")
        self.queue.create()

    def add(self, script: str, **changes: Any) -> Entry:
        with self.queue.locked():
            number = self.queue.next_number(self.folder / "none")
            job = f"local-{number}"
            given: dict[str, Any] = {
                "job_id": job,
                "number": number,
                "kind": "train",
                "run_dir": str(self.folder / job),
                "log": str(self.folder / job / "jobs" / f"{job}_log.out"),
                "command": ("bash", "-c", script),
                "directory": str(self.folder),
                "environment": os.environ | {"HISTORY": str(self.history), "JOB": job},
                "umask": 0o022,
                "parallel": 1,
                "gpus": 0,
                "devices": (),
                "after": "",
                "max_retries": 3,
            }
            entry = Entry(**given | changes)
            self.queue.add(entry)
        return entry

    def supervisor(self, **changes: Any) -> Supervisor:
        with self.queue.locked():
            fd = self.queue.take_supervisor_lock()
        assert fd is not None
        return Supervisor(self.queue, fd, **{"poll_s": 0.02, "pauses_s": (0,)} | changes)

    def work_off(self) -> None:
        self.supervisor().run()
        assert self.queue.entries() == []

    def begin(self, supervisor: Supervisor) -> threading.Thread:
        thread = threading.Thread(target=supervisor.run)
        thread.start()
        return thread

    def ended(self, entry: Entry) -> Ended | None:
        return self.queue.ended(Path(entry.run_dir), entry.job_id)

    def log(self, entry: Entry) -> str:
        return Path(entry.log).read_text()

    def most_at_once(self) -> int:
        running, most = 0, 0
        for line in self.history.read_text().splitlines():
            running += 1 if line.startswith("begin") else -1
            most = max(most, running)
        return most


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    found = Bench(tmp_path)
    yield found
    for entry in found.queue.entries():
        send(processes_of(str(found.queue.path(entry))), 9)  # type: ignore[arg-type]


# --- order and room --------------------------------------------------------------------------------------------------


def test_jobs_run_one_after_another_in_their_order(bench: Bench) -> None:
    jobs = [bench.add(f"{BEGIN}; sleep 0.1; {END}") for _ in range(3)]
    bench.work_off()
    assert [bench.ended(job) for job in jobs] == [Ended("completed", exit_code=0)] * 3
    assert bench.history.read_text().split()[1::2] == [one for job in jobs for one in [job.job_id] * 2]


def test_at_most_so_many_at_a_time_as_each_of_them_allows(bench: Bench) -> None:
    together = f'{BEGIN}; until [ $(grep -c begin "$HISTORY") -ge 2 ]; do sleep 0.02; done; sleep 0.1; {END}'
    for _ in range(4):
        bench.add(together, parallel=2)
    bench.work_off()
    assert bench.most_at_once() == 2
    bench.history.unlink()
    for parallel in (1, 3, 1):
        bench.add(f"{BEGIN}; sleep 0.1; {END}", parallel=parallel)
    bench.work_off()
    assert bench.most_at_once() == 1


def test_jobs_do_not_share_gpus(bench: Bench) -> None:
    show = 'echo "$1 $JOB $PROCESSES_PER_NODE $CUDA_VISIBLE_DEVICES" >> "$HISTORY"'
    script = f"set begin; {show}; sleep 0.1; set end; {show}"
    for gpus in (2, 1, 1, 2, 0):
        bench.add(script, parallel=9, gpus=gpus, devices=("4", "5", "7"))
    bench.work_off()
    taken: dict[str, set[str]] = {}
    counts = {}
    for line in bench.history.read_text().splitlines():
        what, job, processes, devices = line.split(" ")
        if what == "end":
            del taken[job]
            continue
        taken[job] = set(devices.split(",")) - {""}
        counts[job] = (len(taken[job]), processes)
        assert len(set.union(*taken.values())) == sum(map(len, taken.values())), line
    assert [counts[f"local-{i}"] for i in range(1, 6)] == [(2, "2"), (1, "1"), (1, "1"), (2, "2"), (0, "1")]


def test_a_machine_without_gpus_leaves_the_variable_alone(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "odd")
    monkeypatch.setenv("NNODES", "2")
    job = bench.add('echo "$CUDA_VISIBLE_DEVICES ${NNODES-none}"')
    bench.work_off()
    assert bench.log(job).splitlines()[1] == "odd none"


def test_a_job_waits_for_the_success_of_another(bench: Bench) -> None:
    first = bench.add(f"sleep 0.2; {END}", parallel=2)
    shared = {"run_dir": first.run_dir, "log": first.log, "parallel": 2}
    second = bench.add(f"{BEGIN}", after=first.job_id, **shared)
    bench.add(f"{BEGIN}", parallel=2)
    bench.work_off()
    assert bench.history.read_text().splitlines() == ["begin local-3", "end local-1", "begin local-2"]
    failed = bench.add("exit 4", run_dir=first.run_dir)
    dropped = bench.add(BEGIN, after=failed.job_id, run_dir=first.run_dir)
    last = bench.add(BEGIN, after=dropped.job_id, run_dir=first.run_dir)
    bench.work_off()
    assert bench.ended(second) == Ended("completed", exit_code=0)
    assert bench.ended(dropped) == Ended("cancelled", f"dependency failed: job {failed.job_id} failed")
    assert bench.ended(last) == Ended("cancelled", f"dependency failed: job {dropped.job_id} cancelled")


# --- exit codes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [2, 3, 4])
def test_what_would_repeat_is_not_retried(bench: Bench, code: int) -> None:
    job = bench.add(f"{BEGIN}; exit {code}")
    bench.work_off()
    assert bench.ended(job) == Ended("failed", f"exit code {code}", code)
    assert bench.history.read_text().count("begin") == 1


def test_a_failure_is_retried_a_few_times(bench: Bench) -> None:
    job = bench.add(f"{BEGIN}; kill -9 $$")
    bench.work_off()
    assert bench.ended(job) == Ended("failed", "exit code 137, given up after 3 retries", 137)
    assert [line for line in bench.log(job).splitlines() if "=== attempt" in line or "retry" in line][-2:] == [
        "=== job local-1 failed with exit code 137: retry 3 of 3",
        next(line for line in bench.log(job).splitlines() if line.startswith("=== attempt 4 of job local-1 on ")),
    ]
    assert bench.history.read_text().count("begin") == 4


def test_a_retry_waits_and_others_run_meanwhile(bench: Bench) -> None:
    failing = bench.add('echo "$JOB" >> order; [ $(grep -c "^$JOB$" order) = 2 ]')
    bench.add('echo "$JOB" >> order')
    bench.supervisor(pauses_s=(0.5,)).run()
    assert (bench.folder / "order").read_text().split() == ["local-1", "local-2", "local-1"]
    assert bench.ended(failing) == Ended("completed", exit_code=0)


def test_interruptions_are_no_failures(bench: Bench) -> None:
    job = bench.add(f'{BEGIN}; [ $(grep -c begin "$HISTORY") = 6 ] || exit 75', max_retries=0)
    bench.work_off()
    assert bench.ended(job) == Ended("completed", exit_code=0)
    assert bench.log(job).count("its checkpoint is safe: it goes back into the queue") == 5


@pytest.mark.parametrize("changes", [{"command": ("/no/such/program",)}, {"directory": "/no/such/folder"}])
def test_what_cannot_be_started_has_failed_and_the_next_one_runs(bench: Bench, changes: dict[str, Any]) -> None:
    job, after = bench.add("true", **changes), bench.add("true")
    bench.work_off()
    found = bench.ended(job)
    assert found is not None
    assert found.state == "failed"
    assert "/no/such" in found.detail
    assert "jobs.run: cannot be started" in bench.log(job)
    assert bench.ended(after) == Ended("completed", exit_code=0)


def test_a_run_directory_that_is_gone_does_not_stop_the_queue(bench: Bench) -> None:
    (bench.folder / "file").touch()
    run_dir = bench.folder / "file" / "run"
    job = bench.add("true", run_dir=str(run_dir), log=str(run_dir / "log"))
    after = bench.add("true")
    bench.work_off()
    found = bench.ended(job)
    assert found is not None
    assert found.state == "failed"
    assert bench.ended(after) == Ended("completed", exit_code=0)


# --- stopping --------------------------------------------------------------------------------------------------------

# A launcher that saves when it is asked to stop, and reports when it is ready to be asked.
SAVES = "trap 'exit 75' TERM; touch ready-$JOB; while :; do sleep 0.02; done"


def test_a_cancelled_job_saves_and_is_not_retried_and_a_waiting_one_never_starts(bench: Bench) -> None:
    running, waiting = bench.add(SAVES), bench.add(BEGIN)
    thread = bench.begin(bench.supervisor())
    until((bench.folder / f"ready-{running.job_id}").exists)
    with bench.queue.locked():
        bench.queue.cancel(waiting)
    until(lambda: bench.ended(waiting))
    with bench.queue.locked():
        bench.queue.cancel(running)
    thread.join(120)
    assert bench.ended(running) == Ended("cancelled", "by python -m jobs cancel", 75)
    assert bench.ended(waiting) == Ended("cancelled", "by python -m jobs cancel")
    assert not bench.history.exists()


def test_what_does_not_stop_is_killed_with_all_its_processes(bench: Bench) -> None:
    job = bench.add("trap '' TERM; setsid sleep 1000 & touch ready; wait; sleep 1000")
    thread = bench.begin(bench.supervisor(grace_s=0.2))
    until((bench.folder / "ready").exists)
    with bench.queue.locked():
        bench.queue.cancel(job)
    thread.join(120)
    assert bench.ended(job) == Ended("cancelled", "by python -m jobs cancel", 137)
    assert "has not stopped in 0.2 seconds: killed" in bench.log(job)
    assert processes_of(str(bench.queue.path(job))) == []


def test_an_attempt_is_over_when_its_last_process_has_ended(bench: Bench) -> None:
    """A worker that saves still, after its launcher was killed, must end before the next attempt."""
    worker = "trap 'sleep 0.3; echo end >> \"$HISTORY\"; exit' TERM; touch ready; while :; do sleep 0.02; done"
    (bench.folder / "worker").write_text(worker)
    launcher = "[ -e ready ] && exit; setsid bash worker & until [ -e ready ]; do sleep 0.02; done; kill -9 $$"
    job = bench.add(f"{BEGIN}; {launcher}")
    bench.work_off()
    assert bench.history.read_text().split() == ["begin", "local-1", "end", "begin", "local-1"]
    assert bench.ended(job) == Ended("completed", exit_code=0)


def test_a_supervisor_that_is_asked_to_stop_leaves_the_queue_to_the_next(bench: Bench) -> None:
    running = bench.add(f"[ -e ready-$JOB ] && exit 0; {SAVES}")
    waiting = bench.add("true")
    supervisor = bench.supervisor()
    thread = bench.begin(supervisor)
    until((bench.folder / f"ready-{running.job_id}").exists)
    supervisor.stopping = True
    thread.join(120)
    assert bench.queue.entries() == [running, waiting]
    with bench.queue.locked():
        assert not bench.queue.has_supervisor()
    bench.work_off()
    assert bench.log(running).count("=== attempt") == 2
    assert bench.ended(waiting) == Ended("completed", exit_code=0)


# --- a killed supervisor ---------------------------------------------------------------------------------------------


def left_running(bench: Bench, script: str) -> Entry:
    """A job as a supervisor leaves it that was killed while the job ran."""
    job = bench.add(script)
    bench.queue.write_progress(job, Progress(attempt=1, running=True))
    more = {
        "VIZSAGE_LOCAL_JOB": str(bench.queue.path(job)),
        "EXIT_CODES_DIR": str(bench.queue.codes_dir(job, 1)),
    }
    Path(job.log).parent.mkdir(parents=True)
    subprocess.Popen(job.command, cwd=job.directory, env=job.environment | more)
    return job


WITH_CODE = 'mkdir -p "$EXIT_CODES_DIR"; echo {code} > "$EXIT_CODES_DIR/0"'


@pytest.mark.parametrize(("code", "state"), [(0, "completed"), (3, "failed")])
def test_a_job_that_is_still_running_is_taken_over_and_not_started_again(bench: Bench, code: int, state: str) -> None:
    job = left_running(bench, f"{BEGIN}; until [ -e go ]; do sleep 0.02; done; {WITH_CODE.format(code=code)}")
    after = bench.add(BEGIN)
    until(bench.history.exists)
    thread = bench.begin(bench.supervisor())
    time.sleep(0.3)
    assert bench.history.read_text().splitlines() == ["begin local-1"]
    (bench.folder / "go").touch()
    thread.join(120)
    found = bench.ended(job)
    assert found is not None
    assert (found.state, found.exit_code) == (state, code)
    assert bench.ended(after) == Ended("completed", exit_code=0)
    assert bench.history.read_text().splitlines() == ["begin local-1", "begin local-2"]


def test_a_job_that_ended_meanwhile_is_not_started_again(bench: Bench) -> None:
    job = left_running(bench, f"{BEGIN}; {WITH_CODE.format(code=0)}")
    until(lambda: bench.queue.exit_code(job, 1) == 0)
    bench.work_off()
    assert bench.ended(job) == Ended("completed", exit_code=0)
    assert bench.history.read_text().count("begin") == 1


def test_what_a_launcher_left_behind_is_stopped_also_where_it_was_taken_over(bench: Bench) -> None:
    job = left_running(bench, f"setsid sleep 1000 & {WITH_CODE.format(code=0)}")
    bench.work_off()
    assert bench.ended(job) == Ended("completed", exit_code=0)
    assert processes_of(str(bench.queue.path(job))) == []


def test_a_queue_that_was_deleted_needs_no_supervisor(bench: Bench) -> None:
    bench.add("touch ready; sleep 0.2")
    thread = bench.begin(bench.supervisor())
    until((bench.folder / "ready").exists)
    shutil.rmtree(bench.queue.folder.parent)
    thread.join(120)
    assert not thread.is_alive()


def test_a_job_that_was_killed_along_runs_again_and_that_is_no_failure(bench: Bench) -> None:
    job = bench.add(BEGIN, max_retries=0)
    bench.queue.write_progress(job, Progress(attempt=1, running=True))
    bench.work_off()
    assert bench.ended(job) == Ended("completed", exit_code=0)
    assert "was lost with its supervisor" in bench.log(job)
    assert "=== attempt 2 of job local-1" in bench.log(job)


def test_a_job_that_is_taken_over_is_stopped_as_any_other(bench: Bench) -> None:
    job = left_running(
        bench, f"trap '{WITH_CODE.format(code=75)}; exit 75' TERM; touch ready; while :; do sleep 0.02; done"
    )
    until((bench.folder / "ready").exists)
    with bench.queue.locked():
        bench.queue.cancel(job)
    bench.work_off()
    assert bench.ended(job) == Ended("cancelled", "by python -m jobs cancel", 75)
