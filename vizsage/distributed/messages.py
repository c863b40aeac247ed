"""What processes tell each other: JSON only. Whoever reaches a port could send a pickled object, which is code.

In training the messages travel as tensors through the process group, in an evaluation through a store, where each is
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
"""What JSON can hold. It comes back as JSON has it: tuples as lists."""


def to_all(message: Message) -> list[Message]:
    """The messages of all processes, by rank, in each of them, through the process group of a training."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import gather, pad_across_processes

    group = PartialState()
    text = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8).to(group.device)
    rows = gather(pad_across_processes(text, dim=0, pad_index=ord(" "))).reshape(group.num_processes, -1)
    return [_parsed(bytes(row.tolist()), f"process {rank}") for rank, row in enumerate(rows.cpu())]


def first_problem(problem: VizSageError | None, processes: int) -> VizSageError | None:
    """The problem of the first process that has one, in all `processes` of the group; None where none has."""
    if processes == 1:
        return problem
    told = to_all(problem and [problem.exit_code, str(problem)])
    return next((error_of(*one) for one in told if one), None)


class SignedStore:
    """Messages in a store of torch.distributed; what was not written by someone who knows `secret` is refused.

    The store itself lets anybody write who reaches its port.
    """

    def __init__(self, store: Any, secret: str, *, of: str = "") -> None:
        """`of` begins all keys, where others use the same store."""
        self._store, self._secret, self._of = store, secret.encode(), of

    def put(self, key: str, message: Message) -> None:
        """Write `message` at `key`."""
        text = json.dumps(message).encode()
        self._store.set(self._of + key, self._signature(key, text) + text)

    def has(self, key: str) -> bool:
        """Whether something stands at `key`."""
        return bool(self._store.check([self._of + key]))

    def wait(self, keys: list[str], patience: datetime.timedelta) -> None:
        """Wait until something stands at each of `keys`."""
        self._store.wait([self._of + key for key in keys], patience)

    def get(self, key: str) -> Message:
        """The message at `key`. Raises VizSageError for one that no process of this job wrote there."""
        found = bytes(self._store.get(self._of + key))
        signature, text = found[:64], found[64:]
        if not hmac.compare_digest(signature, self._signature(key, text)):
            raise VizSageError(
                f"{self._store.host}:{self._store.port}: found a message at {key!r} that no process of this job wrote; "
                "it was not used. Somebody else reaches this port: close it to others and run the command again"
            )
        return _parsed(text, key)

    def _signature(self, key: str, text: bytes) -> bytes:
        # The key is part of it: what stands at one key cannot be repeated at another.
        place = (self._of + key).encode()
        return hmac.new(self._secret, b"%d %s %s" % (len(place), place, text), hashlib.sha256).hexdigest().encode()


def _parsed(text: bytes, source: str) -> Message:
    try:
        return parse_json(text)
    except ValueError:
        raise VizSageError(f"{source}: found {text[:40]!r} where a message in JSON was expected") from None
