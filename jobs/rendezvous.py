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

_HELLO = re.compile(rb"vizsage node (\d+)\n")
_GO = b"go\n"
_LOOK_AGAIN_S = 0.5
_ANSWER_S = 10.0
_TELL_EVERY_S = 300.0


def meet(node: int, nodes: int, address: str, port: int, received: Sequence[int]) -> bool:
    """Return True when all nodes are there, False when a signal came to lie in `received` before that.

    Raises OSError where the first node cannot listen at the port.
    """
    return _wait_for_others(nodes, port, received) if node == 0 else _wait_for_first(node, address, port, received)


def _wait_for_others(nodes: int, port: int, received: Sequence[int]) -> bool:
    everywhere = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    there: dict[int, socket.socket] = {}
    told = time.monotonic()
    with contextlib.ExitStack() as stack:
        dual = everywhere == socket.AF_INET6
        server = stack.enter_context(socket.create_server(("", port), family=everywhere, dualstack_ipv6=dual))
        stack.callback(lambda: [*map(socket.socket.close, there.values())])
        while len(there) < nodes - 1:
            if received:
                return False
            ready, _, _ = select.select([server, *there.values()], [], [], _LOOK_AGAIN_S)
            for gone in [number for number, one in there.items() if one in ready]:
                there.pop(gone).close()  # it says nothing until it is told to go: its end is gone
            if server in ready:
                connection, _ = server.accept()
                number = _greeted(connection)
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


def _greeted(connection: socket.socket) -> int | None:
    """The number of the node at the other end; None for whoever else found the port."""
    connection.settimeout(_ANSWER_S)
    try:
        found = _HELLO.fullmatch(connection.recv(64))
    except OSError:
        return None
    return int(found[1]) if found else None


def _wait_for_first(node: int, address: str, port: int, received: Sequence[int]) -> bool:
    told = time.monotonic()
    while not received:
        try:
            with socket.create_connection((address, port), timeout=_ANSWER_S) as connection:
                connection.sendall(b"vizsage node %d\n" % node)
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
