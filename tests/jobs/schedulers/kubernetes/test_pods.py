"""What is told of the pods of a Kubernetes job, and their logs, with the real kubectl and a small API server."""

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

from jobs.schedulers.kubernetes import pod_logs, pod_waits
from jobs.schedulers.kubernetes.job_states import ask
from jobs.schedulers.kubernetes.pod_logs import print_logs
from jobs.schedulers.kubernetes.pods import INDEX, last_words, pods_of, step
from jobs.submissions import Submission, note
from tests.jobs.api_server import ApiServer
from vizsage.errors import VizSageError

ROOT = Path(__file__).parents[4]
JOB = "vizsage-run-1"
RUNNING = {"name": "vizsage", "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}}}
COMPLETE = [{"type": "Complete", "status": "True", "reason": "CompletionsReached"}]
NODE_GONE = (500, "InternalError", 'Get "https://10.0.0.7:10250/containerLogs": dial tcp: i/o timeout')
FORBIDDEN = (403, "Forbidden", "me cannot list them")

pytestmark = [
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed"),
    pytest.mark.timeout(180),
]


def ended(code: int, message: str = "", began: str = "00:00:00", end: str = "00:01:00") -> dict[str, Any]:
    times = {"startedAt": f"2026-01-01T{began}Z", "finishedAt": f"2026-01-01T{end}Z"}
    return {"name": "vizsage", "state": {"terminated": {"exitCode": code, "message": message, **times}}}


def waiting(reason: str, message: str = "") -> dict[str, Any]:
    return {"name": "vizsage", "state": {"waiting": {"reason": reason, "message": message}}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ApiServer]:
    """With a Job of no pods yet."""
    server = ApiServer(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(server.kubeconfig))
    monkeypatch.setenv("KUBECACHEDIR", str(tmp_path / "cache"))
    monkeypatch.setattr(pod_logs, "_LOOK_AGAIN_S", 0.2)
    add(server, "Job", JOB)
    yield server
    server.stop()


@pytest.fixture
def job(tmp_path: Path) -> Submission:
    return Submission(
        job_id=JOB,
        kind="train",
        scheduler="kubernetes",
        submitted="2026-01-01T00:00:00+00:00",
        run_dir=str(tmp_path / "run"),
        log="",
        script="",
        config="",
        context="pool",
        namespace="vlm",
        resource="job",
    )


@pytest.fixture
def follow(job: Submission) -> Iterator[Callable[[], Future[None]]]:
    """Start following the job beside the test."""
    with ThreadPoolExecutor() as pool:
        yield lambda: pool.submit(print_logs, job, True)


def add(server: ApiServer, kind: str, name: str, **more: Any) -> None:
    labels = more.pop("labels", {})
    version = "v1" if kind == "Event" else "batch/v1"
    metadata = {"name": name, "namespace": "vlm", "uid": name, "labels": labels}
    more = more if kind == "Event" else {"spec": {}, **more}
    server.objects[kind, name] = {"apiVersion": version, "kind": kind, "metadata": metadata, **more}


def add_pod(server: ApiServer, name: str, phase: str, *containers: dict[str, Any], node: int | None = None) -> None:
    """Pods are made in the order of their names."""
    labels = {} if node is None else {INDEX: str(node)}
    created = f"2026-01-01T00:00:{ord(name) - ord('a'):02}Z"
    server.add_pod(JOB, name, created=created, labels=labels, phase=phase, containerStatuses=[*containers])


def complete(server: ApiServer, *pods: str) -> None:
    """The pods have succeeded, and the job with them."""
    for pod in pods:
        server.set_status("Pod", pod, phase="Succeeded", containerStatuses=[ended(0)])
    server.set_status("Job", JOB, conditions=COMPLETE)


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


# --- logs, once ------------------------------------------------------------------------------------------------------


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


# --- logs, followed --------------------------------------------------------------------------------------------------


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
    """Its last lines tell that the checkpoint is saved. With background propagation the job is gone before its pods."""
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


# --- why a pod waits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "told"),
    [
        (
            {
                "conditions": [
                    {
                        "type": "PodScheduled",
                        "status": "False",
                        "reason": "Unschedulable",
                        "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
                    }
                ],
            },
            "Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu; it starts when a node has as much "
            "free, see kubectl describe nodes",
        ),
        (
            {"containerStatuses": [waiting("ImagePullBackOff", "Back-off pulling vizsage")]},
            "ImagePullBackOff: Back-off pulling vizsage; check --image, and that the nodes may pull it",
        ),
        (
            {"initContainerStatuses": [RUNNING | {"name": "data"}], "containerStatuses": [waiting("PodInitializing")]},
            "init container data runs first",
        ),
        ({}, "its containers are being made"),
    ],
)
def test_why_a_pod_waits(server: ApiServer, job: Submission, status: dict[str, Any], told: str) -> None:
    server.add_pod(JOB, "a", created="2026-01-01T00:00:00Z", phase="Pending", **status)
    assert ask(job)[:2] == ("pending", told)


