"""Weights & Biases: online where it can be reached, else offline. Its failures never stop a run or make it wait."""

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
    """A tracker that does nothing: use_wandb is false, or this is not the main process."""

    run_id: str | None = None

    def log(self, line: dict[str, Any]) -> None:
        """Log one line of metrics.jsonl."""

    def finish(self, exit_code: int, summary: dict[str, Any] | None = None) -> None:
        """End the W&B run."""


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
                # Only a server can resume; the offline files of one id are joined by `wandb sync --append`.
                resume="allow" if mode == "online" else None,
                settings=quiet,
            )
            return run, mode

        run, mode = guarded(lambda: begin(wandb_mode()), "logging offline") or begin("offline")
        run.define_metric("*", step_metric="step")
        log.info("W&B run %s (%s) in %s", self.run_id, mode, Path(run.dir).parent)
        self._run = run

    def log(self, line: dict[str, Any]) -> None:
        """Log one line of metrics.jsonl under its step."""
        self._try(lambda run: run.log({key: value for key, value in line.items() if value is not None}))

    def finish(self, exit_code: int, summary: dict[str, Any] | None = None) -> None:
        """Upload the rest, for at most `_FINISH_S`, and end the W&B run."""
        self._try(lambda run: run.summary.update(summary or {}))
        self._try(lambda run: run.finish(exit_code=exit_code))

    def _try(self, action: Callable[[Any], object]) -> None:
        """Call `action`; after a failure nothing more is logged.

        The signal that stops this process may have ended W&B's own process. Its error must not cost a checkpoint.
        """
        if (run := self._run) is None:
            return

        def act() -> bool:
            action(run)
            return True

        if not guarded(act, "nothing more is logged there"):
            self._run = None


def guarded(action: Callable[[], T], otherwise: str) -> T | None:
    """The result of `action`, which calls W&B; None after a failure, which is a warning that ends with `otherwise`."""
    try:
        return action()
    except Exception as error:  # noqa: BLE001 -- W&B's connection and mailbox raise classes without a common base
        log.warning("W&B failed (%s); %s", one_line(error), otherwise)
        return None


Mode = Literal["online", "offline", "disabled", "shared"]
_MODES = (*get_args(Mode), "dryrun", "run")  # values of WANDB_MODE; the last two are earlier names


def check_environment(config: Config) -> None:
    """Raise ConfigError where use_wandb is true and WANDB_MODE has no valid value; W&B would raise much later."""
    if config.use_wandb and (found := os.environ.get("WANDB_MODE", "")) and found not in _MODES:
        raise ConfigError(f"WANDB_MODE: expected one of {', '.join(_MODES)}, found {found[:64]!r}; correct or unset it")


def wandb_mode() -> Mode:
    """WANDB_MODE if it is set; "online" with a login and a reachable server; else "offline" and a warning why."""
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
