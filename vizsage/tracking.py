"""Weights & Biases: online where it can be reached, offline otherwise; never a reason for a run to stop or to hang."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar, cast, get_args
from urllib.parse import urlsplit

from vizsage.config import Config
from vizsage.errors import ConfigError, one_line

log = logging.getLogger(__name__)
T = TypeVar("T")

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
        self.run_id: str = run_id or secrets.token_hex(4)
        self._run: Any = None
        guarded(lambda: self._begin(config, settings), "nothing is logged there")

    def _begin(self, config: Config, settings: dict[str, Any]) -> None:
        import wandb

        quiet = wandb.Settings(silent=True, init_timeout=_INIT_S, finish_timeout=_FINISH_S, console="off")

        def begin(mode: Mode) -> tuple[Any, Mode]:
            run = wandb.init(
                project=config.wandb_project,
                name=config.wandb_run_name or config.output_dir.name,
                tags=list(config.wandb_tags),
                id=self.run_id,
                config=settings,
                dir=str(config.output_dir),
                mode=mode,
                # Offline files of one id are joined by `wandb sync --append`; only a server knows `resume`.
                resume="allow" if mode == "online" else None,
                settings=quiet,
            )
            return run, mode

        run, mode = guarded(lambda: begin(wandb_mode()), "logging offline") or begin("offline")
        run.define_metric("*", step_metric="step")
        log.info("W&B run %s (%s) in %s", self.run_id, mode, Path(run.dir).parent)
        self._run = run

    def log(self, line: dict[str, Any]) -> None:
        """Log one line of metrics.jsonl, its step as the step."""
        self._try(lambda run: run.log({key: value for key, value in line.items() if value is not None}))

    def finish(self, exit_code: int, summary: dict[str, Any] | None = None) -> None:
        """Upload what is left, for at most a minute, and end the run."""
        self._try(lambda run: run.summary.update(summary or {}))
        self._try(lambda run: run.finish(exit_code=exit_code))

    def _try(self, action: Callable[[Any], object]) -> None:
        """W&B's own process may have died, by the signal that stops this one: no reason to lose a checkpoint."""
        if (run := self._run) is None:
            return

        def act() -> bool:
            action(run)
            return True

        if not guarded(act, "nothing more is logged there"):
            self._run = None


def guarded(action: Callable[[], T], otherwise: str) -> T | None:
    """What `action`, which calls W&B, returns; where it fails a warning, that ends with `otherwise`, and None."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001 -- W&B's connection and mailbox raise classes without a common base
        log.warning("W&B failed (%s); %s", one_line(error), otherwise)
        return None


Mode = Literal["online", "offline", "disabled", "shared"]
_MODES = (*get_args(Mode), "dryrun", "run")  # of the environment; the last two are earlier names


def check_environment(config: Config) -> None:
    """Raise ConfigError where W&B is to be used and WANDB_MODE is none of its modes. W&B would raise much later."""
    if config.use_wandb and (found := os.environ.get("WANDB_MODE", "")) and found not in _MODES:
        raise ConfigError(f"WANDB_MODE: expected one of {', '.join(_MODES)}, found {found[:64]!r}; correct or unset it")


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
