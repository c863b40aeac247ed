"""W&B is logged to offline where it cannot be reached, and logs that, without hanging."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vizsage.config import build_config
from vizsage.contract.run_files import MetricsLine
from vizsage.errors import ConfigError
from vizsage.files import write_json
from vizsage.tracking import wandb_tracker
from vizsage.tracking.tracker import AttemptStart
from vizsage.tracking.trackers import Trackers


@pytest.fixture(autouse=True)
def forget_settings() -> Iterator[None]:
    """W&B reads its environment once per process."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


def test_without_a_login_it_is_offline_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: object
) -> None:
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", f"{tmp_path}/netrc")
    assert wandb_tracker.wandb_mode() == "offline"
    assert "no login" in caplog.text


def test_without_a_network_it_is_offline_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A login for a server that does not exist: port 9 (discard) of this machine."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert wandb_tracker.wandb_mode() == "offline"
    assert "cannot be reached" in caplog.text


class Broken(Exception):
    """As W&B's mailbox raises them: no wandb.Error, no OSError."""


@pytest.mark.parametrize("fails", [["init"], ["Settings"], ["Settings", "init"]])
def test_a_tracker_that_cannot_start_is_a_warning(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, fails: list[str]
) -> None:
    """Offline neither."""
    import wandb

    def broken(*_: object, **__: object) -> None:
        raise Broken("the service is gone")

    for name in fails:
        monkeypatch.setattr(wandb, name, broken)
    trackers = Trackers(build_config({"use_wandb": True, "output_dir": str(tmp_path)}))
    trackers.begin(AttemptStart(0, 1, []))
    trackers.log(MetricsLine(step=1))
    trackers.finish(0, {"score": 1})
    assert "W&B failed (the service is gone); nothing is logged there" in caplog.text


def test_the_id_of_an_earlier_version_is_kept(tmp_path: Path) -> None:
    """It was in run.json."""
    write_json(tmp_path / "run.json", {"wandb_run_id": "abcd1234"})
    assert wandb_tracker._run_id(tmp_path) == wandb_tracker._run_id(tmp_path) == "abcd1234"
    assert (tmp_path / "wandb" / "vizsage-run-id").read_text() == "abcd1234\n"
    new = wandb_tracker._run_id(tmp_path / "new")
    assert wandb_tracker._run_id(tmp_path / "new") == new


@pytest.mark.parametrize(
    "settings",
    [
        {"wandb_project": "team/proj"},
        {"wandb_project": "a" * 129},
        {"wandb_project": ""},
        {"wandb_tags": ["good", "t" * 65]},
        {"wandb_tags": [""]},
    ],
)
def test_names_that_the_service_refuses_are_wrong_settings(settings: dict[str, Any]) -> None:
    """As wandb.Settings does, whose rules these are."""
    import wandb

    [(key, value)] = settings.items()
    with pytest.raises(ConfigError, match=key):
        build_config(settings)
    if value:
        with pytest.raises((wandb.Error, ValueError)):
            wandb.Settings(**{"project" if key == "wandb_project" else "run_tags": value})
