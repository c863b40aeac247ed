"""W&B is logged to offline where it cannot be reached, and says so, without hanging."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from vizsage import tracking


@pytest.fixture(autouse=True)
def forget_settings() -> Iterator[None]:
    """W&B reads its environment once a process."""
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
    assert tracking.wandb_mode() == "offline"
    assert "no login" in caplog.text


def test_without_a_network_it_is_offline_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A login for a server that nobody runs: port 9 (discard) of this machine."""
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    assert tracking.wandb_mode() == "offline"
    assert "cannot be reached" in caplog.text
