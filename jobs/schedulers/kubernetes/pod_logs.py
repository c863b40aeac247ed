"""The logs of a job's pods to stdout, once or until the job has ended, read by one kubectl per pod."""

from __future__ import annotations

import contextlib
import datetime
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence

from jobs.log_files import for_terminal
from jobs.schedulers.kubernetes.job_states import ask, has_ended
from jobs.schedulers.kubernetes.kubectl import kubectl_for
from jobs.schedulers.kubernetes.manifest import CONTAINER
from jobs.schedulers.kubernetes.pods import INDEX, Pod, failed_before, over, pods_of, started
from jobs.submissions import Submission
from vizsage.errors import VizSageError, printable

# Between two requests for the state of the job, and before a log that was interrupted is requested again.
_LOOK_AGAIN_S = 3.0
# Errors that another try does not change, so that following ends. Others pass, such as a server that restarts.
_LASTING = ("(Forbidden)", "(Unauthorized)", "does not exist", "not here")
_STAMP = re.compile(rb"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(?:\.\d+)?(Z|[+-]\d\d:\d\d) ?")


def print_logs(submission: Submission, follow: bool) -> None:
    """Print the logs of all pods of the job to stdout, oldest first; those of pods that run together line by line.

    A log that cannot be read is a warning on stderr.

    Args:
        submission: the job.
        follow: go on, also with pods that replace others, until the job has ended. Reasons for waiting are printed to
            stderr.

    Raises:
        VizSageError: no log could be read.
        BrokenPipeError: stdout was closed.
    """
    logs: dict[str, _Log] = {}
    try:
        if follow:
            _follow(submission, logs)
        else:
            for pod in pods_of(submission):
                if log := _log_of(submission, pod, logs):
                    log.open(follow=False)
                    _pass_on([log])
    finally:
        for log in logs.values():
            log.stop()
    if not logs:
        state = ask(submission)
        detail = f"{state.state}: {state.detail}" if state else "Kubernetes does not know it any more"
        raise VizSageError(f"job {submission.job_id} has no log: {detail}")
    if not any(log.was_read for log in logs.values()):
        raise VizSageError(f"none of the logs of job {submission.job_id} can be read")


def _follow(submission: Submission, logs: dict[str, _Log]) -> None:
    shown = waits = ""
    while True:
        next_look = time.monotonic() + _LOOK_AGAIN_S
        try:
            ended = has_ended(submission)  # asked before its pods: if it has ended, these are all of them
            pods = pods_of(submission)
        except VizSageError as error:
            if not logs and any(word in str(error) for word in _LASTING):
                raise
            if str(error) != shown:
                shown = str(error)
                _warn(f"{shown}; trying again")
        else:
            shown = ""
            for pod in pods:
                if log := _log_of(submission, pod, logs):
                    _read(log, over(pod, log.container), ended)
            there = {pod["metadata"]["uid"] for pod in pods}
            if ended and not any(log.is_open or (uid in there and not log.complete) for uid, log in logs.items()):
                return
            if not ended and not any(log.is_open for log in logs.values()):
                waits = _show_wait(submission, waits)
        _pass_on([log for log in logs.values() if log.is_open], next_look)


def _show_wait(submission: Submission, shown: str) -> str:
    """Print what a pending job waits for, unless that is `shown`, printed before. Returns the new value of `shown`."""
    try:
        state = ask(submission)
    except VizSageError:  # the next request for the job warns of it
        return shown
    if state is None or state.state != "pending":
        return ""
    reason = re.sub(r" \d+ \w+ ago", "", state.detail)  # the age of the same event changes
    if reason != shown:
        sys.stderr.write(f"jobs: job {submission.job_id} is pending: {printable(state.detail)}\n")
        sys.stderr.flush()
    return reason


def _log_of(submission: Submission, pod: Pod, logs: dict[str, _Log]) -> _Log | None:
    """The log of a pod: of its main container, or of an init container that failed; None where neither has one."""
    uid = pod["metadata"]["uid"]
    container = CONTAINER if started(pod, CONTAINER) else failed_before(pod)
    if uid not in logs and container:
        logs[uid] = _Log(kubectl_for(submission), pod, container)
    return logs.get(uid)


def _read(log: _Log, is_over: bool, job_ended: bool) -> None:
    """Start reading a log, again if needed, until it was read once completely after its container had ended."""
    if is_over and log.follows:
        log.stop()  # some streams do not end with their pod
    if log.is_last and log.failed:
        log.complete = True  # the job has ended and another try would fail too
    if log.is_open or log.complete:
        return
    in_order = is_over and not log.failed  # an earlier attempt is printed completely before the next one
    log.is_last = job_ended
    log.open(follow=not is_over)
    if in_order:
        _pass_on([log])


