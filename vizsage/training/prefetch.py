"""Steps that worker processes prepare ahead of the training and hand over through shared memory, in exact order."""

from __future__ import annotations

import io
import multiprocessing
import pickle
import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.process import BaseProcess
from multiprocessing.reduction import ForkingPickler
from multiprocessing.synchronize import Event
from threading import Timer
from typing import Any, Protocol

import torch
import torch.multiprocessing  # teaches ForkingPickler to hand tensors over in shared memory

from vizsage.errors import Interrupted, RepeatingError, VizSageError, one_line
from vizsage.interruption import SIGNALS, end_with_parent

_TURN_S = 1.0  # how long a step is waited for before signals are looked at
_SMALL_BYTES = 2**15  # a tensor of at most this size is copied
_END_S = 3.0  # how long all workers together may take to end


class StepSource(Protocol):
    """Steps that worker processes can prepare. Picklable."""

    def of_worker(self, worker: int, workers: int) -> Iterator[Any]:
        """The steps `worker`, `worker` + `workers`, `worker` + 2 * `workers`, ... up to the last one; none is None."""


class WorkerPool:
    """Processes that each prepare their part of the steps of `source`. Iterating yields all steps in order.

    Each worker is an executor of one process, because it has to keep its position in the sequence of samples: the
    next step of that process is the next one of its part.
    """

    def __init__(
        self, source: StepSource, workers: int, *, ahead: int, pin_memory: bool, stop: Callable[[], bool]
    ) -> None:
        """Start the processes.

        Args:
            source: the steps.
            workers: how many processes.
            ahead: steps that each of them prepares before they are asked for.
            pin_memory: copy the tensors to page-locked memory, from which a GPU fetches them by itself.
            stop: whether a signal asks to stop; looked at about once per second while a step is waited for.

        Raises:
            VizSageError: the processes cannot be started.
        """
        self._stop = stop
        self._executors: list[ProcessPoolExecutor] = []
        self._processes: list[BaseProcess] = []
        self._pending: deque[tuple[ProcessPoolExecutor, Future[bytes | None]]] = deque()
        self._pin_memory = pin_memory
        self._receiver = _receiving_thread(pin_memory)
        self._ended: Event | None = None
        try:
            self._start(source, workers, ahead)
        except BaseException as error:
            self.end()
            if isinstance(error, OSError):
                raise _failed(one_line(error)) from error
            raise

    def _start(self, source: StepSource, workers: int, ahead: int) -> None:
        context = torch.multiprocessing.get_context()
        self._ended = context.Event()
        for worker in range(workers):
            part = (source, worker, workers, self._ended)
            self._executors.append(ProcessPoolExecutor(1, context, _begin, part))
        earlier = multiprocessing.active_children()
        try:
            for _ in range(ahead):
                for executor in self._executors:
                    self._ask(executor)
        finally:
            self._processes = [process for process in multiprocessing.active_children() if process not in earlier]

    def __iter__(self) -> Iterator[Any]:
        """Yield the steps.

        Raises:
            VizSageError: what a worker raised, in its turn; or a worker died, or cannot hand over what it prepared.
            Interrupted: `stop` was true while a step was waited for.
        """
        executor, future = self._receive_next()
        while True:
            try:
                while not wait([future], _TURN_S).done:
                    if self._stop():
                        raise Interrupted("stopped while data was waited for")
                if (step := future.result()) is None:
                    return
                self._ask(executor)
            except (BrokenProcessPool, _NotReceived) as error:
                raise _failed(self._death() or one_line(error)) from error
            executor, future = self._receive_next()
            yield step

    def end(self) -> None:
        """End the processes, within `_END_S`, and the threads that serve them."""
        # Kill those only that are stuck in a step: a process that is killed leaves its folder in /tmp behind.
        late = Timer(_END_S, self._kill)
        late.start()
        if self._ended is not None:
            self._ended.set()
        for executor in self._executors:
            executor.shutdown(cancel_futures=True)
        late.cancel()
        late.join()
        self._receiver.shutdown(cancel_futures=True)

    def _ask(self, executor: ProcessPoolExecutor) -> None:
        """Have this worker prepare its next step."""
        self._pending.append((executor, executor.submit(_prepare)))

    def _receive_next(self) -> tuple[ProcessPoolExecutor, Future[Any]]:
        """Receive the next step in a thread, while the training works on the step before it.

        Only one step at a time: each large tensor needs a file descriptor, and a process may often have 1024 only.
        """
        executor, prepared = self._pending.popleft()
        return executor, self._receiver.submit(_receive, prepared, self._pin_memory)

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()

    def _death(self) -> str | None:
        """How a worker died, which the executor's error does not contain; None if that cannot be seen."""
        give_up_s = time.monotonic() + _TURN_S
        while time.monotonic() < give_up_s:
            for process in self._processes:
                if (code := process.exitcode) is not None and code < 0:
                    return f"its process was killed by {signal.Signals(-code).name}: {signal.strsignal(-code)}"
                if code:
                    return f"its process ended with exit code {code}"
            time.sleep(0.01)
        return None