def at(monkeypatch: pytest.MonkeyPatch, now: str) -> None:
    """What time it is for whoever tells how old an event is."""

    class Clock(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> datetime.datetime:
            return datetime.datetime.fromisoformat(now)

    monkeypatch.setattr(pod_waits.datetime, "datetime", Clock)


def test_a_pod_that_gives_no_reason_has_events(
    server: ApiServer, job: Submission, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The newest warning counts, whichever way its reporter dates it."""
    at(monkeypatch, "2026-01-01T04:00:00+00:00")
    add_pod(server, "a", "Pending", waiting("ContainerCreating"))
    for name, pod, kind, reason, message, when in (
        ("1", "a", "Warning", "FailedMount", 'configmap "vizsage" not found', {"eventTime": "2026-01-01T00:02:00.5Z"}),
        ("2", "a", "Warning", "FailedMount", "old", {"lastTimestamp": "2026-01-01T00:01:00Z"}),
        ("3", "a", "Normal", "Pulled", "pulled", {"lastTimestamp": "2026-01-01T00:03:00Z"}),
        ("4", "x", "Warning", "FailedMount", "other", {"lastTimestamp": "2026-01-01T00:03:00Z"}),
        ("5", "a", "Warning", "FailedScheduling", "no GPU yet", {"lastTimestamp": "2026-01-01T00:03:00Z"}),
    ):
        of = {"kind": "Pod", "name": pod}
        add(server, "Event", name, involvedObject=of, type=kind, reason=reason, message=message, **when)
    assert ask(job)[:2] == ("pending", 'FailedMount 3 hours ago: configmap "vizsage" not found')


def failed_create(server: ApiServer, event: str, of: str, message: str, when: str) -> None:
    involved = {"kind": "Job", "name": of}
    add(server, "Event", event, involvedObject=involved, reason="FailedCreate", message=message, lastTimestamp=when)


@pytest.mark.parametrize(
    ("now", "age"), [("00:02:07", "7 seconds"), ("00:04:59", "2 minutes"), ("06:00:00", "5 hours")]
)
def test_why_there_is_no_pod(
    server: ApiServer, job: Submission, monkeypatch: pytest.MonkeyPatch, now: str, age: str
) -> None:
    """An event stays for an hour, whatever was changed since then: it tells how old it is."""
    at(monkeypatch, f"2026-01-01T{now}+00:00")
    message = 'pods "x" is forbidden: exceeded quota: gpus'
    failed_create(server, "1", JOB, message, "2026-01-01T00:02:00Z")
    failed_create(server, "2", JOB, "old", "2026-01-01T00:01:00Z")
    remedy = "ask for less, or for a larger quota of the namespace"
    assert ask(job)[:2] == ("pending", f"FailedCreate {age} ago: {message}; {remedy}")


def test_a_pod_that_was_made_later_outdates_the_event(server: ApiServer, job: Submission) -> None:
    failed_create(server, "1", JOB, "exceeded quota: gpus", "2025-12-31T23:59:59Z")
    add_pod(server, "a", "Failed", ended(75))
    assert ask(job)[1].startswith("the next pod comes 10 s after the last one ended (")


def test_why_a_jobset_has_no_pod(server: ApiServer, job: Submission) -> None:
    jobset = Submission(**vars(job) | {"resource": "jobset"})
    add(server, "JobSet", JOB)
    server.objects["JobSet", JOB]["apiVersion"] = "jobset.x-k8s.io/v1alpha2"
    add(server, "Job", f"{JOB}-train-0", labels={"jobset.sigs.k8s.io/jobset-name": JOB})
    failed_create(server, "1", f"{JOB}-train-0", "exceeded quota: gpus", "2026-01-01T00:02:00Z")
    failed_create(server, "2", f"{JOB}-train-0", "old", "2026-01-01T00:01:00Z")
    failed_create(server, "3", "another", "other", "2026-01-01T00:03:00Z")
    state, detail, _ = ask(jobset)
    assert (state, detail.startswith("FailedCreate ")) == ("pending", True)
    assert ": exceeded quota: gpus" in detail


# --- what is told without all rights ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "told"),
    [
        ({"conditions": COMPLETE}, ("completed", "CompletionsReached, its pods cannot be listed")),
        ({"active": 1, "ready": 1}, ("running", "its pods cannot be listed")),
        ({"active": 1, "ready": 0}, ("pending", "its pods cannot be listed")),
    ],
)
def test_a_job_whose_pods_cannot_be_listed(
    server: ApiServer, job: Submission, status: dict[str, Any], told: tuple[str, str]
) -> None:
    add_pod(server, "a", "Failed", ended(1, "some words"))
    server.logs["a"] = "step 1/2: "
    assert (ask(job).words, step(job)) == ("some words", 1)
    server.set_status("Job", JOB, **status)
    server.failures["/pods"] = itertools.repeat(FORBIDDEN)
    assert ask(job)[:2] == told
    assert (ask(job).words, step(job)) == ("", None)


def test_a_job_whose_events_cannot_be_listed(server: ApiServer, job: Submission) -> None:
    server.failures["/events"] = itertools.repeat(FORBIDDEN)
    assert ask(job)[:2] == ("pending", "no pod yet")
    add_pod(server, "a", "Pending")
    assert ask(job)[:2] == ("pending", "its containers are being made")


# --- the cause of a failure ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("states", "told"),
    [
        # Two attempts one after the other: the newest.
        ([ended(1, "old", "00:00:00", "00:01:00"), ended(1, "new", "00:02:00", "00:03:00")], "new"),
        # Peers: the first that fell, and not the one that lost it.
        ([ended(137, "cause", "00:00:01", "00:01:00"), ended(1, "peer", "00:00:00", "00:01:09")], "cause"),
        ([ended(1, "peer", "00:00:00", "00:01:09"), ended(137, "cause", "00:00:01", "00:01:00")], "cause"),
        # Two attempts of two peers.
        (
            [
                ended(137, "old", "00:00:00", "00:01:00"),
                ended(1, "old peer", "00:00:00", "00:01:09"),
                ended(1, "peer", "00:02:00", "00:03:09"),
                ended(137, "cause", "00:02:00", "00:03:00"),
            ],
            "cause",
        ),
        # An exit code that names the cause, whenever it came.
        ([ended(1, "peer", end="00:01:00"), ended(3, "no data", end="00:01:01")], "no data"),
        ([ended(2, "config", end="00:01:00"), ended(75, "peer", end="00:01:01")], "config"),
        ([ended(0, "done")], ""),
    ],
)
def test_the_last_words_are_those_of_the_cause(
    server: ApiServer, job: Submission, states: list[dict[str, Any]], told: str
) -> None:
    for pod, state in zip("abcd", states, strict=False):
        add_pod(server, pod, "Failed", state)
    assert last_words(pods_of(job)) == told


def test_the_step_is_that_of_the_first_node(server: ApiServer, job: Submission) -> None:
    """The other nodes log none."""
    for node, pod in enumerate("abcd"):
        add_pod(server, pod, "Running", RUNNING, node=node)
    server.logs |= {"a": "step 10/90: loss 3.1\nstep 20/90: loss 2.5\nvalidation\n", **dict.fromkeys("bcd", "joined\n")}
    assert step(job) == 20


def test_why_the_system_ended_a_container(server: ApiServer, job: Submission) -> None:
    add_pod(server, "a", "Failed", ended(1))
    killed = ended(137)
    killed["state"]["terminated"]["reason"] = "OOMKilled"
    add_pod(server, "b", "Failed", killed)
    add_pod(server, "c", "Running", RUNNING)
    more = (
        "container vizsage needed more than its memory limit; raise resources.limits.memory in your overlay, or lower"
    )
    assert ask(job)[:2] == ("running", f"on node-7, before: exit code 1, exit code 137 (OOMKilled), {more} num_proc")