def _pass_on(logs: Sequence[_Log], until: float | None = None) -> None:
    """Print new lines until that time; without one, until the logs have ended. Raises BrokenPipeError."""
    poll = select.poll()
    by_number = {log.fileno(): log for log in logs}
    for number in by_number:
        poll.register(number, select.POLLIN)
    with contextlib.suppress(OSError):  # no file
        poll.register(sys.stdout.fileno(), 0)  # errors only: a closed pipe (`| head`) while nothing is printed
    while by_number or until is not None:
        left_s = None if until is None else max(0.0, until - time.monotonic())
        ready = poll.poll(None if left_s is None else left_s * 1000)
        for number, _ in ready:
            if number not in by_number:
                raise BrokenPipeError
            by_number[number].pass_on()
            if not by_number[number].is_open:
                poll.unregister(number)
                del by_number[number]
        if left_s == 0 or not ready:
            return


class _Log:
    """The log of one container, read by one kubectl at a time. No line is printed again."""

    def __init__(self, kubectl: Sequence[str], pod: Pod, container: str) -> None:
        self.name: str = pod["metadata"]["name"]
        self.container = container
        self.was_read = self.complete = False
        # Of the newest try: it printed nothing and failed; it follows; it began after the job had ended.
        self.failed = self.follows = self.is_last = False
        self._command = [*kubectl, "logs", self.name, "--container", container, "--timestamps"]
        # Lines of several nodes are mixed, so each names its pod.
        indexed = INDEX in pod["metadata"].get("labels", {})
        self._prefix = f"[pod/{self.name}/{container}] ".encode() if indexed else b""
        self._process: subprocess.Popen[bytes] | None = None
        self._came = self._has_title = False
        self._pending = b""
        self._told = ""
        # The lines of the newest second. --since-time has a resolution of seconds, so they are read again.
        self._second: datetime.datetime | None = None
        self._printed: Counter[bytes] = Counter()
        self._again: Counter[bytes] = Counter()

    @property
    def is_open(self) -> bool:
        return self._process is not None

    def fileno(self) -> int:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.fileno()

    def open(self, follow: bool) -> None:
        """Start kubectl at the second of the last printed line."""
        since = [] if self._second is None else [f"--since-time={self._second.isoformat()}"]
        command = [*self._command, *since, *(["--follow"] if follow else [])]
        self._again = self._printed.copy()
        self._pending, self.follows, self._came, self.failed = b"", follow, False, False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - closed by stop()
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self._errors, bufsize=0
        )
        if follow:  # the title at once, even if no line follows soon
            self._write([])

    def pass_on(self) -> None:
        """Print what kubectl has written; at the end, note whether it failed."""
        assert self._process is not None
        content = os.read(self.fileno(), 1 << 16)
        if content:
            self._came = self.was_read = True
            *lines, self._pending = (self._pending + content).split(b"\n")
            self._print(lines)
            return
        code = self._process.wait()
        self._errors.seek(0)
        errors = " ".join(self._errors.read().decode("utf-8", "replace").split())
        self.stop()
        if self._pending and not (code and self.follows):  # otherwise the whole line is read again
            self._print([self._pending])
        self.was_read = self.was_read or code == 0
        self.failed = code != 0 and not self._came
        if code == 0:
            self._told = ""
            self.complete = not self.follows
            self._write([])
        elif "(NotFound)" in errors and self.was_read:  # deleted, as the pods of a cancelled job are
            self.complete = True
        elif self.failed or not self.follows:  # an interrupted stream is normal
            problem = errors or f"kubectl logs ended with exit code {code}"
            if problem != self._told:
                self._told = problem
                _warn(f"the log of pod {self.name} cannot be read: {problem}")

    def stop(self) -> None:
        """End its kubectl, if one is running."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            assert self._process.stdout is not None
            self._process.stdout.close()
            self._errors.close()
            self._process = None

    def _print(self, lines: Sequence[bytes]) -> None:
        """Print lines without their time stamps, except those that were printed before."""
        new = []
        for line in lines:
            stamp = _STAMP.match(line)  # messages of the kubelet have none
            if stamp:
                if self._again[line]:
                    self._again[line] -= 1
                    continue
                zone = stamp[2].replace(b"Z", b"+00:00")
                second = datetime.datetime.fromisoformat((stamp[1] + zone).decode())
                if self._second is None or second > self._second:
                    self._second = second
                    self._printed.clear()
                if second == self._second:
                    self._printed[line] += 1
            new.append(line[stamp.end() :] if stamp else line)
        self._write(new)

    def _write(self, lines: Sequence[bytes]) -> None:
        """Write to stdout without buffering: unchanged into a file, without control characters to a terminal."""
        title = [] if self._has_title else [f"=== pod {self.name}\n".encode()]
        self._has_title = True
        content = b"".join([*title, *(self._prefix + line + b"\n" for line in lines)])
        sys.stdout.buffer.write(for_terminal(content) if sys.stdout.isatty() else content)
        sys.stdout.buffer.flush()


def _warn(problem: str) -> None:
    sys.stderr.write(f"jobs: warning: {printable(problem)}\n")
    sys.stderr.flush()
