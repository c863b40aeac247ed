"""Which trackers there are, and that a failure of one of them is a warning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from vizsage.check import check, quick_check
from vizsage.config import build_config
from vizsage.contract import TRACKERS
from vizsage.contract.run_files import MetricsLine
from vizsage.errors import ConfigError, DataError
from vizsage.evaluation.evaluate import evaluate
from vizsage.tracking import trackers
from vizsage.tracking.tracker import AttemptStart
from vizsage.tracking.trackers import Trackers


def test_names_are_a_list_of_known_ones() -> None:
    def names(**settings: Any) -> tuple[str, ...]:
        return build_config(settings).tracker_names

    assert names() == ()
    assert names(trackers=["tensorboard"], use_wandb=True) == ("tensorboard", "wandb")
    assert names(trackers=["wandb", "wandb"], use_wandb=True) == ("wandb",)
    with pytest.raises(ConfigError, match='trackers: expected wandb or tensorboard, found "mlflow"'):
        names(trackers=["tensorboard", "mlflow"])
    with pytest.raises(
        ConfigError, match=r'trackers: expected a list, for example \[wandb, tensorboard\], found "wandb"'
    ):
        names(trackers="wandb")


def test_what_is_wrong_with_a_tracker_is_found_before_anything_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A WANDB_MODE that does not exist, and a package that is missing."""
    monkeypatch.setenv("WANDB_MODE", "bogus")
    settings = {"output_dir": str(tmp_path), "base_path": str(tmp_path / "nowhere")}
    config = build_config(settings | {"use_wandb": True})
    for command in (quick_check, evaluate, lambda config: check(config, console=Console())):
        with pytest.raises(ConfigError, match=r"WANDB_MODE: expected one of online, offline, .*, found 'bogus'"):
            command(config)
    with pytest.raises(DataError):  # W&B is not asked
        quick_check(build_config(settings | {"trackers": ["tensorboard"]}))
    monkeypatch.setattr(trackers, "find_spec", lambda name: None)
    with pytest.raises(
        ConfigError, match="trackers: tensorboard needs the package tensorboard, which is not installed"
    ):
        quick_check(build_config(settings | {"trackers": ["tensorboard"]}))


@pytest.mark.parametrize("method", ["begin", "log", "finish"])
def test_one_that_fails_is_left_out_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, method: str
) -> None:
    called: list[str] = []

    class Recorder:
        def __init__(self, config: Any) -> None:
            self.title = type(self).__name__

        def begin(self, start: AttemptStart) -> None:
            self.note("begin")

        def log(self, line: MetricsLine) -> None:
            self.note("log")

        def finish(self, exit_code: int, best_scores: dict[str, Any] | None) -> None:
            self.note("finish")

        def note(self, name: str) -> None:
            called.append(name)

    class Broken(Recorder):
        def note(self, name: str) -> None:
            assert f"broken {method}" not in called
            called.append(f"broken {name}")
            if name == method:
                raise OSError(28, "No space left on device")

    monkeypatch.setattr(trackers, "_class", {"wandb": Broken, "tensorboard": Recorder}.get)
    all_of_them = Trackers(build_config({"trackers": [*TRACKERS], "output_dir": str(tmp_path)}))
    all_of_them.begin(AttemptStart(0, 1, []))
    for step in (1, 2):
        all_of_them.log(MetricsLine(step=step))
    all_of_them.finish(0, None)
    assert [name for name in called if not name.startswith("broken")] == ["begin", "log", "log", "finish"]
    assert caplog.text.count("Broken failed ([Errno 28] No space left on device)") == 1
