"""The logs of the pods of a job, once and followed, with the real kubectl and a small API server."""

from __future__ import annotations

import dataclasses
import datetime
import itertools
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from jobs.schedulers.kubernetes import pod_logs
from jobs.schedulers.kubernetes.pod_logs import print_logs
from jobs.submissions import Submission, note
from tests.jobs.api_server import ApiServer
from tests.jobs.schedulers.kubernetes.pod_objects import (
    COMPLETE,
    FORBIDDEN,
    JOB,
    RUNNING,
    add_pod,
    complete,
    ended,
    failed_create,
    waiting,
)
from vizsage.errors import VizSageError

ROOT = Path(__file__).parents[4]
NODE_GONE = (500, "InternalError", 'Get "https://10.0.0.7:10250/containerLogs": dial tcp: i/o timeout')

pytestmark = [
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
    pytest.mark.timeout(180),
]


@pytest.fixture
def follow(job: Submission) -> Iterator[Callable[[], Future[None]]]:
    """Start following the job beside the test."""
    with ThreadPoolExecutor() as pool:
        yield lambda: pool.submit(print_logs, job, True)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.usefixtures("server")
def test_a_job_without_a_log(job: Submission) -> None:
    with pytest.raises(VizSageError, match="has no log: pending: no pod yet"):
        print_logs(job, follow=False)


def test_the_logs_of_all_attempts(server: ApiServer, job: Submission, capfd: pytest.CaptureFixture[str]) -> None:
    add_pod(server, "b", "Succeeded", ended(0))
    add_pod(server, "a", "Failed", ended(75))
    server.logs |= {"a": "step 1\nKilled", "b": "step 2\n"}
    print_logs(job, follow=False)
    assert capfd.readouterr() == ("=== pod a\nstep 1\nKilled\n=== pod b\nstep 2\n", "")


def test_a_pod_whose_image_is_still_coming_has_no_log(server: ApiServer, job: Submission) -> None:
    add_pod(server, "a", "Pending", waiting("PodInitializing"))
    done = {"name": "data", "state": {"terminated": {"exitCode": 0}}}
    server.objects["Pod", "a"]["status"]["initContainerStatuses"] = [done]
    with pytest.raises(VizSageError, match="has no log: pending: its containers are being made"):
        print_logs(job, follow=False)


def test_the_log_of_an_init_container_that_failed(
    server: ApiServer, job: Submission, capfd: pytest.CaptureFixture[str]
) -> None:
    add_pod(server, "a", "Failed", waiting("PodInitializing"))
    failed = {"name": "data", "state": {"terminated": {"exitCode": 3}}}
    server.objects["Pod", "a"]["spec"]["initContainers"] = [{"name": "data"}]
    server.objects["Pod", "a"]["status"]["initContainerStatuses"] = [failed]
    server.logs["a/data"] = "no room for the data\n"
    print_logs(job, follow=False)
    assert capfd.readouterr().out == "=== pod a\nno room for the data\n"


def test_a_log_that_cannot_be_read_hides_no_other(
    server: ApiServer, job: Submission, capfd: pytest.CaptureFixture[str]
) -> None:
    for pod in "ab":
        add_pod(server, pod, "Failed", ended(1))
    server.logs["b"] = "step 2\n"
    server.failures["/pods/a/log"] = itertools.repeat(NODE_GONE)
    print_logs(job, follow=False)
    out, err = capfd.readouterr()
    assert out == "=== pod b\nstep 2\n"
    assert err.startswith("jobs: warning: the log of pod a cannot be read: ")
    assert "i/o timeout" in err
    assert err.count("\n") == 1
    server.failures["/pods/b/log"] = itertools.repeat(NODE_GONE)
    with pytest.raises(VizSageError, match="none of the logs"):
        print_logs(job, follow=False)


def test_following_goes_on_with_the_next_pod(
    server: ApiServer, follow: Callable[[], Future[None]], capfd: pytest.CaptureFixture[str]
) -> None:
    server.logs |= {"a": "step 1\n", "b": "step 2\n"}
    followed = follow()
    add_pod(server, "a", "Running", RUNNING)
    until(lambda: any("/pods/a/log" in path and "follow=true" in path for _, path in server.requests))
    server.set_status("Pod", "a", phase="Failed", containerStatuses=[ended(75)])
    add_pod(server, "b", "Running", RUNNING)
    complete(server, "b")
    followed.result(60)
    assert capfd.readouterr().out == "=== pod a\nstep 1\n=== pod b\nstep 2\n"


