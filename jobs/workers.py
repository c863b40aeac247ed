"""The processes of this node: what they find in their environment, the store they meet at, and their launcher."""

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
from vizsage.errors import LAUNCHER, ConfigError

LOOPBACK = "127.0.0.1"
# The scheduler ends the job when its own patience ends.
_GRACE_S = 24 * 3600
# What torchrun, accelerate and MPI tell processes of their place among others. What comes from outside is not the place
# of the processes that are started here.
_PLACES = [
    *"RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE GROUP_RANK GROUP_WORLD_SIZE ROLE_RANK ROLE_NAME ROLE_WORLD_SIZE "
    "MASTER_ADDR MASTER_PORT PMI_RANK PMI_SIZE MPI_LOCALRANKID MPI_LOCALNRANKS VIZSAGE_SECRET".split(),
    LAUNCHER,
]
_PLACES_BEGIN = ("TORCHELASTIC_", "OMPI_COMM_WORLD_", "MV2_COMM_WORLD_")


def forget_places(environment: MutableMapping[str, str]) -> None:
    """Take out of `environment` what would tell a process started from here that it is one of others."""
    for name in [name for name in environment if name in _PLACES or name.startswith(_PLACES_BEGIN)]:
        del environment[name]


def worker_environments(given: Mapping[str, str], processes: int) -> list[dict[str, str]]:
    """What each process of this node finds in its environment; one process in all needs nothing and joins nobody.

    Raises ConfigError where the variables do not describe a node of a group.
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
        # Nobody else has to reach these processes. What they tell each other through gloo and NCCL is not signed.
        common["MASTER_ADDR"] = LOOPBACK
        common |= {name: "lo" for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if name not in given}
    if "OMP_NUM_THREADS" not in given:  # all processes together take the cores that this node lends
        common["OMP_NUM_THREADS"] = str(max(1, len(os.sched_getaffinity(0)) // processes))
    return [{**common, "RANK": str(node * processes + i), "LOCAL_RANK": str(i)} for i in range(processes)]


def meeting_place(port: int, secret: str) -> dict[str, str]:
    """What tells the processes where the launcher's store is, and the secret by which they recognise each other."""
    return {"MASTER_PORT": str(port), "VIZSAGE_SECRET": secret, "TORCHELASTIC_USE_AGENT_STORE": "True"}


def open_store(*, everywhere: bool) -> Any:
    """A store for the processes, at a free port, which is its `port`: on this host's loopback, or `everywhere`.

    It is the launcher's, so that no other program can take the port between its choice and its use.
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
    """Run `command` once for each environment and return the first failing process's exit code, or 0.

    Signals that lie in `received`, or come to lie there, are passed on, and stay there. How long the processes may take
    to answer is the scheduler's to say: this launcher must not be the one that cuts a checkpoint short.
    """
    import logging

    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, start_processes

    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)  # vizsage says what happened, in a line
    # torch's own handlers would raise an exception wherever the launcher is, and tell no exit codes afterwards.
    os.environ["TORCHELASTIC_SIGNALS_TO_HANDLE"] = ""
    with tempfile.TemporaryDirectory(prefix="jobs-run-") as logs:
        processes = start_processes(
            name="vizsage",
            entrypoint=command[0],
            args={rank: tuple(command[1:]) for rank in range(len(environments))},
            envs={i: one | {LAUNCHER: str(os.getpid())} for i, one in enumerate(environments)},
            logs_specs=DefaultLogsSpecs(log_dir=logs),
        )
        close = processes.close
        result, passed_on = None, 0
        while result is None:
            while passed_on < len(received):
                number = received[passed_on]
                passed_on += 1
                # The first to end must not have torch kill the others, 30 seconds later, while they write.
                processes.close = functools.partial(close, timeout=_GRACE_S)  # type: ignore[method-assign]
                for pid in processes.pids().values():  # each leads a process group of its own
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(pid, _asking_to_stop(number))
            result = processes.wait(timeout=0.2, period=0.1)
    failures = sorted(result.failures.values(), key=lambda failure: failure.timestamp)
    codes = [failure.exitcode if failure.exitcode >= 0 else 128 - failure.exitcode for failure in failures]
    # Times are whole seconds: of failures in one of them, the one that tells most.
    return int(next((code for code in codes if code in EXITS_WITH_CAUSE), codes[0] if codes else 0))


def _asking_to_stop(number: int) -> int:
    """SIGHUP and SIGQUIT would end the training on the spot."""
    return signal.SIGTERM if number in (signal.SIGHUP, signal.SIGQUIT) else number
