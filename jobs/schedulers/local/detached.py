"""Start the supervisor so that it continues when the terminal is closed and the shell has ended.

`python -m jobs.schedulers.local.detached QUEUE_FOLDER LOCK_FD` is what `start` runs; it is no command for users.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

from jobs.schedulers.local.local_processes import MARK
from jobs.schedulers.local.local_queue import Queue
from vizsage.errors import VizSageError

LOG = "supervisor.log"
_ROOT = Path(__file__).parents[3]


def start(queue: Queue, lock_fd: int) -> None:
    """Start a supervisor that holds `lock_fd`; the caller's copy may be closed afterwards. Raises VizSageError."""
    path = queue.folder / LOG
    # A job may submit another one. With the job's mark, the supervisor would be stopped as a process of that job.
    environment = {name: text for name, text in os.environ.items() if name != MARK}
    if _ROOT.name not in ("site-packages", "dist-packages"):  # found by Python itself there
        environment["PYTHONPATH"] = os.pathsep.join([str(_ROOT), *filter(None, [environment.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "jobs.schedulers.local.detached", str(queue.folder), str(lock_fd)]
    try:
        with path.open("ab") as log:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=(lock_fd,),
                start_new_session=True,
                check=False,
            )
    except OSError as error:
        raise VizSageError(f"{path}: the supervisor of the queue cannot be started: {error}") from None
    if done.returncode:
        raise VizSageError(f"the supervisor of the queue ended with exit code {done.returncode}; see {path}")


def main() -> None:
    """Load everything, then fork: `start` waits for the first process, and the second one is the supervisor."""
    from jobs.schedulers.local.local_supervisor import Supervisor

    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    supervisor = Supervisor(Queue(Path(sys.argv[1])), int(sys.argv[2]))
    if os.fork():
        os._exit(0)  # nothing of this process is left to be flushed, and the lock stays with the second one

    def stop(number: int, frame: FrameType | None) -> None:
        supervisor.stopping = True

    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # jobs inherit this, as with nohup
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    os.chdir("/")  # a file system cannot be unmounted while it is the current folder of a process
    supervisor.run()


if __name__ == "__main__":
    main()
