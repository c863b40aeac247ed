"""Nodes wait for each other before their processes start, without a time limit; a signal ends the wait.

torch's own rendezvous gives up after minutes and does not react to signals. On a cluster without gang scheduling one
node may start hours before the next. The first node listens at a port that all nodes know, and sends the others the
port of the store at which their processes meet, which is chosen only then.

Each side proves that it knows a secret of this attempt, which the first node writes into the run directory. A program
that only reaches the port can neither act as a node nor send a node to another address.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import os
import re
import secrets
import select
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

_HELLO = re.compile(rb"vizsage node (\d+) of (\S+) ([0-9a-f]{32})\n")
_ANSWER = re.compile(rb"([0-9a-f]{32}) ([0-9a-f]{64})\n")
_GO = re.compile(rb"go (\d+) ([0-9a-f]{64})\n")
_LOOK_AGAIN_S = 0.5
_ANSWER_S = 2.0
_LOG_EVERY_S = 300.0
_FORGOTTEN_S = 24 * 3600.0  # a secret that was not updated for so long belongs to a first node that was killed


class Meeting(NamedTuple):
    """The port at which the processes of all nodes meet, and the secret by which they authenticate each other."""

    port: int
    secret: str


def meet(
    node: int,
    nodes: int,
    address: str,
    port: int,
    received: Sequence[int],
    *,
    folder: Path,
    open_store: Callable[[], int],
) -> Meeting | None:
    """Wait until all nodes have started.

    Args:
        node: number of this node, from 0.
        nodes: how many there are.
        address: name of the first node.
        port: where the first node listens.
        received: the numbers of the signals that this process got; one of them ends the wait.
        folder: a folder that all nodes share, for the secret.
        open_store: called by the first node when all are there; returns the port of the store.

    Returns:
        Where the processes meet; None after a signal.

    Raises:
        OSError: the first node cannot listen, or `folder` cannot be used.
    """
    # Every node can compute this name, and that of another job is different: two jobs may use one folder.
    place = folder / f".meeting-{hashlib.sha256(f'{address}:{port}'.encode()).hexdigest()[:16]}"
    if node == 0:
        return _wait_for_others(nodes, address, port, received, place, open_store)
    return _wait_for_first(node, address, port, received, place)


def _wait_for_others(
    nodes: int, address: str, port: int, received: Sequence[int], place: Path, open_store: Callable[[], int]
) -> Meeting | None:
    everywhere = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    there: dict[int, tuple[socket.socket, _Proof]] = {}
    logged = time.monotonic()
    with contextlib.ExitStack() as stack:
        dual = everywhere == socket.AF_INET6
        server = stack.enter_context(socket.create_server(("", port), family=everywhere, dualstack_ipv6=dual))
        stack.callback(lambda: [*map(socket.socket.close, (connection for connection, _ in there.values()))])
        secret = stack.enter_context(_secret_at(place))
        while True:
            if received:
                return None
            complete = len(there) == nodes - 1
            connections = [connection for connection, _ in there.values()]
            ready, _, _ = select.select([server, *connections], [], [], 0 if complete else _LOOK_AGAIN_S)
            if complete and not ready:  # all have started, and none has ended since
                break
            for gone in [number for number, (one, _) in there.items() if one in ready]:
                there.pop(gone)[0].close()  # a waiting node sends nothing, so that this is the end of its connection
            if server in ready:
                connection, _ = server.accept()
                number, proof = _greeted(connection, address, secret) or (0, None)
                if proof is None or not 0 < number < nodes:
                    connection.close()
                else:
                    if number in there:
                        there[number][0].close()
                    there[number] = connection, proof
            if time.monotonic() > logged + _LOG_EVERY_S:
                logged = time.monotonic()
                os.utime(place)
                missing = ", ".join(str(number) for number in range(1, nodes) if number not in there)
                sys.stderr.write(f"jobs.run: waiting for node {missing} of {nodes}\n")
        store_port = open_store()
        for connection, proof in there.values():
            with contextlib.suppress(OSError):
                connection.settimeout(_ANSWER_S)
                connection.sendall(b"go %d %s\n" % (store_port, proof("go", store_port)))
                connection.recv(1)  # let it close first: then the port is free for the next attempt at once
        return Meeting(store_port, secret)


@contextlib.contextmanager
def _secret_at(place: Path) -> Iterator[str]:
    """A new secret, which is in the file `place` during the block. Only the owner can read the file."""
    place.parent.mkdir(parents=True, exist_ok=True)
    for other in place.parent.glob(".meeting-*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - other.stat().st_mtime > _FORGOTTEN_S:
                other.unlink()
    secret = secrets.token_hex(32)
    descriptor, new = tempfile.mkstemp(dir=place.parent, prefix=place.name)
    with os.fdopen(descriptor, "w") as file:
        file.write(secret)
    Path(new).replace(place)
    try:
        yield secret
    finally:
        place.unlink(missing_ok=True)


class _Proof:
    """HMACs by which each side of a connection proves that it knows the secret; those of another connection differ."""

    def __init__(self, secret: str, number: int, *nonces: bytes) -> None:
        self._secret, self._connection = secret.encode(), b"%d %s" % (number, b" ".join(nonces))

    def __call__(self, *said: str | int) -> bytes:
        words = " ".join(map(str, said)).encode()
        return hmac.new(self._secret, self._connection + b" " + words, hashlib.sha256).hexdigest().encode()

    def holds(self, proof: bytes, *said: str | int) -> bool:
        return hmac.compare_digest(proof, self(*said))


def _greeted(connection: socket.socket, address: str, secret: str) -> tuple[int, _Proof] | None:
    """The number of the node at the other end; None for any other program, a node of another job included."""
    connection.settimeout(_ANSWER_S)
    try:
        _keep_alive(connection)
        found = _HELLO.fullmatch(connection.recv(512))
        if not found or found[2] != address.encode():
            return None
        number, nonce = int(found[1]), secrets.token_hex(16).encode()
        proof = _Proof(secret, number, found[3], nonce)
        connection.sendall(b"%s %s\n" % (nonce, proof("first")))
        if not proof.holds(connection.recv(512).strip(), "node"):
            return None
    except OSError:
        return None
    return number, proof


def _keep_alive(connection: socket.socket) -> None:
    """Let the system notice within two minutes that the other host has vanished without closing the connection."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6)):
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _wait_for_first(node: int, address: str, port: int, received: Sequence[int], place: Path) -> Meeting | None:
    logged = time.monotonic()
    while not received:
        try:
            with socket.create_connection((address, port), timeout=10.0) as connection:
                if meeting := _told_to_go(connection, node, address, received, place):
                    return meeting
        except OSError as error:  # its name is not known yet, it does not listen yet, or it has ended
            if error.filename is not None:  # the file of the secret cannot be read
                raise
        if time.monotonic() > logged + _LOG_EVERY_S:
            logged = time.monotonic()
            seen = "" if place.exists() else f"; {place}, which it writes, is not seen here yet"
            sys.stderr.write(f"jobs.run: waiting for the first node at {address}:{port}{seen}\n")
        time.sleep(_LOOK_AGAIN_S)
    return None


def _told_to_go(
    connection: socket.socket, node: int, address: str, received: Sequence[int], place: Path
) -> Meeting | None:
    """Greet the first node and wait until it sends "go"; None after a signal, and if another program listens there."""
    _keep_alive(connection)
    nonce = secrets.token_hex(16).encode()
    connection.sendall(b"vizsage node %d of %s %s\n" % (node, address.encode(), nonce))
    answer = _ANSWER.fullmatch(connection.recv(512))
    try:
        secret = place.read_text()
    except FileNotFoundError:  # shared storage shows it later
        return None
    if not answer:
        return None
    proof = _Proof(secret, node, nonce, answer[1])
    if not proof.holds(answer[2], "first"):
        return None
    connection.sendall(proof("node") + b"\n")
    while not received:
        if select.select([connection], [], [], _LOOK_AGAIN_S)[0]:
            go = _GO.fullmatch(connection.recv(512))
            return Meeting(int(go[1]), secret) if go and proof.holds(go[2], "go", int(go[1])) else None
    return None
