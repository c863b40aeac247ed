"""What a container finds besides what its pod brings: the image's file system, environment, command and user.

The file system is made of this host's own: its libraries, this repository's code, and its virtual environment in the
image's place. All of it is read-only, because it is the host's.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import jobs
import vizsage

ROOT = Path(__file__).parents[3]
DOCKERFILE = ROOT / "docker" / "Dockerfile"
VENV = "/opt/vizsage"
CODE = "/opt/code"  # the image has it in VENV
SCRIPT = "vizsage"
WORKDIR = "/workspace"
USER = (10001, 0)
ENTRYPOINT = ["/usr/bin/tini", "--", "python", "-m", "jobs.run"]

_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_OF_ETC = ("ld.so.cache", "alternatives", "ssl", "localtime", "fonts")


def environment() -> dict[str, str]:
    """What the last stages of the Dockerfile set with ENV; NAME=value pairs, as they are written there."""
    path = "/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin"
    found = {"PATH": f"{VENV}/bin:{path}", "HOME": "/home/vizsage", "PYTHONPATH": CODE}
    if not DOCKERFILE.exists():
        return found
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(encoding="utf-8"), flags=re.MULTILINE).replace("\\\n", " ")
    found = {"PATH": path, "PYTHONPATH": CODE}
    for line in re.findall(r"^ENV\s+(.*)$", text, re.MULTILINE):
        for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|(\S*))', line):
            value = quoted or plain
            found[name] = re.sub(r"\$\{?(\w+)\}?", lambda match: found.get(match[1], ""), value)
    return found


def file_system(folder: Path) -> Iterator[str]:
    """Arguments for bwrap. `folder` contains files that every image has and that must not be the host's."""
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            yield from ("--symlink", str(path.readlink()), name)
        elif path.is_dir():
            yield from ("--ro-bind", name, name)
    yield from ("--ro-bind", "/sys", "/sys", "--proc", "/proc", "--dev", "/dev", "--dir", "/tmp", "--dir", "/var/tmp")
    for name in _OF_ETC:
        yield from ("--ro-bind-try", f"/etc/{name}", f"/etc/{name}")
    yield from ("--ro-bind", sys.prefix, VENV)
    for path in sorted(folder.iterdir()):
        yield from ("--ro-bind", str(path), f"{VENV}/bin/{SCRIPT}" if path.name == SCRIPT else f"/etc/{path.name}")
    # Not at their own places: a checkout may be below /tmp, which is a volume of the pod.
    for package in (vizsage, jobs):
        yield from ("--ro-bind", str(Path(package.__path__[0])), f"{CODE}/{package.__name__}")
    if not sys.base_prefix.startswith("/usr"):
        yield from ("--ro-bind", sys.base_prefix, sys.base_prefix)
    for name in ("data", "outputs"):
        yield from ("--dir", f"{WORKDIR}/{name}")
    yield from ("--ro-bind", str(ROOT / "config"), f"{WORKDIR}/config", "--dir", environment()["HOME"])


def write_etc(folder: Path, hostname: str, hosts: list[str]) -> None:
    """Write the files of /etc that differ in each container. All hosts are this one."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [f"127.0.0.1 {name}" for name in ("localhost", *hosts, hostname)]
    (folder / "hosts").write_text("\n".join(dict.fromkeys(lines)) + "\n")
    (folder / "hostname").write_text(f"{hostname}\n")
    (folder / "nsswitch.conf").write_text("passwd: files\ngroup: files\nhosts: files\n")
    (folder / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nvizsage:x:10001:0::/home/vizsage:/bin/sh\n")
    (folder / "group").write_text("root:x:0:\n")
    # The command of the environment, which names the place where that was made.
    command = (Path(sys.prefix) / "bin" / SCRIPT).read_text().partition("\n")[2]
    (folder / SCRIPT).write_text(f"#!{VENV}/bin/python\n{command}")
    (folder / SCRIPT).chmod(0o755)


def commands() -> tuple[list[str], list[str]]:
    """ENTRYPOINT and CMD, from the Dockerfile where it is there."""
    if not DOCKERFILE.exists():
        return ENTRYPOINT, ["--help"]
    text = DOCKERFILE.read_text(encoding="utf-8")
    entrypoint, cmd = (re.findall(rf"^{word}\s+(\[.*\])$", text, re.MULTILINE)[-1] for word in ("ENTRYPOINT", "CMD"))
    return json.loads(entrypoint), json.loads(cmd)
