"""A process starts and ends without a search for garbage, and a program that calls the library is left as it was."""

from __future__ import annotations

import contextlib
import gc
import subprocess
import sys

import pytest

from vizsage.cli import main
from vizsage.startup import importing


@pytest.mark.parametrize("enabled", [True, False])
def test_collection_goes_on_as_before(enabled: bool) -> None:
    if not enabled:
        gc.disable()
    try:
        during = []
        with contextlib.suppress(ImportError), importing():
            during.append(gc.isenabled())
            raise ImportError
        assert during == [False]
        assert gc.isenabled() is enabled
    finally:
        gc.enable()


def test_only_a_process_that_ends_freezes_what_is_left() -> None:
    before = gc.get_freeze_count()
    assert main(["config", "/nowhere.yaml"]) == 2
    assert gc.get_freeze_count() <= before  # frozen objects can still be deleted
    code = "import atexit, gc, sys\nfrom vizsage.cli import main\n"
    code += "atexit.register(lambda: print(gc.get_freeze_count() > 0))\n"
    command = [sys.executable, "-c", code + "sys.exit(main())", "config", "/nowhere.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "True\n")