def test_following_waits_for_the_init_container(
    server: ApiServer, follow: Callable[[], Future[None]], capfd: pytest.CaptureFixture[str]
) -> None:
    add_pod(server, "a", "Pending", waiting("PodInitializing"))
    done = [{"name": "data", "state": {"terminated": {"exitCode": 0}}}]
    server.objects["Pod", "a"]["status"]["initContainerStatuses"] = done
    server.logs["a"] = "step 1\n"
    followed = follow()
    until(lambda: sum("/pods?" in path for _, path in server.requests) > 1)
    complete(server, "a")
    followed.result(60)
    assert capfd.readouterr().out == "=== pod a\nstep 1\n"


def test_following_tells_what_it_waits_for(
    server: ApiServer, follow: Callable[[], Future[None]], capfd: pytest.CaptureFixture[str]
) -> None:
    """Each reason once, however old its event has become."""
    message = "exceeded something"
    failed_create(server, "1", JOB, message, datetime.datetime.now(datetime.timezone.utc).isoformat())
    followed = follow()
    until(lambda: sum("/events?" in path for _, path in server.requests) > 1)
    add_pod(server, "a", "Pending", waiting("ImagePullBackOff", "no such image"))
    seen = len(server.requests)
    until(lambda: sum("/pods?" in path for _, path in server.requests[seen:]) > 2)
    server.logs["a"] = "step 1\n"
    complete(server, "a")
    followed.result(60)
    out, err = capfd.readouterr()
    first, second = err.splitlines()
    assert (
        re.sub(r"\d+", "N", first.removeprefix(f"jobs: job {JOB} is pending: "))
        == f"FailedCreate N seconds ago: {message}"
    )
    assert second.startswith(f"jobs: job {JOB} is pending: ImagePullBackOff: no such image; ")
    assert out == "=== pod a\nstep 1\n"


def test_a_stream_that_ends_before_its_pod_is_followed_again(
    server: ApiServer, job: Submission, capfd: pytest.CaptureFixture[str]
) -> None:
    """Closed, broken off, and closed once more just before the pod ends: each line comes once."""
    lines = [
        f"2026-01-01T00:00:{stamp}Z {text}\n"
        for stamp, text in [
            ("01.5", "step 1"), ("02.25", "step 2"), ("02.5", "the same"), ("02.75", "the same"), ("03.5", "step 3"),
            ("03.75", "step 4"), ("09.5", "checkpoint saved"),
        ]
    ]  # fmt: skip

    def last() -> Iterator[str]:
        yield lines[5]
        complete(server, "a")

    server.streams["a"] = [lines[:3], [*lines[1:5], None], last()]
    server.logs["a"] = "".join(lines)
    add_pod(server, "a", "Running", RUNNING)
    print_logs(job, follow=True)
    texts = ["step 1", "step 2", "the same", "the same", "step 3", "step 4", "checkpoint saved"]
    assert capfd.readouterr() == ("\n".join(["=== pod a", *texts, ""]), "")
    assert not server.streams["a"]


