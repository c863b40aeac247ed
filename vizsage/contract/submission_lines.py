"""submissions.jsonl: the jobs that were sent to a scheduler, one per line; written by the launchers.

The class needs the standard library only; its reader needs pydantic.
"""

from __future__ import annotations

import datetime
import functools
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vizsage.contract import JOBS
from vizsage.files import parse_json

if TYPE_CHECKING:
    from pydantic import TypeAdapter


@dataclass(frozen=True)
class Submission:
    """One job. Paths are absolute.

    Attributes:
        kind: what it runs: train or eval.
        scheduler: the name of the scheduler that has it.
        submitted: UTC, ISO 8601.
        log: a file, or the command that prints the log.
        script: what was handed to the scheduler.
        config: the file with the settings at that time.
        context, namespace, resource, server: where the job is, for a scheduler that is reached through a server.
        user: numeric id of who sent it.
        given_up: the time from which on the scheduler is not asked any more.
        project: the folder that it was sent from.
        cluster: of several clusters the one that took it.
    """

    job_id: str
    kind: str
    scheduler: str
    submitted: str
    run_dir: str
    log: str
    script: str
    config: str
    context: str = ""
    namespace: str = ""
    resource: str = ""
    server: str = ""
    user: str = ""
    given_up: str = ""
    project: str = ""
    cluster: str = ""

    @property
    def folder(self) -> Path:
        """Where the job keeps its files."""
        return Path(self.run_dir) / JOBS


@dataclass(frozen=True)
class SubmissionsFile:
    """The jobs in a submissions.jsonl, and the numbers of its lines that describe none."""

    jobs: list[Submission]
    damaged: list[int]


def read_submissions(path: Path) -> SubmissionsFile:
    """Read a submissions.jsonl, oldest job first. A later line on the same job replaces an earlier one.

    Raises OSError.
    """
    sent: dict[tuple[str, str], Submission] = {}
    damaged = []
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            one = _submission(parse_json(line))
        except ValueError:
            damaged.append(number)
        else:
            sent[one.job_id, one.submitted] = one
    return SubmissionsFile([*sent.values()], damaged)


def _submission(value: Any) -> Submission:
    """Raises ValueError where `value` is no job; keys of later versions are left out."""
    if not isinstance(value, dict):
        raise ValueError("expected an object")
    known = {field.name for field in fields(Submission)}
    one = adapter().validate_python({key: part for key, part in value.items() if key in known})
    datetime.datetime.fromisoformat(one.submitted)
    return one


@functools.cache
def adapter() -> TypeAdapter[Submission]:
    """What checks a line and describes it as a JSON Schema."""
    from pydantic import TypeAdapter

    return TypeAdapter(Submission)
