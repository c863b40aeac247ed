"""Who may reach a port of this host, according to the kernel."""

from __future__ import annotations

import socket
from pathlib import Path


def listening(port: int) -> list[str]:
    """The addresses at which some process listens at `port`."""
    found = []
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, number = local.split(":")
            if state == "0A" and int(number, 16) == port:
                words = [bytes.fromhex(address[i : i + 8])[::-1] for i in range(0, len(address), 8)]
                found.append(socket.inet_ntop(family, b"".join(words)))
    return found
