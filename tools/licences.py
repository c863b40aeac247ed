"""The licences of all packages in the locks: each is allowed, or accepted for a reason, or fails `make audit`.

pip-licenses reads those of the packages that are installed. Of the others, which only the image with unsloth has, pip
asks the package index.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

UNKNOWN = "UNKNOWN"
# They ask for their notices to be kept, and for nothing else.
ALLOWED = {
    "0bsd", "3-clause bsd", "apache", "apache 2.0", "apache software", "apache-2.0", "bsd", "bsd-2-clause",
    "bsd-3-clause", "cc0-1.0", "cnri-python", "dfsg approved", "isc", "isc iscl", "mit", "mit-cmu", "psf-2.0",
    "public domain", "python software foundation", "unlicense", "zlib",
}  # fmt: skip


class Accepted(NamedTuple):
    """Packages with another licence that is accepted, as regular expressions, and the reason."""

    packages: str
    licence: str
    reason: str


ACCEPTED = (
    Accepted(
        "certifi|fqdn|hypothesis|pathspec|tqdm",
        r"mpl",
        "the MPL asks for changes of its own files only, and they are used unchanged",
    ),
    Accepted(
        "num2words",
        r"lgpl",
        "SmolVLM's processor imports it as it is, and a user can replace it; the image contains its sources",
    ),
    Accepted(
        "nvidia-.*|cuda-toolkit",
        r"proprietary|nvidia|unknown",
        "CUDA, which PyTorch needs on a GPU; NVIDIA permits its use, and passing it on with an application",
    ),
    Accepted(
        "docutils",
        r"gpl",
        "most is in the public domain; the GPL is that of a mode for Emacs; for the documentation only",
    ),
    Accepted(
        "unsloth-zoo", r"lgpl", "only for `backend: unsloth`, which imports it as it is; the image contains its sources"
    ),
    Accepted("atheris|hf-transfer", r"unknown", "Apache-2.0, which is in the file LICENSE only"),
    Accepted("torchao", r"unknown", "BSD-3-Clause, which is in the file LICENSE only"),
    Accepted(
        "cut-cross-entropy",
        r"unknown",
        "Apple's own, in the file LICENSE: use, changes and copies are permitted with its notice; unsloth needs it",
    ),
)


class Verdict(NamedTuple):
    """What is said of the packages with one licence."""

    licence: str
    packages: list[str]
    reason: str
    refused: bool


def verdicts(licences: Mapping[str, str]) -> list[Verdict]:
    """By licence and reason, the refused ones last.

    Args:
        licences: those of the packages, by name.
    """
    found: dict[tuple[bool, str, str], list[str]] = defaultdict(list)
    for name, licence in licences.items():
        reasons = [_reason(name, part) for part in _parts(licence)]
        told = "; ".join(dict.fromkeys(filter(None, reasons)))
        found[None in reasons, licence, told].append(name)
    return [Verdict(licence, sorted(names), told, refused) for (refused, licence, told), names in sorted(found.items())]


def _parts(licence: str) -> Iterator[str]:
    """The licences that hold together."""
    for part in re.split(r";|\band\b", re.sub(r"[()]?\blicen[sc]e\b|[()]", "", licence.lower())):
        yield " ".join(part.split())


def _reason(name: str, part: str) -> str | None:
    """Why a package with this licence is used: "" for one that is allowed, None where there is no reason."""
    if any(choice.strip() in ALLOWED for choice in part.split(" or ")):
        return ""
    fitting = (one for one in ACCEPTED if re.fullmatch(one.packages, name) and re.search(one.licence, part))
    return next((one.reason for one in fitting), None)


def locked(locks: Iterable[Path]) -> dict[str, str]:
    """The packages in the locks, with their lines without hashes and markers."""
    lines = (line for lock in locks for line in lock.read_text(encoding="utf-8").splitlines())
    pins = (match[0] for line in lines if (match := re.match(r"[a-z0-9][^ ]*==[^ ]+", line)))
    return {pin.partition("==")[0]: pin for pin in pins}


def licences_of(locks: Iterable[Path]) -> dict[str, str]:
    """The licences of the packages in the locks. Raises RuntimeError if one is not available."""
    pins = locked(locks)
    command = [str(Path(sys.executable).parent / "pip-licenses"), "--from=mixed", "--with-system", "--format=json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    installed = {_normal(one["Name"]): str(one["License"]) for one in json.loads(done.stdout)}
    found = {name: installed[name] for name in pins if name in installed}
    others = [pin for name, pin in pins.items() if name not in installed]
    return found | (_asked(others) if others else {})


def _asked(pins: list[str]) -> dict[str, str]:
    """The licences of packages that are not installed: pip reads their descriptions and installs nothing."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--quiet", "--ignore-installed", "--no-deps",
               "--disable-pip-version-check", "--only-binary", ":all:", "--report", "-", *pins]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise RuntimeError(f"pip cannot read the licences of {len(pins)} packages that are not installed: {last}")
    described = [one["metadata"] for one in json.loads(done.stdout)["install"]]
    return {_normal(one["name"]): _licence(one) for one in described}


def _licence(metadata: Mapping[str, Any]) -> str:
    classifiers = [one.rpartition(" :: ")[2] for one in metadata.get("classifier", ()) if one.startswith("License ::")]
    short = str(metadata.get("license") or "")
    return str(
        metadata.get("license_expression") or "; ".join(classifiers) or (short if len(short) < 80 else "") or UNKNOWN
    )


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
