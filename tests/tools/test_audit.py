"""`make audit`: which licences pass, and what is said where nothing could be looked up."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tools import audit
from tools.licences import ACCEPTED, locked, verdicts


@pytest.mark.parametrize(
    ("name", "licence", "refused"),
    [
        ("one", "MIT License", False),
        ("one", "BSD-3-Clause AND (MIT OR GPL-3.0-only)", False),
        ("one", "BSD-3-Clause AND GPL-3.0-only", True),
        ("one", "Apache Software License; GNU General Public License (GPL)", True),
        ("one", "UNKNOWN", True),
        ("num2words", "GNU Library or Lesser General Public License (LGPL)", False),
        ("num2words", "GNU General Public License v3 (GPLv3)", True),  # the reason was another licence
        ("num2words-more", "LGPL-3.0-or-later", True),
        ("nvidia-cublas", "LicenseRef-NVIDIA-Proprietary", False),
    ],
)
def test_a_licence_is_allowed_or_accepted_for_its_package_or_refused(name: str, licence: str, refused: bool) -> None:
    (found,) = verdicts({name: licence})
    assert (found.packages, found.refused) == ([name], refused)


def test_every_accepted_package_is_in_a_lock() -> None:
    names = locked(audit.LOCKS)
    assert len(names) > 200
    for one in ACCEPTED:
        assert any(re.fullmatch(one.packages, name) for name in names), one


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        (["", ""], ["no service has answered: pypi: no route; osv: no route"]),
        # A mirror that has the files only.
        (
            [[{"name": "a", "skip_reason": "not found"}], ""],
            ["no service has answered: pypi: not found; osv: no route"],
        ),
        ([[{"name": "a", "vulns": []}]], []),
        (
            ["", [{"name": "a", "vulns": []}, {"name": "b", "skip_reason": "not found"}]],
            ["not looked up: b (not found)"],
        ),
        ([[{"name": "a", "vulns": [{"id": "PYSEC-1", "fix_versions": ["2"]}]}]], ["a: PYSEC-1; fixed in 2"]),
    ],
)
def test_vulnerabilities_are_listed_and_silence_is_no_success(
    answers: list[Any], told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        packages = answers.pop(0)
        text = json.dumps({"dependencies": packages}) if packages else ""
        return subprocess.CompletedProcess(command, 1, text, "no route\n")

    monkeypatch.setattr(subprocess, "run", answer)
    found = audit.vulnerabilities(Path("some.lock"))
    assert len(found) == len(told)
    assert all(text in line for text, line in zip(told, found, strict=True)), found
