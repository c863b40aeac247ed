"""`python -m jobs.run train|eval CONFIG [key=value ...]`: `vizsage` with one process per GPU, on one or several nodes.

The command of every job, and of the container image. `train ... --then-eval` evaluates when the training has succeeded,
on the first node and its GPUs; `eval` by itself runs on all nodes.

torch.distributed's own launcher starts and watches the processes. It is called as a library, because `torchrun` turns
every exit code into 1. Here the exit code is that of the first process that failed, or 128 + n if signal n killed it.
Signals are passed on to every process, which may take as long to end as the scheduler allows.

This module reads no scheduler's variables, only neutral ones: NNODES and NODE_RANK (defaults 1 and 0), MASTER_ADDR and
MASTER_PORT (needed for several nodes), PROCESSES_PER_NODE (default: the number of GPUs, and 1 without any). If a
scheduler sets NODE_RANK under another name, its class in jobs/schedulers/ names that variable.
"""

from __future__ import annotations

import errno
import os
import secrets
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jobs.rendezvous import Meeting, meet
from jobs.schedulers.registry import schedulers
from jobs.workers import forget_places, launch, meeting_place, open_store, worker_environments
from vizsage.contract import (
    ANSWERS_OF_ANY,
    EXIT_DONE,
    EXIT_INTERRUPTED,
    EXIT_UNKNOWN,
    EXIT_USAGE,
    JOBS,
    OUTCOME,
    RUN,
)
from vizsage.errors import ConfigError, VizSageError, missing_package, one_line, printable
from vizsage.files import expanded
from vizsage.streams import keep_streams

if TYPE_CHECKING:
    from vizsage.config import Config

USAGE = """\
usage: python -m jobs.run train CONFIG [key=value ...] [--then-eval]
       python -m jobs.run eval CONFIG [key=value ...] [--split SPLIT] [--limit N] [--base | --adapter DIR] [--blind]
                                                          [--other-data]

Runs `vizsage train` or `vizsage eval` with one process per GPU, and returns its exit code: 0 done, 2 wrong command or
configuration, 3 unusable data, 4 a failure that will repeat, 75 interrupted with what was done safe on disk (the same
command continues), others unknown. SIGTERM saves a checkpoint first, or the answers so far.

  CONFIG       a YAML file, see config/, or the folder of a run; key=value overrides a setting of it
  --then-eval  evaluate on the first node, with all its GPUs, when the training has succeeded

Several nodes: NNODES, NODE_RANK, MASTER_ADDR and MASTER_PORT in the environment. PROCESSES_PER_NODE: instead of the
number of GPUs. `vizsage` itself (check, predict, config, demo) is installed beside this command.

examples:
  python -m jobs.run train my.yaml --then-eval  # all GPUs of this machine
  PROCESSES_PER_NODE=1 python -m jobs.run eval outputs/run --blind
  NNODES=2 NODE_RANK=0 MASTER_ADDR=node-a MASTER_PORT=29500 python -m jobs.run train my.yaml"""
SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2")
# Shared storage may show a file that another node has written only after some time.
_OUTCOME_S = 120.0
# Options of `vizsage eval` whose value is the next word, which may contain a =.
_VALUED = ("--split", "--limit", "--adapter")
_GROUP = ("NNODES", "NODE_RANK")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one attempt; return an exit code of the contract, or 1 for an interruption without a step forward.

    If EXIT_CODES_DIR is set, the code is also written into a file in that folder, named by the node's number.
    """
    received: list[int] = []
    for name in SIGNALS:  # before torch is imported, which takes seconds: a signal during that time must not be lost
        if name == "SIGHUP" and signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
            continue  # nohup
        signal.signal(getattr(signal, name), lambda number, frame: received.append(number))
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] in (["--help"], ["-h"]):
        sys.stdout.write(f"{USAGE}\n")
        return EXIT_DONE
    for variable in [one.node_rank_variable for one in schedulers() if one.node_rank_variable in os.environ]:
        os.environ.setdefault("NODE_RANK", os.environ[variable])
    try:
        code = _attempt(arguments, received)
    except ModuleNotFoundError as error:
        if (missing := missing_package(error)) is None:
            raise
        code = _say(str(missing), missing.exit_code)
    if folder := os.environ.get("EXIT_CODES_DIR"):
        try:
            Path(folder).mkdir(parents=True, exist_ok=True)
            Path(folder, os.environ.get("NODE_RANK", "0")).write_text(f"{code}\n")
        except OSError as error:
            _say(f"{folder}: cannot be written: {error.strerror}", code)
    return code


def _attempt(arguments: list[str], received: list[int]) -> int:
    from vizsage.config import load_config  # now, because a Python that lacks its packages is told so in one line

    then_eval = "--then-eval" in arguments
    arguments = [word for word in arguments if word != "--then-eval"]
    try:
        if len(arguments) < 2 or arguments[0] not in ("train", "eval"):
            raise ConfigError("usage: python -m jobs.run train|eval CONFIG [key=value ...]; see --help")
        if "--fresh" in arguments:
            raise ConfigError(
                "--fresh: each attempt would begin from the start, and none might reach the end; leave it out here"
            )
        command, config = arguments[0], _path(arguments[1])
        if then_eval and command != "train":
            raise ConfigError("--then-eval follows a training")
        settings = load_config(config, _overrides(arguments[2:]))
        if then_eval and not settings.resume:
            raise ConfigError(
                "--then-eval with resume: false: after an interruption of the evaluation, the training would begin "
                "from the start; run the evaluation by itself"
            )
        environments = worker_environments(os.environ, _processes())
        forget_places(os.environ)
    except VizSageError as error:
        return _say(str(error), error.exit_code)
    marks = _marks("train", settings.output_dir)
    code = _command(command, arguments[1:], settings, environments, received)
    if code != EXIT_DONE or not then_eval or environments[0].get("GROUP_RANK", "0") != "0":
        return code
    if received:  # a signal that came too late to stop the training must still stop this job
        return _say(
            f"{settings.output_dir}: interrupted between training and evaluation",
            EXIT_INTERRUPTED if _marks("train", settings.output_dir) != marks else EXIT_UNKNOWN,
        )
    alone = {name: text for name, text in os.environ.items() if name not in _GROUP}  # the other nodes have ended
    return _command("eval", arguments[1:], settings, worker_environments(alone, len(environments)), received)


def _command(
    command: str, arguments: list[str], settings: Config, environments: list[dict[str, str]], received: list[int]
) -> int:
    """Run `vizsage COMMAND ARGUMENTS` in one process per environment. Returns the exit code as `main` does."""
    output_dir = settings.output_dir
    marks = _marks(command, output_dir)
    group = environments[0]
    node, nodes = int(group.get("GROUP_RANK", "0")), int(group.get("WORLD_SIZE", "1")) // len(environments)
    stores: list[Any] = []  # kept until the processes have ended, which need it
    # A training that is done must not wait for the other nodes: they may have ended for good.
    if "WORLD_SIZE" in group and not (nodes > 1 and command == "train" and _is_done(settings)):
        try:
            meeting = _meeting(node, nodes, group, received, output_dir, stores)
        except OSError as error:
            code = EXIT_USAGE if isinstance(error, (PermissionError, NotADirectoryError)) else EXIT_UNKNOWN
            return _say(f"{output_dir}: the nodes cannot connect to each other: {error}", code)
        if meeting is None:
            return _say(f"{output_dir}: interrupted before all nodes had started: a failure", EXIT_UNKNOWN)
        environments = [one | meeting_place(*meeting) for one in environments]
    code = launch([sys.executable, "-u", "-m", "vizsage", command, *arguments], environments, received)
    stores.clear()
    if code and node > 0:  # only the first node's processes log
        _say(f"node {node} ended with exit code {code}", code)
    if code > 128 and command == "train" and _marks(command, output_dir) != marks:
        # Killed after its end: outcome.json, the last file that an attempt writes, has the exit code.
        code = _outcome(output_dir, code)
    if code == EXIT_INTERRUPTED and not _went_forward(command, output_dir, marks, nodes):
        # Schedulers repeat interrupted jobs without a limit: one that makes no progress would never end.
        return _say(f"{output_dir}: interrupted before the first step of this attempt: a failure", EXIT_UNKNOWN)
    if code == EXIT_DONE and command == "train" and node > 0:
        # The first node is still saving the adapter. If it fails now, the next attempt needs this node, which must not
        # have reported success. (The processes of an evaluation end when the first one has written the results.)
        waited = time.monotonic() + _OUTCOME_S
        while (code := _outcome(output_dir, EXIT_UNKNOWN)) != EXIT_DONE and time.monotonic() < waited and not received:
            time.sleep(0.5)
        if code != EXIT_DONE:
            return _say(f"{output_dir}: trained, but the first node has not said that the run is done", EXIT_UNKNOWN)
    return code


def _path(text: str) -> Path:
    try:
        return Path(expanded(text))
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _meeting(
    node: int, nodes: int, group: Mapping[str, str], received: Sequence[int], output_dir: Path, stores: list[Any]
) -> Meeting | None:
    """Where the processes of all nodes meet, once all nodes have started; None after a signal.

    The store that the first node opens is appended to `stores`. Raises OSError, see `meet`.
    """
    # Imported now, because it takes seconds: after the rendezvous the nodes must start at the same time.
    import torch.distributed.elastic.multiprocessing  # noqa: F401

    def opened() -> int:
        stores.append(open_store(everywhere=nodes > 1))
        return int(stores[0].port)

    if nodes == 1:
        return Meeting(opened(), secrets.token_hex(32))
    address, port = group["MASTER_ADDR"], int(group["MASTER_PORT"])
    try:
        return meet(node, nodes, address, port, received, folder=output_dir / JOBS, open_store=opened)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise OSError(
                f"MASTER_PORT: another program listens at port {port} of this host; name a free one"
            ) from None
        raise


def _overrides(words: Sequence[str]) -> list[str]:
    """Those of the words after the file of settings that override a setting."""
    behind = zip(["", *words], words, strict=False)
    return [word for before, word in behind if "=" in word and word[0] != "-" and before not in _VALUED]


def _processes() -> int:
    """The number of processes on this node."""
    text = os.environ.get("PROCESSES_PER_NODE", "")
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise ConfigError(f"PROCESSES_PER_NODE: expected a number of 1 or more, found {text!r}")
        return int(text)
    import torch

    return max(1, torch.cuda.device_count())


def _marks(command: str, output_dir: Path) -> Any:
    """The state of the files that progress changes: the last one that an attempt writes, or those of answers."""
    names = OUTCOME if command == "train" else ANSWERS_OF_ANY
    found = {path: path.stat() for path in output_dir.glob(names)}
    return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}


def _went_forward(command: str, output_dir: Path, before: Any, nodes: int) -> bool:
    """Whether the attempt that has just ended did a step. All nodes read the same files, so they agree."""
    training = command == "train"
    waited = time.monotonic() + (_OUTCOME_S if training or nodes > 1 else 0.0)
    while _marks(command, output_dir) == before or (training and not (output_dir / OUTCOME).exists()):
        if time.monotonic() > waited:
            return False
        time.sleep(0.5)
    if not training:
        return True
    from vizsage.contract.run_files import read_run

    try:
        return read_run(output_dir).last_attempt.went_forward
    except (OSError, ValueError) as error:
        _say(f"{output_dir / RUN}: does not say how far this attempt came: {one_line(error)}", EXIT_UNKNOWN)
        return False


def _is_done(settings: Config) -> bool:
    """Whether `vizsage train` will find nothing to do."""
    from vizsage.contract.run_files import adapter_is_there, read_run

    there = adapter_is_there(settings.adapter_dir if settings.save_model else None)
    if not (settings.resume and there and _outcome(settings.output_dir, EXIT_UNKNOWN) == EXIT_DONE):
        return False
    try:  # with more steps than the run has done, it goes on, which needs all nodes
        return read_run(settings.output_dir).has_length_of(settings.model_dump(mode="json"))
    except (OSError, ValueError):
        return True  # `vizsage train` names what is wrong with the file


def _outcome(output_dir: Path, otherwise: int) -> int:
    """The exit code in outcome.json; `otherwise` where there is none: the attempt has begun, and not ended."""
    from vizsage.contract.run_files import last_outcome

    try:
        outcome = last_outcome(output_dir)
    except OSError:
        return otherwise
    return outcome.exit_code if outcome else otherwise


def _say(message: str, code: int) -> int:
    sys.stderr.write(f"jobs.run: {printable(message)}\n")
    return code


if __name__ == "__main__":
    keep_streams(product=False)
    ended = main()
    for each in SIGNALS:  # a signal while Python shuts down must not change the exit code
        signal.signal(getattr(signal, each), signal.SIG_IGN)
    sys.exit(ended)
