"""Weights & Biases: online where it can be reached, offline otherwise; never a reason for a run to stop or to hang."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, cast
from urllib.parse import urlsplit

from vizsage.config import Config
from vizsage.errors import one_line

log = logging.getLogger(__name__)

_CONNECT_S = 5.0
_INIT_S = 30.0
_FINISH_S = 60.0


class Tracker:
    """A tracker that tracks nothing: use_wandb is false, or this is not the main process."""

    run_id: str | None = None

    def log(self, line: dict[str, Any]) -> None:
        """Take one line of metrics.jsonl."""

    def finish(self, exit_code: int, summary: dict[str, Any] | None = None) -> None:
        """End the run there."""


class WandbTracker(Tracker):
    """A W&B run; continued under the same id when the training run is continued."""

    def __init__(self, config: Config, run_id: str | None, settings: dict[str, Any]) -> None:
        import wandb

        self.run_id = run_id or secrets.token_hex(4)
        arguments: dict[str, Any] = {
            "project": config.wandb_project,
            "name": config.wandb_run_name or config.output_dir.name,
            "tags": list(config.wandb_tags),
            "id": self.run_id,
            "config": settings,
            "dir": str(config.output_dir),
        }
        self._run: Any = None
        mode: Mode = "offline"
        quiet = wandb.Settings(silent=True, init_timeout=_INIT_S, finish_timeout=_FINISH_S, console="off")
        try:
            mode = wandb_mode()
            # Offline files of one id are joined by `wandb sync --append`; only a server knows `resume`.
            self._run = wandb.init(mode=mode, resume="allow" if mode == "online" else None, settings=quiet, **arguments)
        except (wandb.Error, OSError, ValueError) as error:
            log.warning("W&B could not start online (%s); logging offline", one_line(error))
            mode = "offline"
            self._run = wandb.init(mode=mode, settings=quiet, **arguments)
        self._run.define_metric("*", step_metric="step")
        log.info("W&B run %s (%s) in %s", self.run_id, mode, Path(self._run.dir).parent)

    def log(self, line: dict[str, Any]) -> None:
        """Log one line of metrics.jsonl, its step as the step."""
        self._try(lambda run: run.log({key: value for key, value in line.items() if value is not None}))

    def finish(self, exit_code: int, summary: dict[str, Any] | None = None) -> None:
        """Upload what is left, for at most a minute, and end the run."""
        self._try(lambda run: run.summary.update(summary or {}))
        self._try(lambda run: run.finish(exit_code=exit_code))

    def _try(self, action: Callable[[Any], object]) -> None:
        """W&B's own process may have died, by the signal that stops this one: no reason to lose a checkpoint."""
        if self._run is None:
            return
        try:
            action(self._run)
        except Exception as error:  # noqa: BLE001 -- whatever a foreign service raises
            log.warning("W&B failed (%s); nothing more is logged there", one_line(error))
            self._run = None


Mode = Literal["online", "offline", "disabled", "shared"]


def wandb_mode() -> Mode:
    """WANDB_MODE if it is set; "online" with a login and a reachable server; else "offline", with a notice why."""
    import wandb

    if mode := os.environ.get("WANDB_MODE"):
        return cast(Mode, mode)
    base_url = wandb.setup().settings.base_url
    if not wandb.login(prompt=False, verify=False):
        log.warning("W&B: no login (WANDB_API_KEY or `wandb login`); logging offline, upload later with `wandb sync`")
        return "offline"
    address = urlsplit(base_url)
    port = address.port or (443 if address.scheme == "https" else 80)
    try:
        socket.create_connection((address.hostname or "", port), timeout=_CONNECT_S).close()
    except OSError as error:
        log.warning("W&B: %s cannot be reached (%s); logging offline, upload later with `wandb sync`", base_url, error)
        return "offline"
    return "online"