@pytest.mark.parametrize("job_first", [True, False])
def test_a_terminating_pod_is_followed_to_its_end(
    server: ApiServer, job: Submission, capfd: pytest.CaptureFixture[str], job_first: bool
) -> None:
    """Its last lines show that the checkpoint is saved. With background propagation the job is gone before its pods."""
    looks = len(server.requests)

    def stream() -> Iterator[str]:
        yield "SIGTERM\n"
        server.objects["Job", JOB]["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:30Z"
        if job_first:
            del server.objects["Job", JOB]
        seen = len(server.requests)
        until(lambda: len(server.requests) > seen + 4)
        yield "checkpoint saved\n"
        del server.objects["Pod", "a"]
        server.objects.pop(("Job", JOB), None)

    add_pod(server, "a", "Running", RUNNING)
    server.objects["Pod", "a"]["metadata"]["deletionTimestamp"] = "2026-01-01T00:01:00Z"
    server.streams["a"] = [stream()]
    server.logs["a"] = "SIGTERM\n"
    print_logs(job, follow=True)
    assert capfd.readouterr() == ("=== pod a\nSIGTERM\ncheckpoint saved\n", "")
    assert len(server.requests) > looks


@pytest.mark.parametrize("where", ["/pods/a/log", "/pods", f"/jobs/{JOB}"])
def test_following_outlasts_errors_of_the_server(
    server: ApiServer,
    job: Submission,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    where: str,
) -> None:
    warned: list[str] = []
    warn = pod_logs._warn
    monkeypatch.setattr(pod_logs, "_warn", lambda problem: (warned.append(problem), warn(problem)))

    def failures() -> Iterator[tuple[int, str, str]]:
        # Some kubectl try several times by themselves.
        while not warned:
            yield 503, "ServiceUnavailable", "the server restarts"
        yield 503, "ServiceUnavailable", "the server restarts"
        complete(server, "a")

    add_pod(server, "a", "Running", RUNNING)
    server.logs["a"] = "step 1\n"
    server.failures[where] = failures()
    print_logs(job, follow=True)
    out, err = capfd.readouterr()
    assert out == "=== pod a\nstep 1\n"
    assert err.startswith("jobs: warning: ")
    assert "the server restarts" in err
    assert err.count("\n") == 1  # not again and again


def test_following_gives_up_a_lost_log_when_the_job_has_ended(
    server: ApiServer, job: Submission, capfd: pytest.CaptureFixture[str]
) -> None:
    add_pod(server, "a", "Running", RUNNING)
    add_pod(server, "b", "Succeeded", ended(0))
    server.logs["b"] = "step 2\n"
    server.failures["/pods/a/log"] = itertools.repeat(NODE_GONE)
    server.set_status("Job", JOB, conditions=COMPLETE)
    print_logs(job, follow=True)
    out, err = capfd.readouterr()
    assert out.endswith("=== pod b\nstep 2\n")
    assert err.count("\n") == 1


def test_following_without_the_right_to_it_ends_at_once(server: ApiServer, job: Submission) -> None:
    server.failures["/pods"] = itertools.repeat(FORBIDDEN)
    with pytest.raises(VizSageError, match="me cannot list them"):
        print_logs(job, follow=True)


def test_pods_of_several_nodes_are_followed_side_by_side(
    server: ApiServer, job: Submission, capfd: pytest.CaptureFixture[str]
) -> None:
    """The second one begins while the first is being followed, and neither waits for the other's end."""
    second_began = threading.Event()

    def first() -> Iterator[str]:
        yield "first\n"
        add_pod(server, "b", "Running", RUNNING, node=1)
        assert second_began.wait(60)
        yield "last\n"
        complete(server, "a", "b")

    def second() -> Iterator[str]:
        yield "second\n"
        second_began.set()

    server.streams |= {"a": [first()], "b": [second()]}
    server.logs |= {"a": "first\nlast\n", "b": "second\n"}
    add_pod(server, "a", "Running", RUNNING, node=0)
    print_logs(job, follow=True)
    out, err = capfd.readouterr()
    assert sorted(out.splitlines()) == [
        "=== pod a",
        "=== pod b",
        "[pod/a/vizsage] first",
        "[pod/a/vizsage] last",
        "[pod/b/vizsage] second",
    ]
    assert err == ""


def test_whoever_stops_reading_ends_it(server: ApiServer, job: Submission, tmp_path: Path) -> None:
    """`logs -f | head -2`, though nothing more comes that could not be written."""
    note(dataclasses.replace(job, project=str(tmp_path)))
    stop = threading.Event()

    def quiet() -> Iterator[str]:
        yield "step 1\n"
        stop.wait(120)

    server.streams["a"] = [quiet()]
    add_pod(server, "a", "Running", RUNNING)
    followed = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -m jobs logs -f {JOB} | head -2; exit ${{PIPESTATUS[0]}}'],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert not stop.is_set()
    stop.set()
    assert (followed.returncode, followed.stdout, followed.stderr) == (1, "=== pod a\nstep 1\n", "")


def test_no_kubectl_stays_behind(
    server: ApiServer, job: Submission, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    started: list[subprocess.Popen[bytes]] = []
    stop = threading.Event()

    class Recorded(subprocess.Popen):  # type: ignore[type-arg]
        def __init__(self, command: list[str], **more: Any) -> None:
            super().__init__(command, **more)
            if "--follow" in command:
                started.append(self)

    def look(_: Submission) -> bool:
        if len(started) == 2:
            raise KeyboardInterrupt
        return False

    def quiet() -> Iterator[str]:
        stop.wait(60)
        yield ""

    monkeypatch.setattr(subprocess, "Popen", Recorded)
    monkeypatch.setattr(pod_logs, "has_ended", look)
    for node, pod in enumerate("ab"):
        server.streams[pod] = [quiet()]
        add_pod(server, pod, "Running", RUNNING, node=node)
    with pytest.raises(KeyboardInterrupt):
        print_logs(job, follow=True)
    assert [process.returncode for process in started] == [-9, -9]
    stop.set()
    capfd.readouterr()
