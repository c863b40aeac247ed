"""Calling kubectl: for which cluster and namespace, and what its errors mean."""

from __future__ import annotations

import functools
import json
import re
import subprocess
from typing import Any

from jobs.submissions import Submission
from jobs.terminal import program
from vizsage.errors import ConfigError, VizSageError

# kubectl's log lines for its developers: E1124 12:00:00.000000 ...
_KLOG = re.compile(r"[EWI]\d{4} ")
# The server, or kubectl before it sent anything, refused: the request was not carried out and will not be.
_REFUSED = re.compile(
    r"\((Forbidden|NotFound|Invalid|BadRequest|Unauthorized|MethodNotAllowed|RequestEntityTooLarge)\)|"
    r"no matches for kind|\bis invalid: |denied the request|error validating|must pass '--namespace"
)
_SILENCE = re.compile(
    r"unable to connect|refused|timeout|timed out|no such host|no route to host|unreachable|reset by peer|\bEOF\b|"
    r"TLS handshake|ServiceUnavailable|TooManyRequests|InternalError|getting credentials|connection lost|broken pipe|"
    r"stream error|deadline exceeded|request canceled|etcdserver|rpc error",
    re.IGNORECASE,
)
# Errors that another try does not change.
_LASTING = re.compile(r"\((Forbidden|Unauthorized)\)|does not exist|doesn't have a resource type")
# kubectl's text before the server's message about an object from standard input.
_AROUND = re.compile(r'error when (?:retrieving current configuration of:.*?from server for|creating): "STDIN": ')
# kubectl's own limit is a minute.
_PATIENCE_S = 90


def run(command: list[str], given: str | None = None) -> subprocess.CompletedProcess[str]:
    """Run kubectl with `given` as its input. The caller checks the exit code. Raises ConfigError without kubectl."""
    try:
        command = [*command, "--request-timeout=60s"]
        # Not this terminal's input: a kubectl that asks for a password would wait without an end.
        given = given or ""
        return subprocess.run(command, input=given, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except FileNotFoundError:
        raise ConfigError("kubectl is not here; install it, and give it access to the cluster") from None
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", f"timed out after {_PATIENCE_S} seconds")


def kubectl(context: str, namespace: str | None) -> list[str]:
    """The first words of a command for that context and namespace."""
    where = ["--context", context] if context else []
    return ["kubectl", *where, *(["--namespace", namespace] if namespace else [])]


def kubectl_for(submission: Submission) -> list[str]:
    """The kubectl command for the cluster and namespace that the job was sent to, whatever the current context is."""
    return kubectl(submission.context, submission.namespace)


def config(*words: str) -> str:
    """The output of `kubectl config`; empty inside a pod, where there is no configuration."""
    done = run(["kubectl", "config", *words])
    return "" if done.returncode else done.stdout.strip()


@functools.cache
def server_of(context: str) -> str:
    """The address of a context's server. Contexts of different clusters may have the same name."""
    where = ["--context", context] if context else []
    return config("view", "--minify", *where, "-o", "jsonpath={.clusters[0].cluster.server}")


def get(submission: Submission, *words: str) -> dict[str, Any] | None:
    """The output of `kubectl get KIND NAME` or `get KIND -l LABELS`; None where the named object does not exist.

    Raises VizSageError without an answer, and where the context is now one of another cluster.
    """
    if submission.server and (server := server_of(submission.context)) != submission.server:
        raise VizSageError(
            f"Kubernetes does not answer for job {submission.job_id}: it was sent to {submission.server}, and the "
            f"context {submission.context!r} of kubectl leads to {server or 'no cluster'} now; set KUBECONFIG to the "
            f"file that was used then, or, if that cluster is gone, {forget(submission)}"
        )
    done = run([*kubectl_for(submission), "get", *words, "-o", "json"])
    if done.returncode:
        # Only the server's answer about this object counts: plugins, contexts and paths may be "not found" too.
        names = "|".join(re.escape(name) for name in (words[1], submission.namespace))
        if len(words) == 2 and re.search(rf'\(NotFound\): \S+ "({names})" not found', done.stderr):
            return None
        said = " ".join(done.stderr.split())
        way_out = f"; if the job is known to be gone, {forget(submission)}" if _LASTING.search(said) else ""
        raise VizSageError(f"Kubernetes does not answer for job {submission.job_id}: {said}{way_out}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def forget(submission: Submission) -> str:
    """The command for a job whose cluster will never answer again."""
    return f"{program()} cancel --forget {submission.job_id}"


def is_refusal(done: subprocess.CompletedProcess[str]) -> bool:
    """Whether a kubectl that failed was refused, so that its request was not carried out."""
    return bool(_REFUSED.search(done.stderr))


def refusal(what: str, done: subprocess.CompletedProcess[str]) -> VizSageError:
    """The error for a kubectl that failed: VizSageError where there was no answer, else ConfigError."""
    lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    said = "; ".join(line for line in lines if not _KLOG.match(line)) or "; ".join(lines)
    silent = not is_refusal(done) and _SILENCE.search(re.sub(r"[?&]timeout=\S+", "", said))
    kind = VizSageError if silent else ConfigError
    said = _AROUND.sub("", said)
    return kind(f"kubectl {what}: {said or f'ended with exit code {done.returncode}'}")
