"""The rendezvous of nodes: which ones count as there, and which do not."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import rendezvous
from jobs.rendezvous import Meeting as Agreed
from jobs.rendezvous import meet

ADDRESS = "localhost"


STORE_PORT = 40123


class Meeting:
    """The first node of several, waiting in a thread."""

    def __init__(self, nodes: int, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.nodes = nodes
        self.received: list[int] = []
        self.found: list[Agreed | None] = []
        self.thread = threading.Thread(target=lambda: self.found.append(self.go(0)))
        self.thread.start()

    def go(self, node: int) -> Agreed | None:
        folder = self.folder
        return meet(node, self.nodes, ADDRESS, self.port, self.received, folder=folder, open_store=lambda: STORE_PORT)

    @property
    def secret(self) -> str:
        [file] = self.folder.glob(".meeting-*")
        return file.read_text()

    def greet(self, node: int, secret: str | None = None) -> tuple[socket.socket, rendezvous._Proof]:
        """A node that has shown that it knows the secret."""
        nonce = b"a" * 32
        connection = self.connect(b"vizsage node %d of %s %s\n" % (node, ADDRESS.encode(), nonce))
        other, shown = connection.recv(512).split()
        proof = rendezvous._Proof(secret or self.secret, node, nonce, other)
        assert secret or proof.holds(shown, "first")
        connection.sendall(proof("node") + b"\n")
        return connection, proof

    def connect(self, hello: bytes) -> socket.socket:
        end = time.monotonic() + 30
        while True:
            try:
                connection = socket.create_connection((ADDRESS, self.port), timeout=30)
                break
            except OSError:
                assert time.monotonic() < end
                time.sleep(0.05)
        connection.sendall(hello)
        return connection


@pytest.fixture
def meeting(tmp_path: Path) -> Iterator[Meeting]:
    meeting = Meeting(3, tmp_path / "run" / "jobs")
    yield meeting
    meeting.received.append(15)
    meeting.thread.join(30)
    assert not meeting.thread.is_alive()


def hello(node: int, address: str = ADDRESS) -> bytes:
    return b"vizsage node %d of %s %s\n" % (node, address.encode(), b"a" * 32)


def test_all_nodes_go_together_and_the_port_is_free_for_torch(meeting: Meeting) -> None:
    others = [threading.Thread(target=lambda node=node: meeting.found.append(meeting.go(node))) for node in (1, 2)]
    for other in others:
        other.start()
    for thread in (meeting.thread, *others):
        thread.join(30)
    assert meeting.found == [meeting.found[0]] * 3
    assert meeting.found[0] is not None
    assert meeting.found[0].port == STORE_PORT
    assert len(meeting.found[0].secret) == 64
    socket.create_server(("", meeting.port)).close()
    assert not list(meeting.folder.iterdir())  # the secret was this meeting's


def test_a_node_that_has_gone_is_not_there(meeting: Meeting) -> None:
    first, _ = meeting.greet(1)
    first.close()
    second, _ = meeting.greet(2)
    time.sleep(1)
    assert meeting.found == []
    again, proof = meeting.greet(1)
    word, port, shown = again.recv(512).split()
    assert (word, int(port), proof.holds(shown, "go", STORE_PORT)) == (b"go", STORE_PORT, True)
    again.close()
    second.close()
    meeting.thread.join(30)
    assert [found and found.port for found in meeting.found] == [STORE_PORT]


@pytest.mark.parametrize(
    "words",
    [hello(1, "vizsage-other-0.vizsage-other"), hello(0), hello(3), b"GET / HTTP/1.1\r\n\r\n", b"vizsage node x\n"],
)
def test_whoever_else_comes_is_turned_away(meeting: Meeting, words: bytes) -> None:
    """A node of another job, too: addresses of pods are given out again."""
    second, _ = meeting.greet(2)
    stranger = meeting.connect(words)
    stranger.recv(512)
    assert stranger.recv(512) == b""
    assert meeting.found == []
    second.close()


def test_whoever_does_not_know_the_secret_is_turned_away(meeting: Meeting) -> None:
    second, _ = meeting.greet(2)
    stranger, _ = meeting.greet(1, secret="a guess")
    assert stranger.recv(512) == b""
    assert meeting.found == []
    second.close()


@pytest.mark.parametrize("known", [False, True])
def test_a_node_goes_nowhere_for_one_who_does_not_know_the_secret(tmp_path: Path, known: bool) -> None:
    """Another program listens at the first node's port: its message counts only with the secret's proof."""
    received: list[int] = []
    found: list[Agreed | None] = []
    with socket.create_server(("127.0.0.1", 0)) as server, rendezvous._secret_at(tmp_path / "place") as secret:
        port = server.getsockname()[1]
        arguments = (1, ADDRESS, received, tmp_path / "place")
        with socket.create_connection(("127.0.0.1", port)) as connection:
            node = threading.Thread(target=lambda: found.append(rendezvous._told_to_go(connection, *arguments)))
            node.start()
            other, _ = server.accept()
            nonce = other.recv(512).split()[-1]
            proof = rendezvous._Proof(secret if known else "a guess", 1, nonce, b"b" * 32)
            other.sendall(b"%s %s\n" % (b"b" * 32, proof("first")))
            if known:
                assert proof.holds(other.recv(512).strip(), "node")
                other.sendall(b"go 1 %s\n" % proof("go", 2))
            node.join(30)
            other.close()
    assert found == [None]


def test_only_the_owner_reads_the_secret_and_forgotten_ones_go(tmp_path: Path) -> None:
    forgotten, recent = tmp_path / ".meeting-1", tmp_path / ".meeting-2"
    for file in (forgotten, recent):
        file.touch()
    os.utime(forgotten, (0, 0))
    with rendezvous._secret_at(tmp_path / ".meeting-3") as secret:
        assert (tmp_path / ".meeting-3").stat().st_mode & 0o777 == 0o600
        assert (tmp_path / ".meeting-3").read_text() == secret
        assert sorted(path.name for path in tmp_path.iterdir()) == [".meeting-2", ".meeting-3"]


def test_a_node_that_comes_twice_counts_once(meeting: Meeting) -> None:
    first, _ = meeting.greet(1)
    again, _ = meeting.greet(1)
    assert first.recv(64) == b""
    assert meeting.found == []
    again.close()
    first.close()


def test_both_ends_ask_whether_the_other_is_still_there(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is switched off sends nothing; without that question it would be waited for for days."""
    asked: list[int] = []
    keep_alive = rendezvous._keep_alive

    def noted(connection: socket.socket) -> None:
        keep_alive(connection)
        asked.append(connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))

    monkeypatch.setattr(rendezvous, "_keep_alive", noted)
    other = threading.Thread(target=lambda: meeting.found.append(meeting.go(1)))
    other.start()
    end = time.monotonic() + 30
    while len(asked) < 2:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert asked == [1, 1]
    meeting.received.append(15)
    other.join(30)
    assert set(meeting.found) == {None}
