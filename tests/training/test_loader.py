"""The processes that read ahead end with the training, whatever still holds their iterator."""

from __future__ import annotations

import subprocess
import sys

# The iterator lies in a cycle that no collection reached before the end, as in a trainer's frames.
PROGRAM = """
import multiprocessing
from torch.utils.data import IterableDataset
from vizsage.training.loader import TrainLoader
class Endless(IterableDataset):
    def __iter__(self):
        while True:
            yield 1
loader = TrainLoader(Endless(), 2, False)
iterator = iter(loader)
next(iterator)
import builtins
builtins.kept = iterator
assert len(multiprocessing.active_children()) == 2
loader.end()
assert not multiprocessing.active_children()
loader.end()
"""


def test_a_process_ends_although_its_iterator_is_kept() -> None:
    subprocess.run([sys.executable, "-c", PROGRAM], check=True, timeout=120)
