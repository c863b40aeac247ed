"""Messages between processes: JSON only, because a pickled object could run code of anyone who reaches the port.

In training messages are sent as tensors through the process group. In an evaluation they are written to a store, each
signed with a secret of the job.
"""

from __future__ import annotations

import datetime
import hashlib
import hmac
import json
from typing import Any

from vizsage.errors import VizSageError, error_of
from vizsage.files import parse_json

Message = Any
"""A value that JSON can represent. The receiver gets what JSON makes of it: tuples become lists."""


def to_all(message: Message) -> list[Message]:
    """Send `message` to all processes of a training, through its process group; the messages of all, by rank."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather, pad_across_processes

    group = PartialState()
    text = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8).to(group.device)
    rows = gather(pad_across_processes(text, dim=0, pad_index=ord(" "))).reshape(group.num_processes, -1)
    return [_parsed(bytes(row.tolist()), f"process {rank}") for rank, row in enumerate(rows.cpu())]


def first_problem(problem: VizSageError | None, processes: int) -> VizSageError | None:
    """The problem of the first process that has one, in each of the `processes`; None if none has one."""
    if processes == 1:
        return problem
    told = to_all(problem and [problem.exit_code, str(problem)])
    return next((error_of(*one) for one in told if one), None)


class SignedStore:
    """Messages in a store of torch.distributed. Messages that were not signed with `secret` are refused.

    The store itself accepts messages from anyone who reaches its port.
    """

    def __init__(self, store: Any, secret: str, *, of: str = "") -> None:
        """`of` is a prefix of all keys, for a store that others use too."""
        self._store, self._secret, self._of = store, secret.encode(), of

    def put(self, key: str, message: Message) -> None:
        """Write `message` at `key`."""
        text = json.dumps(message).encode()
        self._store.set(self._of + key, self._signature(key, text) + text)

    def has(self, key: str) -> bool:
        """Whether there is a message at `key`."""
        return bool(self._store.check([self._of + key]))

    def wait(self, keys: list[str], patience: datetime.timedelta) -> None:
        """Wait until there is a message at each of `keys`."""
        self._store.wait([self._of + key for key in keys], patience)

    def get(self, key: str) -> Message:
        """The message at `key`. Raises VizSageError for one that no process of this job wrote there."""
        found = bytes(self._store.get(self._of + key))
        signature, text = found[:64], found[64:]
        if not hmac.compare_digest(signature, self._signature(key, text)):
            raise VizSageError(
                f"{self._store.host}:{self._store.port}: found a message at {key!r} that no process of this job wrote; "
                "it was not used. Another program reaches this port: close it to others and run the command again"
            )
        return _parsed(text, key)

    def _signature(self, key: str, text: bytes) -> bytes:
        # The key is part of what is signed: a copy of a message at another key is refused.
        place = (self._of + key).encode()
        return hmac.new(self._secret, b"%d %s %s" % (len(place), place, text), hashlib.sha256).hexdigest().encode()


def _parsed(text: bytes, source: str) -> Message:
    try:
        return parse_json(text)
    except ValueError:
        raise VizSageError(f"{source}: found {text[:40]!r} where a message in JSON was expected") from None
