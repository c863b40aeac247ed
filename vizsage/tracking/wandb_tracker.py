"""Weights & Biases: online where it can be reached, else offline, without making a run wait."""

from __future__ import annotations

import logging
import os
import secrets
import socket
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, cast, get_args
from urllib.parse import urlsplit

from vizsage.config import Config
from vizsage.contract.run_files import MetricsLine, read_run
from vizsage.errors import ConfigError
from vizsage.files import write_text
from vizsage.tracking.tracker import AnswerTable, AttemptStart, TrackedEvaluation, Tracker, guarded

log = logging.getLogger(__name__)

_CONNECT_S = 5.0
_INIT_S = 30.0
_FINISH_S = 60.0
_RUN_ID = "vizsage-run-id"
_TITLE = "W&B"


class WandbTracker(Tracker):
    """A W&B run. All attempts at a training and the evaluations in its output_dir have the same id."""

    title, package = _TITLE, "wandb"

    def __init__(self, config: Config) -> None:
        self.config = config
        self.run_id: str | None = None
        self._run: Any = None

    @classmethod
    def check(cls) -> None:
        """Raise ConfigError where WANDB_MODE has no valid value; W&B would raise much later."""
        if (found := os.environ.get("WANDB_MODE", "")) and found not in _MODES:
            raise ConfigError(
                f"WANDB_MODE: expected one of {', '.join(_MODES)}, found {found[:64]!r}; correct or unset it"
            )

    def begin(self, start: AttemptStart) -> None:
        """Open the W&B run. A server keeps what was logged before; repeated steps have the same values."""
        self._open()

    def log(self, line: MetricsLine) -> None:
        """Log the numbers of a line under its step."""
        self._run.log({key: value for key, value in line.content().items() if value is not None})

    def finish(self, exit_code: int, best_scores: dict[str, Any] | None) -> None:
        """Upload the rest, for at most `_FINISH_S`, and end the W&B run."""
        self._run.summary.update(best_scores or {})
        self._run.finish(exit_code=exit_code)

    def log_evaluation(self, evaluation: TrackedEvaluation) -> None:
        """The numbers in the summary, a table and the report. All names begin with that of the evaluation's folder."""
        self._open()
        media: tuple[tuple[str, Callable[[], Any]], ...] = (
            ("table", partial(_table, evaluation)),
            ("report", partial(_report, evaluation)),
        )
        for what, make in media:
            made = guarded(_TITLE, make, f"without the {what}")
            if made is not None:
                self._run.log({f"{evaluation.name}/{what}": made})
        self._run.summary.update({f"{evaluation.name}/{key}": value for key, value in evaluation.scores.items()})
        self._run.finish(exit_code=0)

    def _open(self) -> None:
        import wandb

        config = self.config
        self.run_id = run_id = _run_id(config.output_dir)
        quiet = wandb.Settings(silent=True, init_timeout=_INIT_S, finish_timeout=_FINISH_S, console="off")

        def begin(mode: Mode) -> tuple[Any, Mode]:
            run = wandb.init(
                project=config.wandb_project,
                name=config.wandb_run_name or config.output_dir.name,
                tags=list(config.wandb_tags),
                id=run_id,
                config=config.model_dump(mode="json"),
                dir=str(config.output_dir),
                mode=mode,
                # Only a server can resume; the offline files of one id are joined by `wandb sync --append`.
                resume="allow" if mode == "online" else None,
                settings=quiet,
            )
            return run, mode

        run, mode = guarded(_TITLE, lambda: begin(wandb_mode()), "logging offline") or begin("offline")
        run.define_metric("*", step_metric="step")
        log.info("W&B run %s (%s) in %s", run_id, mode, Path(run.dir).parent)
        self._run = run


def _run_id(output_dir: Path) -> str:
    """The id of the W&B run of `output_dir`: the one used before, or a new one, which is written down."""
    path = output_dir / "wandb" / _RUN_ID
    with suppress(FileNotFoundError):
        if known := path.read_text(encoding="utf-8").strip():
            return known
    earlier: str | None = None
    with suppress(OSError, ValueError):  # no training, or a damaged record, which is not needed here
        earlier = read_run(output_dir).wandb_run_id
    run_id = earlier or secrets.token_hex(4)
    write_text(path, f"{run_id}\n")
    return run_id


def _table(evaluation: TrackedEvaluation) -> Any:
    import wandb
    from PIL import Image

    found: AnswerTable = evaluation.table()
    table = wandb.Table(columns=[*found.columns])
    shown: dict[bytes, Any] = {}  # one image for all its questions
    for image, row in zip(found.images, found.rows, strict=True):
        if image is not None and image not in shown:
            shown[image] = wandb.Image(Image.open(BytesIO(image)))
        table.add_data(None if image is None else shown[image], *row)
    return table


def _report(evaluation: TrackedEvaluation) -> Any:
    import wandb

    # Without inject=False wandb adds elements, which the Content Security Policy of the page refuses.
    return wandb.Html(evaluation.report.read_text(encoding="utf-8"), inject=False)


Mode = Literal["online", "offline", "disabled", "shared"]
_MODES = (*get_args(Mode), "dryrun", "run")  # values of WANDB_MODE; the last two are earlier names


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
