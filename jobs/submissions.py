"""The jobs that were sent: one line per job in its run directory, and in one list of all jobs."""

from __future__ import annotations

import dataclasses
import datetime
import logging
import os
from pathlib import Path

from jobs.schedulers.registry import scheduler_named
from jobs.terminal import program
from vizsage.contract import JOBS, SUBMISSIONS, SWEEP
from vizsage.contract.submission_lines import Submission as Submission  # for the schedulers, which import it from here
from vizsage.contract.submission_lines import read_submissions
from vizsage.errors import ConfigError
from vizsage.json_lines import append_jsonl

log = logging.getLogger(__name__)

_MARKS = (".git", "pyproject.toml")


def now() -> str:
    """The current time in UTC, ISO 8601, to the second."""
    return datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")


def project() -> Path:
    """The project that commands given here belong to.

    It is the nearest folder, from the current one upwards, with a .git or a pyproject.toml; without any, the current
    folder.
    """
    here = Path.cwd()
    marked = (path for path in (here, *here.parents) if any((path / name).exists() for name in _MARKS))
    return next(marked, here)


def note(submission: Submission) -> str | None:
    """Add it to the lists of the run directory and of all jobs. Returns a text about a list that cannot be written.

    That is no error, because the job was sent.
    """
    line = dataclasses.asdict(submission) | {"project": submission.project or str(project())}
    problems = []
    for path in (submission.folder / SUBMISSIONS, list_of_all()):
        try:
            append_jsonl(path, [line])
        except OSError as error:
            problems.append(f"{path} does not list job {submission.job_id}: it cannot be written: {error.strerror}")
    return "; ".join(problems) or None


def of_run(run_dir: Path) -> list[Submission]:
    """The jobs of a run, oldest first. Empty where none was sent. Raises ConfigError for a file that is not a list."""
    run_dir = run_dir.absolute()
    there = _read(run_dir / JOBS / SUBMISSIONS)
    # A job that does not share the files of this machine may have a run directory that cannot be written here.
    known = {one.job_id for one in there}
    return there + [
        one
        for one in _read(list_of_all())
        if one.run_dir == str(run_dir) and one.job_id not in known and not scheduler_named(one.scheduler).shares_files
    ]


def find(run: str | None) -> list[Submission]:
    """The jobs of a run, oldest first.

    Args:
        run: its directory, that directory's name, or the id of one of its jobs. Where several projects have that name
            or id, it is the run of this project. None: the latest run of this project.

    Raises:
        ConfigError: there is no such run.
    """
    if run is not None and _exists(Path(run) / JOBS / SUBMISSIONS):
        return of_run(Path(run).absolute())
    everything = _read(list_of_all())
    mine = of_project(everything)
    for one in reversed(mine if run is None else [*everything, *mine]):
        if run in (None, one.run_dir, Path(one.run_dir).name, one.job_id, one.job_id.split("_")[0]) or (
            run is not None and str(Path(run).absolute()) == one.run_dir
        ):
            return of_run(Path(one.run_dir)) or [s for s in everything if s.run_dir == one.run_dir]
    if run is not None:
        raise ConfigError(f"{run}: no submitted run; name its run directory, the directory's name, or a job id")
    others = f"; the latest of all is {everything[-1].run_dir}: name it, or go to its project" if everything else ""
    raise ConfigError(f"no run was submitted from {project()} yet; see {program()} submit --help{others}")


def of_project(among: list[Submission] | None = None) -> list[Submission]:
    """The jobs that were sent from this project, oldest first. None: among all that were sent from here."""
    here = project()
    return [one for one in (_read(list_of_all()) if among is None else among) if _is_of(one, here)]


def whose(run: str | None, found: Submission) -> str:
    """The note behind a run directory: that it was chosen, or that it is of another project; often empty."""
    if run is None:
        return f" (the latest that was sent from {project()})"
    return f" (sent from {found.project})" if found.project and not _is_of(found, project()) else ""


def _is_of(one: Submission, folder: Path) -> bool:
    return one.project == str(folder) or (not one.project and folder in Path(one.run_dir).parents)


def find_to_cancel(run: str | None) -> list[Submission]:
    """The jobs to cancel: the one or the array with that id, those of a sweep by its folder, or else those of a run."""
    everything = _read(list_of_all())
    if run is not None:
        exact = [one for one in everything if one.job_id == run]
        array = [one for one in everything if one.job_id.partition("_")[0] == run]
        if exact or array:
            return exact or array
        if sweep := of_sweep(run):
            return [one for jobs in sweep for one in jobs]
    return find(run)


def of_sweep(run: str | None) -> list[list[Submission]]:
    """The jobs of each run of the sweep in the folder `run`; empty where that is not the folder of a sweep."""
    if run is None or not _exists(Path(run) / SWEEP):
        return []
    lists = sorted(Path(run).absolute().glob(f"*/{JOBS}/{SUBMISSIONS}"))
    return [jobs for path in lists if (jobs := _read(path))]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # too long for the name of a file
        return False


def list_of_all() -> Path:
    """The file with all jobs that were sent from here. Raises ConfigError without a home folder."""
    try:
        state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    except RuntimeError:
        raise ConfigError("no home folder for the list of jobs; set HOME or XDG_STATE_HOME") from None
    return Path(state) / "vizsage" / SUBMISSIONS


def _read(path: Path) -> list[Submission]:
    """The jobs in a list; a damaged line is left out, with a warning. Raises ConfigError where it is no list at all."""
    if not _exists(path):
        return []
    try:
        found = read_submissions(path)
    except OSError as error:
        raise ConfigError(f"{path}: the list of submitted jobs cannot be read: {error.strerror}") from None
    if found.damaged and not found.jobs:
        raise ConfigError(f"{path}: not a list of submitted jobs (line {found.damaged[0]} is none); move it away")
    if found.damaged:
        lines = ", ".join(map(str, found.damaged))
        log.warning("%s: damaged in line %s; a job is missing here, ask the scheduler", path, lines)
    return found.jobs
