"""Training is logged to W&B under one id over its attempts, and to TensorBoard."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from vizsage.config import Config
from vizsage.training.train import train


@pytest.fixture(autouse=True)
def forget_settings() -> Iterator[None]:
    """W&B reads its environment once per process."""
    import wandb

    wandb.teardown()
    yield
    wandb.teardown()


def test_an_offline_run_is_written_and_continued_under_its_id(
    make_config: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = make_config(max_steps=2, use_wandb=True, wandb_tags=["a"])
    train(config)
    run_id = (config.output_dir / "wandb" / "vizsage-run-id").read_text().strip()
    [folder] = (config.output_dir / "wandb").glob(f"offline-run-*-{run_id}")
    assert (folder / f"run-{run_id}.wandb").stat().st_size > 0
    (config.output_dir / "outcome.json").unlink()  # as if it had been killed before its end
    time.sleep(1.1)  # W&B names its folders by the second
    train(config)
    assert len(list((config.output_dir / "wandb").glob(f"offline-run-*-{run_id}"))) == 2
