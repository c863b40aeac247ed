"""What the launchers ask of a scheduler. A class that answers it is added by one line of registry.py.

Importing a scheduler's class must be quick: `python -m jobs` does so to know its options. Libraries are imported in
its methods.
"""

from __future__ import annotations

import argparse
from abc import abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Generic, NamedTuple, Protocol, TypeVar

from vizsage.files import expanded

if TYPE_CHECKING:
    from jobs.spec import Work
    from jobs.submissions import Submission

Prepared = TypeVar("Prepared")

ACTIVE = ("pending", "running", "ending")
"""States in which a job may still write into its run directory."""
LOST = "lost"
"""State of a job that does not run and goes on with the next submission: the same one replaces it, cancel ends it."""


def path_or_name(text: str) -> str:
    """The value of an option that is a path or a name, with `~` expanded. Raises argparse.ArgumentTypeError."""
    try:
        return expanded(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


@dataclass(frozen=True)
class Option:
    """An option of `submit` and `sweep` that only some schedulers have. Several may declare one that is equal.

    Attributes:
        name: as it is written, `--profile`.
        convert: makes the value of the text, as argparse's `type`.
        expected: what a value has to be; None: any will do. The message names it where `is_valid` refuses a value.
        names: the values that a shell offers, where these are names; files are offered beside them.
    """

    name: str
    metavar: str
    help: str
    convert: Callable[[str], Any] = str
    expected: str | None = None
    is_valid: Callable[[Any], bool] = bool
    names: Callable[[], Collection[str]] = tuple

    @property
    def key(self) -> str:
        """Its key in `JobOptions.own`."""
        return self.name.lstrip("-").replace("-", "_")


@dataclass(frozen=True)
class JobOptions:
    """What the command line asks for. None: as the scheduler, or its configuration, has it.

    Attributes:
        label: the name of the run directory, or of the folder of a sweep's runs: a user recognises the job by it.
        time: a time limit, see jobs.time_limit.
        then_eval: evaluate when the training has succeeded.
        is_sweep: whether the works are those of `sweep`.
        own: the scheduler's own options by their `key`; None where one was not given.
    """

    label: str
    nodes: int | None = None
    gpus_per_node: int | None = None
    time: str | None = None
    then_eval: bool = False
    is_sweep: bool = False
    own: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Job(Generic[Prepared]):
    """What a scheduler gets at once: one work, or several that it takes or refuses together (a job array).

    Attributes:
        prepared: what the scheduler needs besides the works to send it: resources or a manifest.
        after: the training whose success it waits for; that one is sent in an earlier job.
    """

    works: tuple[Work, ...]
    prepared: Prepared
    after: Work | None = None


class JobStatus(NamedTuple):
    """What a scheduler reports about a job.

    Attributes:
        state: pending, running, ending, completed, cancelled, interrupted, failed, LOST, or the scheduler's own word.
        detail: the reason, in the scheduler's words.
        words: the end of the log of what failed, for a scheduler whose logs are no files here.
    """

    state: str
    detail: str
    words: str = ""


class Scheduler(Protocol[Prepared]):
    """A place that runs jobs.

    A job's script may leave three files in the folder `jobs` of the run directory. They describe jobs that the
    scheduler has forgotten: `ID.end` (exit code of the newest attempt and RUNNING, or another word where the job was
    being stopped from outside), `ID.failures` (how many attempts have failed) and `ID_0_log.out` or another name, the
    log.

    Attributes:
        name: on the command line and in submissions.jsonl.
        title: in messages.
        options: those that only some schedulers have.
        example: options behind `submit NAME train my.yaml` in the examples of the help.
        time_limit: what --time limits, for its help: `of one attempt`.
        timed_out: the detail of a job that its time limit ended, if there is one detail that says so. The same
            submission continues such a job.
        shares_files: whether jobs see the run directory under the path that it has here. If not, jobs are also looked
            up in the list of all submissions, and steps and errors are asked of the scheduler.
        own_lines: a regular expression for the beginning of lines that the scheduler writes into logs and that are no
            error of the run.
        pattern_characters: characters that it would replace in the path of a log. No run directory may have them,
            because a run may be sent to another scheduler later.
        node_rank_variable: the environment variable with the number of a process's node within a job, where the
            job's script cannot set NODE_RANK.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    options: ClassVar[tuple[Option, ...]] = ()
    example: ClassVar[str] = ""
    time_limit: ClassVar[str] = "of the job"
    timed_out: ClassVar[str | None] = None
    shares_files: ClassVar[bool] = True
    own_lines: ClassVar[str] = ""
    pattern_characters: ClassVar[str] = ""
    node_rank_variable: ClassVar[str] = ""

    @abstractmethod
    def prepare(self, works: Sequence[Work], options: JobOptions) -> list[Job[Prepared]]:
        """The jobs for `works`, in the order in which they are to be sent. Nothing is sent or written.

        `works` is one, or the trainings of a sweep. With `then_eval`, an evaluation is part of a training's job, or a
        separate job `after` the training.

        Raises:
            ConfigError: what is asked for is not possible here.
        """

    @abstractmethod
    def render(self, jobs: Sequence[Job[Prepared]]) -> str:
        """What would be sent, for --dry-run: scripts or manifests, without secrets. Needs no scheduler."""

    @abstractmethod
    def submit(self, job: Job[Prepared], after: Submission | None = None) -> list[Submission]:
        """Send a job; one submission per work, in their order. The caller notes them.

        A job of which it is unknown whether the scheduler has it is noted here before the error is raised.

        Args:
            job: one of those that `prepare` returned.
            after: the submission of `job.after`.

        Raises:
            ConfigError: the scheduler is not here or refuses the job; nothing of it is left.
            VizSageError: the scheduler does not answer.
        """

    @abstractmethod
    def ask(self, submission: Submission) -> JobStatus | None:
        """How a job is; None where the scheduler has forgotten it.

        Raises:
            VizSageError: the scheduler does not answer: the state of the job is unknown.
        """

    @abstractmethod
    def cancel(self, submission: Submission) -> None:
        """SIGTERM to the job, which saves a checkpoint and ends. Does not wait for that.

        Raises:
            VizSageError: the scheduler does not do it.
        """

    @abstractmethod
    def logs(self, submissions: Sequence[Submission], follow: bool, begin: Callable[[], None]) -> None:
        """Print the log of the newest of `submissions` that has one to stdout. Log files: see jobs.log_files.

        Args:
            submissions: the jobs of one run, oldest first. The last one is a job of this scheduler.
            follow: go on until the job has ended or Ctrl-C.
            begin: is to be called once, before the first line and after errors that can be raised before it. It prints
                on stderr which run the log is of.

        Raises:
            ConfigError: there is no log yet.
            VizSageError: the log cannot be read.
        """

    def step(self, submission: Submission) -> int | None:
        """The newest optimizer step, for a run directory whose files do not contain it; None where it is unknown."""
        return None
