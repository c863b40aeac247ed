"""The processes of this node: their environment variables, the store that connects them, and their launcher."""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import socket
import tempfile
from collections.abc import Mapping, MutableMapping
from typing import Any

from vizsage.contract import EXITS_WITH_CAUSE
from vizsage.errors import CALLED_AS, LAUNCHER, ConfigError

LOOPBACK = "127.0.0.1"
# How long processes may take to end after a signal: longer than any scheduler waits.
_GRACE_S = 24 * 3600
# By these variables torchrun, accelerate and MPI give a process its rank in a group. Those that this launcher was given
# are not about the processes that it starts.
_PLACES = [
    *"RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE ROLE_RANK ROLE_NAME ROLE_WORLD_SIZE "
    "MASTER_ADDR MASTER_PORT PMI_RANK PMI_SIZE MPI_LOCALRANKID MPI_LOCALNRANKS VIZSAGE_SECRET".split(),
    LAUNCHER,
]
_PLACES_BEGIN = ("TORCHELASTIC_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")


def forget_places(environment: MutableMapping[str, str]) -> None:
    """Delete the variables that would make a process started from here take itself for one of another group."""
    for name in [name for name in environment if name in _PLACES or name.startswith(_PLACES_BEGIN)]:
        del environment[name]


def worker_environments(given: Mapping[str, str], processes: int) -> list[dict[str, str]]:
    """The variables for each process of this node. A process without any peer gets none and joins no group.

    Args:
        given: the variables of this launcher.
        processes: how many to start on this node.

    Raises:
        ConfigError: the variables do not describe a node of a group.
    """
    try:
        nodes, node = int(given.get("NNODES", "1")), int(given.get("NODE_RANK", "0"))
    except ValueError:
        raise ConfigError("NNODES and NODE_RANK: expected whole numbers") from None
    if not 0 <= node < nodes:
        raise ConfigError(f"NODE_RANK: expected 0 to {nodes - 1} with NNODES {nodes}, found {node}")
    world = nodes * processes
    if world == 1:
        return [{}]
    address, port = given.get("MASTER_ADDR", ""), given.get("MASTER_PORT", "")
    if nodes > 1 and not (address and port.isdecimal() and 0 < int(port) < 65536):
        raise ConfigError("MASTER_ADDR and MASTER_PORT: several nodes need the first one's name and a free port of it")
    common = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(processes), "GROUP_RANK": str(node)}
    if nodes > 1:
        common |= {"MASTER_ADDR": address, "MASTER_PORT": port}
    else:
        # Only processes of this host need to be reached, and messages through gloo and NCCL are not authenticated.
        common["MASTER_ADDR"] = LOOPBACK
        common |= {name: "lo" for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if name not in given}
    if "OMP_NUM_THREADS" not in given:  # the processes share the cores that this job may use
        common["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // processes))
    return [{**common, "RANK": str(node * processes + i), "LOCAL_RANK": str(i)} for i in range(processes)]


def meeting_place(port: int, secret: str) -> dict[str, str]:
    """Variables with the port of the launcher's store and the secret by which the processes authenticate each other."""
    return {"MASTER_PORT": str(port), "VIZSAGE_SECRET": secret, "TORCHELASTIC_USE_AGENT_STORE": "True"}


def open_store(*, everywhere: bool) -> Any:
    """A store for the processes at a free port of the loopback interface, or with `everywhere` of all interfaces.

    The launcher opens it, because another program could take the port between its choice and its use by the processes.
    """
    from torch import distributed

    dual = everywhere and socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if dual else socket.AF_INET
    server = socket.create_server(("" if everywhere else LOOPBACK, 0), family=family, dualstack_ipv6=dual)
    port = server.getsockname()[1]
    return distributed.TCPStore(  # type: ignore[attr-defined]
        LOOPBACK, port, is_master=True, wait_for_workers=False, master_listen_fd=server.detach()
    )


def launch(command: list[str], environments: list[dict[str, str]], received: list[int]) -> int:
    """Run `command` once per environment.

    There is no time limit after a signal: only the scheduler may end a process that is writing a checkpoint.

    Args:
        command: program and arguments.
        environments: additional variables of each process.
        received: the numbers of the signals that this launcher got; the handlers append to it. Each is passed on.

    Returns:
        The exit code of the first process that failed, or 0.
    """
    import logging

    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

    logging.getLogger("torch.distributed.elastic").setLevel(
        logging.CRITICAL
    )  # vizsage reports what happened in one line
    # torch's own handlers would raise an exception anywhere in the launcher, and exit codes would be lost.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""
    own = {LAUNCHER: str(os.getpid()), CALLED_AS: "python -m jobs.run"}
    with tempfile.TemporaryDirectory(prefix="jobs-run-") as logs:
        processes = start_processes(
            name="vizsage",
            entrypoint=command[0],
            args={rank: tuple(command[1:]) for rank in range(len(environments))},
            envs={i: one | own for i, one in enumerate(environments)},
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        close = processes.close
        result, passed_on = None, 0
        while result is None:
            while passed_on < len(received):
                number = received[passed_on]
                passed_on += 1
                # Without this, torch would kill the others 30 seconds after the first has ended, while they write.
                processes.close = functools.partial(close, timeout=_GRACE_S)  # type: ignore[method-assign]
                for pid in processes.pids().values():  # each leads a separate process group
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, _asking_to_stop(number))
            result = processes.wait(timeout=0.2, period=0.1)
    failures = sorted(result.failures.values(), key=lambda failure: failure.timestamp)
    codes = [failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode for failure in failures]
    # Times are in whole seconds: of the failures in the same second, prefer a code that names a cause.
    return int(next((code for code in codes if code in EXITS_WITH_CAUSE), codes[0] if codes else 0))


def _asking_to_stop(number: int) -> int:
    """SIGTERM instead of SIGHUP and SIGQUIT, which would end a training without a checkpoint."""
    return signal.SIGTERM if number in (signal.SIGHUP, signal.SIGQUIT) else number
