"""On PYTHONPATH of a job: something happens to its processes on the way. MISHAP defines what, and after which step.

"hold 5": wait there, once, until a signal arrives; a file `held-RANK` in the run directory shows that.
"crash 5": raise an unexpected error, every time.
"hold 5 1": only the process of rank 1.
"answer 2": an evaluation waits like that after its second batch of answers.
"""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

TRAINING, EVALUATION = "vizsage.training.flow", "vizsage.evaluation.worker"


class Finder:
    """Finds the module that sees each step, and changes it once it is loaded."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """The module's own spec, with one more thing to do at the end of its execution."""
        answers = os.environ["MISHAP"].startswith("answer ")
        if name != (EVALUATION if answers else TRAINING):
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.loader is not None
        execute = spec.loader.exec_module

        def execute_and_change(module: ModuleType) -> None:
            execute(module)
            change_worker(module.EvaluationWorker) if answers else change_flow(module.Flow)

        spec.loader.exec_module = execute_and_change  # type: ignore[method-assign]
        return spec


def change_flow(flow: Any) -> None:
    """Make what MISHAP names a part of `Flow.on_step_end`."""
    what, step, *ranks = os.environ["MISHAP"].split()
    rank = os.environ.get("RANK", "0")
    original = flow.on_step_end

    def on_step_end(self: Any, args: Any, state: Any, control: Any, **more: Any) -> Any:
        if state.global_step == int(step) and rank in (ranks or [rank]):
            if what == "crash":
                raise RuntimeError("an error that was not expected")
            hold(self.config, self.latch)
        return original(self, args, state, control, **more)

    flow.on_step_end = on_step_end


def change_worker(worker: Any) -> None:
    """Make what MISHAP names a part of `EvaluationWorker.answer`, which yields once before the first batch."""
    batches = int(os.environ["MISHAP"].split()[1])
    original = worker.answer

    def answer(self: Any, *arguments: Any) -> Any:
        for i, done in enumerate(original(self, *arguments)):
            if i == batches:
                hold(self.answerer.config, self.processes.latch)
            yield done

    worker.answer = answer


def hold(config: Any, latch: Any) -> None:
    """Wait for a signal, unless an earlier attempt has."""
    held = config.output_dir / f"held-{os.environ.get('RANK', '0')}"
    if not held.exists():
        held.touch()
        while latch.signal is None:
            time.sleep(0.1)


if "MISHAP" in os.environ:
    sys.meta_path.insert(0, Finder())  # type: ignore[arg-type]
