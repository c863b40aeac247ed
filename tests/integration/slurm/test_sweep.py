"""Four runs, each followed by its evaluation; one of them fails."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.integration.run_files import MISHAPS
from tests.integration.slurm.cluster import Cluster
from tests.integration.slurm.user import User
from vizsage.json_lines import read_jsonl

pytestmark = pytest.mark.slurm

NAMES = ("lr=5e-3,lora_r=4", "lr=5e-3,lora_r=8", "lr=1e-2,lora_r=4", "lr=1e-2,lora_r=8")
FAILS = "lr=5e-3,lora_r=8"
# Steps that are enough for some right answers: a column of zeros would show nothing.
QUICK = {"batch_size": 4, "grad_accum": 1, "max_steps": 6, "eval_steps": 3, "val_samples": 12, "warmup_steps": 1}


def rows(printed: str) -> list[dict[str, str]]:
    """The rows of a printed table."""
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in printed.splitlines()]
    header, *rows = [row for row in cells if row]
    return [dict(zip(header, row, strict=True)) for row in rows]


def scores(run_dir: Path) -> tuple[str, str]:
    """Best exact match in validation and exact match on the test split, as a table shows them."""
    lines = [line for line in read_jsonl(run_dir / "metrics.jsonl") if "exact_match" in line and line["step"]]
    best = max(line["exact_match"] for line in lines)
    results = json.loads((run_dir / "evaluation_results" / "test" / "results.json").read_text())
    return f"{best:.3f}", f"{results['exact_match_score']:.3f}"


def test_a_failing_member_hurts_no_other_and_the_table_is_right(cluster: Cluster, user: User) -> None:
    crash = f'case "$run_dir" in *{FAILS}) export MISHAP="crash 1" ;; esac'
    profile = user.profile("sweep", setup=[crash], environment={"PYTHONPATH": str(MISHAPS)}, max_retries=0)
    printed = user.jobs(
        *("sweep", "slurm", "train", user.config("sweep", **QUICK), "lr=5e-3,1e-2", "lora_r=4,8"),
        *("--profile", profile, "--then-eval"),
    )
    evaluations = re.findall(r"evaluation job (\d+)", printed)
    assert len(evaluations) == 4, printed
    runs = json.loads((user.folder / "sweep" / "sweep.json").read_text())["runs"]
    assert [Path(run["run_dir"]).name for run in runs] == list(NAMES)
    assert len({run["job_id"].split("_")[0] for run in runs}) == 1, "no array"

    for name, run, evaluation in zip(NAMES, runs, evaluations, strict=True):
        fails = name == FAILS
        assert cluster.wait_for(run["job_id"]) == ("FAILED" if fails else "COMPLETED"), name
        assert cluster.wait_for(evaluation) == ("CANCELLED" if fails else "COMPLETED"), name

    table = rows(user.jobs("table", user.folder / "sweep"))
    assert [row["run"] for row in table] == list(NAMES)
    for name, row in zip(NAMES, table, strict=True):
        fails = name == FAILS
        best, test = ("-", "-") if fails else scores(user.folder / "sweep" / name)
        lr, rank = re.findall(r"=([^,]+)", name)
        assert (float(row["lr"]), row["lora_r"]) == (float(lr), rank)
        assert (row["best validation exact match"], row["test exact match"]) == (best, test)
        assert row["state"] == ("failed" if fails else "completed")
    assert any(float(row["test exact match"]) > 0 for row in table if row["run"] != FAILS)
