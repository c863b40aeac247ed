"""Nodes wait for each other before their processes start: for as long as it takes, and a signal ends it.

torch's own rendezvous gives up after minutes and hears no signal meanwhile. On a cluster without gang scheduling one
node may be there hours before the next. The first node listens where torch will listen afterwards.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import sys
import time
from collections.abc import Sequence

_HELLO = re.compile(rb"vizsage node (\d+) of (\S+)\n")
_GO = b"go\n"
_LOOK_AGAIN_S = 0.5
_ANSWER_S = 2.0
_TELL_EVERY_S = 300.0


def meet(node: int, nodes: int, address: str, port: int, received: Sequence[int]) -> bool:
    """Return True when all nodes are there, False when a signal came to lie in `received` before that.

    Raises OSError where the first node cannot listen at the port.
    """
    return (
        _wait_for_others(nodes, address, port, received)
        if node == 0
        else _wait_for_first(node, address, port, received)
    )


def _wait_for_others(nodes: int, address: str, port: int, received: Sequence[int]) -> bool:
    everywhere = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    there: dict[int, socket.socket] = {}
    told = time.monotonic()
    with contextlib.ExitStack() as stack:
        dual = everywhere == socket.AF_INET6
        server = stack.enter_context(socket.create_server(("", port), family=everywhere, dualstack_ipv6=dual))
        stack.callback(lambda: [*map(socket.socket.close, there.values())])
        while True:
            if received:
                return False
            complete = len(there) == nodes - 1
            ready, _, _ = select.select([server, *there.values()], [], [], 0 if complete else _LOOK_AGAIN_S)
            if complete and not ready:  # all are there, and none has gone meanwhile
                break
            for gone in [number for number, one in there.items() if one in ready]:
                there.pop(gone).close()  # it says nothing until it is told to go: its end is gone
            if server in ready:
                connection, _ = server.accept()
                number = _greeted(connection, address)
                if number is None or not 0 < number < nodes:
                    connection.close()
                else:
                    if number in there:
                        there[number].close()
                    there[number] = connection
            if time.monotonic() > told + _TELL_EVERY_S:
                told = time.monotonic()
                missing = ", ".join(str(number) for number in range(1, nodes) if number not in there)
                sys.stderr.write(f"jobs.run: waiting for node {missing} of {nodes}\n")
        for connection in there.values():
            with contextlib.suppress(OSError):
                connection.settimeout(_ANSWER_S)
                connection.sendall(_GO)
                connection.recv(1)  # it closes first: the port is then free for torch at once
        return True


def _greeted(connection: socket.socket, address: str) -> int | None:
    """The number of the node at the other end; None for whoever else found the port, another job's node included."""
    connection.settimeout(_ANSWER_S)
    try:
        _keep_alive(connection)
        found = _HELLO.fullmatch(connection.recv(512))
    except OSError:
        return None
    return int(found[1]) if found and found[2] == address.encode() else None


def _keep_alive(connection: socket.socket) -> None:
    """Notice within two minutes that the other host has vanished without a word."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _wait_for_first(node: int, address: str, port: int, received: Sequence[int]) -> bool:
    told = time.monotonic()
    while not received:
        try:
            with socket.create_connection((address, port), timeout=10.0) as connection:
                _keep_alive(connection)
                connection.sendall(b"vizsage node %d of %s\n" % (node, address.encode()))
                while not received:
                    if select.select([connection], [], [], _LOOK_AGAIN_S)[0]:
                        if connection.recv(64) == _GO:
                            return True
                        break  # the first node is gone again, or torch listens there for an attempt that will fail
        except OSError:  # its name is not known yet, or nobody listens
            pass
        if time.monotonic() > told + _TELL_EVERY_S:
            told = time.monotonic()
            sys.stderr.write(f"jobs.run: waiting for the first node at {address}:{port}\n")
        time.sleep(_LOOK_AGAIN_S)
    return False
