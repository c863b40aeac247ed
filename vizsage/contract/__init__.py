"""What other programs may rely on: the names of the files of a run, and the exit codes of every command.

Standard library only, and nothing of VizSage: every other module may import it, and `vizsage --help` does. The content
of the files is described by the modules of this package, which need pydantic.
"""

from __future__ import annotations

# --- exit codes: also repeated in shell, YAML and Markdown, which tests/contract/test_exit_codes.py compares with these
EXIT_DONE = 0
EXIT_UNKNOWN = 1
EXIT_USAGE = 2
EXIT_DATA = 3
EXIT_REPEATS = 4
EXIT_INTERRUPTED = 75  # EX_TEMPFAIL of sysexits.h: run the same command again
EXIT_KEYBOARD = 130  # what a shell reports for a program that Ctrl-C ended
EXITS_WITH_CAUSE = (EXIT_USAGE, EXIT_DATA, EXIT_REPEATS)
"""Exit codes that name a cause. Of several processes or pods, those that only lose their peer end with other codes."""

# --- the run directory (output_dir)
RUN = "run.json"
OUTCOME = "outcome.json"
CONFIG = "config.yaml"
METRICS = "metrics.jsonl"
LOSS_CURVES = "loss.png"
SAMPLE_HASHES = "sample_hashes.json"  # also in the folder of an evaluation
EVALUATIONS = "evaluation_results"
LOCK = ".lock"
ADAPTER_WEIGHTS = "adapter_model.safetensors"  # in the adapter's folder
TRACKERS = {
    "wandb": "vizsage.tracking.wandb_tracker:WandbTracker",
    "tensorboard": "vizsage.tracking.tensorboard_tracker:TensorboardTracker",
}
"""The trackers: the name in the setting `trackers`, which is also that of the folder in output_dir for the tracker's
files, and the class. It is here because the settings and this list of files need the names before a class is loaded."""
RUN_FILES = (RUN, CONFIG, METRICS, LOSS_CURVES, OUTCOME, SAMPLE_HASHES, EVALUATIONS, *TRACKERS)
"""What a run writes into output_dir, except for checkpoints and the adapter."""
RUN_FOLDERS = (EVALUATIONS, *TRACKERS)
"""Those of RUN_FILES that are folders."""

# --- checkpoints and what is kept of earlier ones
CHECKPOINT_PREFIX = "checkpoint-"  # followed by the optimizer steps done
DAMAGED_PREFIX = "damaged-"  # before the name of a checkpoint that does not verify
PREVIOUS_PREFIX = "previous-"  # an earlier run that resume: false moved aside; followed by a number

# --- a folder of an evaluation: EVALUATIONS/<name>/
RESULTS = "results.json"
PREDICTIONS = "predictions.jsonl"
REPORT = "report.html"
ANSWERS_OF_ANY = f"{EVALUATIONS}/*/answers/*.jsonl"
"""Pattern of the files in a run directory that evaluations append their answers to."""

# --- what launchers keep in a run directory, and in the folder of a sweep
JOBS = "jobs"
SUBMISSIONS = "submissions.jsonl"
SWEEP = "sweep.json"


def checkpoint_name(step: int) -> str:
    """The folder of the checkpoint that was written after `step` optimizer steps."""
    return f"{CHECKPOINT_PREFIX}{step}"


def checkpoint_step(name: str) -> int | None:
    """The optimizer steps in the name of a checkpoint's folder; None for any other name."""
    digits = name.removeprefix(CHECKPOINT_PREFIX)
    return int(digits) if digits != name and digits.isascii() and digits.isdigit() else None
