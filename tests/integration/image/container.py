"""Runs an image's own command as a container runtime does: namespaces, a read-only root, any user, tini as process 1.

In chroot isolation, buildah can neither make the root read-only nor take a user that the image does not know. A runtime
is not more than this: mount, change root and user, and execute the image's command.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

# Runs as process 1 of its namespaces, and becomes the container's. Arguments: root, then source, target and ro or rw of
# each mount, --, and the command.
SETUP = r"""
set -eu
root=$1
shift
mount --bind "$root" "$root"
mount -o remount,bind,ro "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount -t tmpfs -o mode=755 tmpfs "$root/dev"
for device in null zero full random urandom; do
    touch "$root/dev/$device"
    mount --bind "/dev/$device" "$root/dev/$device"
done
ln -s /proc/self/fd "$root/dev/fd"
mkdir "$root/dev/shm"
mount -t tmpfs -o mode=1777 tmpfs "$root/dev/shm"
while [ "$1" != -- ]; do
    mount --bind "$1" "$root$2"
    mount -o "remount,bind,$3" "$root$2"
    shift 3
done
shift
exec "$@"
"""


@dataclass(frozen=True)
class Container:
    """An image, and how it is to be run: as which user, with what mounted and in its environment."""

    root: Path
    image: dict[str, Any]
    user: str = ""
    mounts: dict[str, tuple[Path, str]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    network: bool = True

    def command(self, arguments: Sequence[str], entrypoint: Sequence[str] | None) -> list[str]:
        """The command line that becomes the container."""
        words = [*(self.image["Entrypoint"] if entrypoint is None else entrypoint)]
        words += arguments or (self.image["Cmd"] if entrypoint is None else [])
        variables = [*self.image["Env"], *(f"{name}={value}" for name, value in self.environment.items())]
        namespaces = ["--mount", "--pid", "--ipc", "--uts", "--fork", "--kill-child"]
        mounts = [word for target, (source, mode) in self.mounts.items() for word in (str(source), target, mode)]
        return [
            *("unshare", *namespaces, *([] if self.network else ["--net"])),
            *("sh", "-c", SETUP, "setup", str(self.root), *mounts, "--"),
            *("setpriv", "--no-new-privs"),
            *("chroot", f"--userspec={self.user or self.image['User']}", "--groups=", str(self.root)),
            *("env", "-i", "-C", self.image["WorkingDir"], *variables, *words),
        ]

    def start(self, *arguments: str, entrypoint: Sequence[str] | None = None) -> subprocess.Popen[str]:
        """Start it; the caller waits."""
        return subprocess.Popen(
            self.command(arguments, entrypoint), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, entrypoint: Sequence[str] | None = None) -> subprocess.CompletedProcess[str]:
        """Run it to its end."""
        process = self.start(*arguments, entrypoint=entrypoint)
        out, err = process.communicate(timeout=300)
        return subprocess.CompletedProcess(arguments, process.returncode, out, err)


def stop(process: subprocess.Popen[str]) -> None:
    """SIGTERM to the container's process 1, as a container runtime sends it."""
    os.kill(first_process(process), signal.SIGTERM)


def first_process(process: subprocess.Popen[str]) -> int:
    """The host's number of a container's process 1."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return int(children.read_text().split()[0])


def wait_for(path: Path, process: subprocess.Popen[str], patience_s: float = 120) -> None:
    """Until a running container has written a file."""
    until = time.monotonic() + patience_s
    while not path.exists() or not path.stat().st_size:
        if process.poll() is not None:
            raise RuntimeError(f"the container ended with {process.returncode}: {process.communicate()[1]}")
        if time.monotonic() > until:
            raise RuntimeError(f"{path} is not there after {patience_s} s")
        time.sleep(0.1)


def variables(image: Mapping[str, Any]) -> dict[str, str]:
    """The environment that an image sets."""
    return dict(entry.split("=", 1) for entry in image["Env"])