_steps: Iterator[Any] = iter(())  # of this worker process: its part
_told_to_end: Event


def _begin(source: StepSource, worker: int, workers: int, ended: Event) -> None:
    """Called once in each worker process."""
    global _steps, _told_to_end
    # The main process reacts to a signal to the process group: it finishes its step and then ends its workers.
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    end_with_parent()
    torch.set_num_threads(1)
    _steps, _told_to_end = source.of_worker(worker, workers), ended


def _prepare() -> bytes | None:
    """The next step of this worker process, pickled: its tensors are in shared memory. None after the last one."""
    try:
        if _told_to_end.is_set() or (step := next(_steps, None)) is None:
            return None
    except Exception as error:
        _check_sendable(error)
        raise
    try:
        # The executor would unpickle a step as soon as it is prepared: see _receive_next.
        buffer = io.BytesIO()
        _StepPickler(buffer).dump(step)
        return buffer.getvalue()
    except Exception as error:  # pickle and torch raise errors of many types
        raise _failed(one_line(error)) from error


def _check_sendable(error: Exception) -> None:
    """Raise VizSageError where the main process could not unpickle `error`: it would only see a broken pool."""
    try:
        pickle.loads(pickle.dumps(error))  # made in this process
    except Exception:  # noqa: BLE001 -- whatever its class does there
        raise _failed(f"{type(error).__name__}: {one_line(error)}") from error


class _NotReceived(Exception):
    """What a worker prepared could not be fetched from it. It may have died since."""


class _StepPickler(ForkingPickler):
    """Copies small tensors into the pickle, which takes less time than to fetch them from shared memory."""

    def reducer_override(self, value: Any) -> Any:
        """How to pickle `value`; NotImplemented: as ForkingPickler does, which puts tensors into shared memory."""
        if torch.is_tensor(value) and value.nbytes <= _SMALL_BYTES and value.dtype != torch.bfloat16:
            return torch.from_numpy, (value.numpy(),)
        return NotImplemented


def _receive(prepared: Future[bytes | None], pin_memory: bool) -> Any:
    """The step that a worker has pickled; None after the last one. Raises what the worker raised, or _NotReceived."""
    if (pickled := prepared.result()) is None:
        return None
    try:
        step = pickle.loads(pickled)  # from a child of this process, through a pipe that no other process can open
    except Exception as error:  # so do they if the worker has died in the meantime
        raise _NotReceived(one_line(error)) from error
    return pinned(step) if pin_memory else step


def pinned(value: Any) -> Any:
    """`value` with its tensors, which dictionaries and lists may contain, in page-locked memory."""
    if torch.is_tensor(value):
        return value.pin_memory()
    if isinstance(value, Mapping):
        return {name: pinned(part) for name, part in value.items()}
    if isinstance(value, list):
        return [pinned(part) for part in value]
    return value


def _receiving_thread(pin_memory: bool) -> ThreadPoolExecutor:
    if not pin_memory:
        return ThreadPoolExecutor(1, "receive")
    # A new thread uses GPU 0 by default: each process of a node would allocate memory there.
    return ThreadPoolExecutor(1, "receive", torch.cuda.set_device, (torch.cuda.current_device(),))


def _failed(what: str) -> VizSageError:
    """The error of a run whose workers cannot start or hand over what they read, or died."""
    if "No space left on device" in what or "Bus error" in what:
        return RepeatingError(
            f"/dev/shm: the shared memory through which worker processes hand over batches is full ({what}); set "
            "num_proc lower, or to 0 to read without workers, or give the container more: docker run --shm-size 4g, or "
            "in a pod a larger emptyDir of medium Memory at /dev/shm"
        )
    return VizSageError(
        f"a worker process that reads data failed ({what}); set num_proc lower, or to 0 to read without workers"
    )
