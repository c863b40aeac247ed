"""Nodes that meet: who counts as there, and who does not."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from jobs import rendezvous
from jobs.rendezvous import meet

ADDRESS = "localhost"


class Meeting:
    """The first node of several, waiting in a thread."""

    def __init__(self, nodes: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.nodes = nodes
        self.received: list[int] = []
        self.found: list[bool] = []
        self.thread = threading.Thread(target=lambda: self.found.append(self.go(0)))
        self.thread.start()

    def go(self, node: int) -> bool:
        return meet(node, self.nodes, ADDRESS, self.port, self.received)

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
def meeting() -> Iterator[Meeting]:
    meeting = Meeting(3)
    yield meeting
    meeting.received.append(15)
    meeting.thread.join(30)
    assert not meeting.thread.is_alive()


def hello(node: int, address: str = ADDRESS) -> bytes:
    return b"vizsage node %d of %s\n" % (node, address.encode())


def test_all_nodes_go_together_and_the_port_is_free_for_torch(meeting: Meeting) -> None:
    others = [threading.Thread(target=lambda node=node: meeting.found.append(meeting.go(node))) for node in (1, 2)]
    for other in others:
        other.start()
    for thread in (meeting.thread, *others):
        thread.join(30)
    assert meeting.found == [True] * 3
    socket.create_server(("", meeting.port)).close()


def test_a_node_that_has_gone_is_not_there(meeting: Meeting) -> None:
    stranger = meeting.connect(b"")  # holds the first node for a moment, while the others come and one goes
    first, second = meeting.connect(hello(1)), meeting.connect(hello(2))
    first.close()
    stranger.close()
    time.sleep(1)
    assert meeting.found == []
    again = meeting.connect(hello(1))
    assert (again.recv(64), second.recv(64)) == (b"go\n", b"go\n")
    again.close()
    second.close()
    meeting.thread.join(30)
    assert meeting.found == [True]


@pytest.mark.parametrize(
    "words",
    [hello(1, "vizsage-other-0.vizsage-other"), hello(0), hello(3), b"GET / HTTP/1.1\r\n\r\n", b"vizsage node x\n"],
)
def test_whoever_else_comes_is_turned_away(meeting: Meeting, words: bytes) -> None:
    """A node of another job, too: addresses of pods are given out again."""
    second = meeting.connect(hello(2))
    stranger = meeting.connect(words)
    assert stranger.recv(64) == b""
    assert meeting.found == []
    second.close()


def test_a_node_that_comes_twice_counts_once(meeting: Meeting) -> None:
    first = meeting.connect(hello(1))
    again = meeting.connect(hello(1))
    assert first.recv(64) == b""
    assert meeting.found == []
    again.close()
    first.close()


def test_both_ends_ask_whether_the_other_is_still_there(meeting: Meeting, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that is switched off says nothing; without that question it would be waited for for days."""
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
    assert meeting.found == [False] or meeting.found == [False, False]
