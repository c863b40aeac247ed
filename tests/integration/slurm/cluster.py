"""A SLURM cluster of two nodes on this one host: munged, slurmctld and two slurmd in a separate folder.

Nothing of the host's own SLURM is touched: the cluster has its own configuration, key, ports and state, keeps no
accounts, and is gone after `stop`, whatever its jobs were doing. It needs root, because slurmd does.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")
NODES = ("n1", "n2")
# Neither where programs' outgoing connections begin nor where nodes of a job connect (15000 to 29999).
_PORTS = range(30000, 32700)
_READY_S = 60
_LOG_TAIL_LINES = 15

ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE", "BOOT_FAIL")

_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge/socket,cred_expire=6
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
GresTypes=gpu
ReturnToService=2
KillWait=20
MinJobAge=600
InactiveLimit=0
SlurmctldTimeout=30
SlurmdTimeout=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
MpiDefault=none
{nodes}
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=30
PartitionName=high Nodes=n1,n2 MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""


def missing_programs() -> list[str]:
    """Programs of SLURM and munge that this host lacks."""
    return [program for program in PROGRAMS if shutil.which(program) is None]


class Cluster:
    """Two nodes, n1 and n2, with 8 CPUs, 8 GB and 2 GPUs each on paper. Each has its name as a feature.

    Jobs go to partition main and give way to those of partition high. A requeued job waits until its old
    credential has expired: two minutes by default, seconds here. Letting it go earlier would have it fail or held.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.configuration = folder / "slurm.conf"
        self._daemons: list[subprocess.Popen[bytes]] = []
        self._controller: subprocess.Popen[bytes] | None = None

    # --- up and down -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start all daemons and wait until both nodes are idle; where they are not, `stop` and raise with the logs."""
        try:
            self._write_configuration()
            munge = self.folder / "munge"
            key, socket_file = munge / "key", munge / "socket"
            key.write_bytes(secrets.token_bytes(128))
            key.chmod(0o400)
            files = [f"--{name}-file={munge / name}" for name in ("pid", "log", "seed")]
            # --force: the folder may be in one that everybody can write to.
            self._daemon("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={socket_file}", *files)
            self._until(socket_file.exists, "munged has no socket")
            self._controller = self._daemon("slurmctld", "-D", "-f", str(self.configuration))
            for node in NODES:
                self._daemon(*self._slurmd(node))
            self._until(self._idle, "the nodes are not idle")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the daemons and every process that the cluster's jobs left, and remove the folder."""
        for daemon in self._daemons[::-1]:
            self._end(daemon)
        for pid in self._processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        shutil.rmtree(self.folder, ignore_errors=True)

    def forget(self) -> None:
        """Make SLURM know no job any more, as it does some minutes after a job's end. No job may be active."""
        assert self._controller is not None
        self._end(self._controller)
        self._controller = self._daemon("slurmctld", "-D", "-c", "-f", str(self.configuration))
        self._until(self._idle, "the nodes did not become idle")

    @contextlib.contextmanager
    def without(self, node: str) -> Iterator[None]:
        """A node loses its power, and every job its processes: no other job may be active. It is back at the end."""
        [slurmd] = [daemon for daemon in self._daemons if daemon.args == self._slurmd(node)]
        self._end(slurmd)
        # The job's keepers first, or they would report how their processes ended.
        for keepers in (True, False):
            for pid in self._processes():
                with contextlib.suppress(OSError):
                    name = Path(f"/proc/{pid}/comm").read_text().strip()
                    of_job = b"SLURM_JOB_ID=" in Path(f"/proc/{pid}/environ").read_bytes()
                    if (name == "slurmstepd") if keepers else of_job:
                        os.kill(pid, signal.SIGKILL)
        try:
            yield
        finally:
            self._daemon(*self._slurmd(node))
            self._until(self._idle, f"{node} did not become idle")

    # --- jobs --------------------------------------------------------------------------------------------------------

    def state(self, job_id: str) -> str:
        """SLURM's word on a job, "FORGOTTEN" where it knows none of that id."""
        done = self._ask("scontrol", "show", "job", job_id, "--oneliner")
        found = re.search(r"\bJobState=(\w+)", done.stdout)
        return found[1] if found else "FORGOTTEN"

    def wait_for(self, job_id: str, states: Iterable[str] = ENDED, timeout_s: float = 240) -> str:
        """Wait until the job is in one of `states` and return it. Raises TimeoutError."""
        wanted = tuple(states)
        self._until(lambda: self.state(job_id) in wanted, f"job {job_id} is none of {', '.join(wanted)}", timeout_s)
        return self.state(job_id)

    def exit_code(self, job_id: str) -> int:
        """Exit code of a job that has ended. Raises ValueError where SLURM knows none."""
        done = self._ask("scontrol", "show", "job", job_id, "--oneliner")
        found = re.search(r"\bExitCode=(\d+):", done.stdout)
        if found is None:
            raise ValueError(f"job {job_id}: no exit code in {done.stdout or done.stderr}")
        return int(found[1])

    def active(self) -> list[str]:
        """Ids of the jobs that wait, run or end."""
        return self._ask("squeue", "-h", "-o", "%i").stdout.split()

    def jobs(self) -> set[str]:
        """Ids of all jobs that SLURM remembers."""
        return set(self._ask("squeue", "-h", "-t", "all", "-o", "%i").stdout.split())

    # --- inside ------------------------------------------------------------------------------------------------------

    def _write_configuration(self) -> None:
        for name in ("munge", "state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir(parents=True, mode=0o755)
        control_port, *ports = free_ports(1 + len(NODES))
        host = socket.gethostname().split(".")[0]
        nodes = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} "
            f"CPUs=8 RealMemory=8000 Gres=gpu:2 Feature={node} State=UNKNOWN"
            for node, port in zip(NODES, ports, strict=True)
        ]
        text = _CONFIGURATION.format(folder=self.folder, host=host, control_port=control_port, nodes="\n".join(nodes))
        self.configuration.write_text(text)
        # Any two device files will do.
        gpus = [f"NodeName=n[1-2] Name=gpu File={file}" for file in ("/dev/null", "/dev/zero")]
        (self.folder / "gres.conf").write_text("\n".join(gpus) + "\n")

    def _daemon(self, *command: str) -> subprocess.Popen[bytes]:
        # Its output goes where the log is: what a daemon cannot write to its log is there.
        with (self.folder / f"{command[0]}.out").open("ab") as output:
            daemon = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=self._environment()
            )
        self._daemons.append(daemon)
        return daemon

    def _end(self, daemon: subprocess.Popen[bytes]) -> None:
        daemon.kill()
        daemon.wait()
        self._daemons.remove(daemon)

    def _slurmd(self, node: str) -> tuple[str, ...]:
        return ("slurmd", "-D", "-N", node, "-f", str(self.configuration))

    def _environment(self) -> dict[str, str]:
        # By this variable the processes of a job are found again. Variables of a job that runs this stay out.
        outside = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
        return outside | {"SLURM_CONF": str(self.configuration)}

    def _ask(self, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=self._environment())

    def _idle(self) -> bool:
        states = self._ask("sinfo", "-h", "-N", "-p", "main", "-o", "%T").stdout.split()
        return states == ["idle"] * len(NODES)

    def _until(self, holds: Callable[[], bool], what: str, timeout_s: float = _READY_S) -> None:
        end = time.monotonic() + timeout_s
        while not holds():
            for daemon in self._daemons:
                if daemon.poll() is not None:
                    raise RuntimeError(f"{daemon.args} has ended; {what}\n{self._logs()}")
            if time.monotonic() > end:
                raise TimeoutError(f"{what} after {timeout_s} s\n{self._logs()}")
            time.sleep(0.3)

    def _logs(self) -> str:
        """The end of each daemon's words and the queue, for messages."""
        parts = [self._ask("squeue", "-t", "all").stdout] if self._controller else []
        for path in sorted([*self.folder.glob("*.out"), *self.folder.glob("*.log"), self.folder / "munge" / "log"]):
            if path.exists():
                lines = path.read_text(errors="replace").splitlines()[-_LOG_TAIL_LINES:]
                parts.append("\n".join([f"--- {path.name}", *lines]))
        return "\n".join(parts)

    def _processes(self) -> Iterator[int]:
        """Processes that were started with this cluster's configuration. This one set the variable later."""
        mine = f"SLURM_CONF={self.configuration}".encode()
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if int(folder.name) != os.getpid() and mine in (folder / "environ").read_bytes().split(b"\0"):
                    yield int(folder.name)


def free_ports(count: int) -> list[int]:
    """Unused ports of this host."""
    found: list[int] = []
    for port in random.sample(_PORTS, len(_PORTS)):
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise RuntimeError(f"no {count} free ports between {_PORTS.start} and {_PORTS.stop}")
