"""Training, evaluation and prediction as functions, for programs: `from vizsage import train, evaluate, predict`.

The commands of `vizsage` call them too. With unsloth as the backend, call one of them before anything imports
transformers, peft or trl: unsloth has to be imported first, because it patches them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from vizsage.startup import importing

if TYPE_CHECKING:
    from rich.console import Console

    from vizsage.config import Config
    from vizsage.interruption import SignalLatch
    from vizsage.models.loaded import Answer
    from vizsage.training.training_result import TrainingResult


def train(config: Config, *, latch: SignalLatch | None = None) -> TrainingResult:
    """Fine-tune with the settings `config`, or continue the run in its output_dir.

    Args:
        config: from `load_config`.
        latch: one that catches signals already; without it the signals of this call are caught.

    Returns:
        Where the adapter is, and how good it is. The same for a run that was done before.

    Raises:
        ConfigError, DataError, CheckpointError: before anything is trained.
        RepeatingError: the run cannot continue.
        Interrupted: after a signal, once a checkpoint is on disk; the same call continues.
    """
    with importing():
        _prepare_backend(config)
        from vizsage.training.train import train as train_or_continue

    return train_or_continue(config, latch)


def evaluate(
    config: Config,
    *,
    split: str = "test",
    limit: int | None = None,
    base: bool = False,
    adapter: Path | str | None = None,
    blind: bool = False,
    fresh: bool = False,
    other_data: bool = False,
    console: Console | None = None,
    latch: SignalLatch | None = None,
) -> dict[str, Any]:
    """Answer the samples of `split`, and write predictions, results and the report.

    They are written to output_dir/evaluation_results/<split>/, for the base model to <split>-base/, for a blind
    evaluation to <split>-blind/ or <split>-base-blind/. The same call continues after an interruption.

    Args:
        config: from `load_config`.
        split: test, val, train, or the name of another file beside them, without its ending.
        limit: only the first samples, in file order.
        base: the base model without an adapter.
        adapter: folder of another adapter than the one that `config` trains.
        blind: withhold the images; a plain one replaces each.
        fresh: move earlier answers aside and begin again.
        other_data: allow another data set than that of the run in output_dir; its results go to <dataset>-<split>/.
        console: gets tables and progress; None: neither is shown.
        latch: one that catches signals already; without it the signals of this call are caught.

    Returns:
        The content of results.json.

    Raises:
        Interrupted: a signal came; the answers so far are on disk and the same call continues.
        VizSageError: more than 1% of the records failed; the results are written nevertheless.
        RepeatingError: GPU memory exceeded; the answers so far are on disk.
        ConfigError, DataError, CheckpointError: before anything is written, or for an undecodable image on the way.
    """
    with importing():
        _prepare_backend(config)
        from vizsage.evaluation.evaluate import evaluate as evaluate_split

    return evaluate_split(
        config,
        split=split,
        limit=limit,
        base=base,
        adapter=Path(adapter) if adapter is not None else None,
        blind=blind,
        fresh=fresh,
        other_data=other_data,
        console=console,
        latch=latch,
    )


def predict(
    config: Config,
    image: Path | str,
    question: str,
    *,
    description: str | None = None,
    base: bool = False,
    adapter: Path | str | None = None,
) -> Answer:
    """Answer one question about one image file. Each call loads the model; `evaluate` answers many questions.

    Args:
        config: the settings of the run whose adapter answers.
        image: an image in any format that training reads, in any folder.
        question: one question.
        description: external knowledge on the image, put into the prompt as in training.
        base: the base model without an adapter.
        adapter: folder of another adapter than the one that `config` trains.

    Returns:
        The answer; its `text` is never None.

    Raises:
        ConfigError: an empty question, or `base` together with `adapter`.
        DataError: the image is missing or cannot be decoded, or the prompt does not fit.
        CheckpointError: no adapter, or one of another base or prompt.
        RepeatingError: GPU memory exceeded.
    """
    with importing():
        _prepare_backend(config)
        from vizsage.evaluation.predict import predict as answer_question

    return answer_question(
        config,
        Path(image),
        question,
        description=description,
        base=base,
        adapter=Path(adapter) if adapter is not None else None,
    )


def _prepare_backend(config: Config) -> None:
    from vizsage.models.loading.backends import prepare

    prepare(config)
