"""The run directory: one run at a time, an earlier run moved aside; and what the main process does for all."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar, cast

from accelerate import PartialState

from vizsage.config import Config
from vizsage.contract import CHECKPOINT_PREFIX, DAMAGED_PREFIX, EVALUATIONS, LOCK, PREVIOUS_PREFIX, RUN, RUN_FILES
from vizsage.distributed.messages import first_problem, to_all
from vizsage.errors import VizSageError
from vizsage.lock import Held, only_one
from vizsage.record import RunRecord
from vizsage.training.checkpoints import PARTIAL

log = logging.getLogger(__name__)
T = TypeVar("T")


@contextmanager
def only_one_run(config: Config, world: PartialState) -> Iterator[Held]:
    """Lock the run directory, in the main process for all of them, and delete the temporary files of a killed run."""
    with ExitStack() as stack:
        of_main: list[Held] = []

        def hold() -> None:
            held = stack.enter_context(only_one(config.output_dir, "training"))
            held.clean((*RUN_FILES, config.name_trained_model), PARTIAL)
            of_main.append(held)

        on_main(world, hold)
        yield of_main[0] if of_main else Held(config.output_dir)


def on_main(world: PartialState, function: Callable[[], T]) -> T:
    """Call `function` in the main process only, and return its result, a JSON value, in every process.

    A VizSageError of it is raised in every process, so that none waits for the others.
    """
    result: T | None = None
    problem: VizSageError | None = None
    if world.is_main_process:
        try:
            result = function()
        except VizSageError as error:
            problem = error
    if met := first_problem(problem, world.num_processes):
        raise met
    return cast(T, result if world.num_processes == 1 else to_all(result)[0])


def set_aside(config: Config, record: RunRecord) -> None:
    """For resume: false, move what an earlier run wrote into previous-<n>; other files stay where they are.

    Raises FolderInUse while an evaluation of that run is writing.
    """
    output_dir = config.output_dir
    names = {*RUN_FILES, config.name_trained_model, (record.content.settings or {}).get("name_trained_model")}
    patterns = (f"{CHECKPOINT_PREFIX}*", f"{DAMAGED_PREFIX}{CHECKPOINT_PREFIX}*", PARTIAL)
    earlier = [p for p in output_dir.iterdir() if p.name in names or any(p.match(pattern) for pattern in patterns)]
    if not earlier:
        return
    numbers = [path.name.removeprefix(PREVIOUS_PREFIX) for path in output_dir.glob(f"{PREVIOUS_PREFIX}*")]
    folder = output_dir / f"{PREVIOUS_PREFIX}{1 + max((int(n) for n in numbers if n.isdigit()), default=0)}"
    with ExitStack() as held:
        for lock in output_dir.glob(f"{EVALUATIONS}/*/{LOCK}"):  # a running evaluation would lose its answers
            held.enter_context(only_one(lock.parent, "moving"))
        folder.mkdir()
        # run.json first: after a kill in between, what is left must not be continued as that run.
        for path in sorted(earlier, key=lambda p: (p.name != RUN, p.name)):
            path.rename(folder / path.name)
    log.warning("resume is false: the earlier run was moved to %s", folder)
