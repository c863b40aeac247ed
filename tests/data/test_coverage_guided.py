"""No bytes in a user's text file end in anything but one of this project's own errors, as far as a fuzzer gets."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS = 6


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not installed: no release for it")
def test_whatever_a_fuzzer_finds_is_read_or_refused(tmp_path: Path) -> None:
    script = Path(__file__).with_name("coverage_guided.py")
    command = [sys.executable, str(script), str(tmp_path), str(SECONDS)]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    runs = re.search(r"Done (\d+) runs", done.stderr)
    assert runs is not None
    assert int(runs[1]) > 50, done.stderr[-2000:]
