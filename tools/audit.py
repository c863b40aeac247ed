"""`make audit`: known vulnerabilities of the locked packages, and their licences.

Usage: python -m tools.audit

Exit code 0: nothing was found. 1: something was, or a part of the audit could not be done, which is said.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tools.licences import licences_of, verdicts

ROOT = Path(__file__).parents[1]
LOCKS = [ROOT / name for name in ("requirements.lock", "requirements-image.lock", "requirements-unsloth.lock")]
# Vulnerabilities that cannot be used here, or have no fixed version yet: the id, and the reason.
ACCEPTED: dict[str, str] = {}
_SERVICES = ("pypi", "osv")


def main() -> int:
    """Do both parts, and say the result of each."""
    problems = [problem for lock in LOCKS for problem in vulnerabilities(lock)]
    problems += unlicensed()
    for problem in problems:
        print(f"make audit: {problem}", file=sys.stderr)
    return 1 if problems else 0


def vulnerabilities(lock: Path) -> list[str]:
    """Print what pip-audit finds in a lock. Returns the problems: those found, or that no service has answered."""
    ignored = [word for one in ACCEPTED for word in ("--ignore-vuln", one)]
    unanswered = []
    for service in _SERVICES:
        command = [sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--no-deps", "--disable-pip"]
        command += ["--vulnerability-service", service, "--format", "json", "--progress-spinner", "off", *ignored]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        packages = json.loads(done.stdout)["dependencies"] if done.stdout.strip() else []
        if any("skip_reason" not in one for one in packages):
            return _told(lock, service, packages)
        # A mirror of PyPI may know files and nothing of vulnerabilities: then no package is found.
        said = [one["skip_reason"] for one in packages[:1]] or done.stderr.strip().splitlines()[-1:] or ["no message"]
        unanswered.append(f"{service}: {said[0]}")
    return [
        f"{lock.name}: vulnerabilities were not looked up, because no service has answered: {'; '.join(unanswered)}"
    ]


def _told(lock: Path, service: str, packages: list[dict[str, Any]]) -> list[str]:
    found = {one["name"]: one["vulns"] for one in packages if one.get("vulns")}
    skipped = [f"{one['name']} ({one['skip_reason']})" for one in packages if "skip_reason" in one]
    print(f"{lock.name}: {len(packages)} packages, {len(found)} with known vulnerabilities (asked: {service})")
    return [f"{lock.name}: not looked up: {', '.join(skipped)}"] * bool(skipped) + [
        f"{lock.name}: {name}: {', '.join(one['id'] for one in vulns)}; "
        f"fixed in {', '.join(sorted({v for one in vulns for v in one['fix_versions']})) or 'no version yet'}"
        for name, vulns in found.items()
    ]


def unlicensed() -> list[str]:
    """Print the licences. Returns the packages whose licence is neither allowed nor accepted."""
    try:
        found = verdicts(licences_of(LOCKS))
    except (OSError, RuntimeError, subprocess.CalledProcessError) as error:
        return [f"licences: {error}"]
    print(f"\nlicences of {sum(len(one.packages) for one in found)} packages:")
    for one in found:
        print(f"  {one.licence}: {len(one.packages)}")
        if one.reason:
            print(f"    {', '.join(one.packages)}: {one.reason}")
    return [
        f"licences: {', '.join(one.packages)}: {one.licence}: neither allowed nor accepted in tools/licences.py"
        for one in found
        if one.refused
    ]


if __name__ == "__main__":
    sys.exit(main())
