"""From measurements to ratios, bars and a table. Nothing here needs torch.

A measurement is a dict with contender, questions and either samples_per_s, step_s, peak_gb, data_wait_share, or failed,
or not_run. One that an earlier run made has merged: true.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rich.table import Table

from benchmarks.throughput.contenders import CONTENDERS, Contender
from benchmarks.throughput.measured_rows import row_differences

Measurement = dict[str, Any]

MANY, ONE = 4.8, 1.0  # questions per image that the bars speak of: as in AQUA's test split, and a single one
WAITING_BAR = 0.02
SPEED_BARS = {  # (family, bits, questions per image, whom): times as fast
    ("mllama", 16, MANY, "unsloth-16bit"): 6.0,
    ("mllama", 16, MANY, "trl-16bit"): 5.0,
    ("mllama", 4, MANY, "unsloth-4bit"): 5.0,
    ("mllama", 16, ONE, "unsloth-16bit"): 2.0,
    ("qwen2_5_vl", 16, MANY, "unsloth-16bit"): 2.5,
}
PEAK_BARS = {  # (family, bits, questions per image): no more memory than whom
    ("mllama", 16, MANY): "unsloth-16bit",
    ("mllama", 4, MANY): "unsloth-4bit",
}


@dataclass(frozen=True)
class Bar:
    """A promise and what was found; `met` is None where it was not measured."""

    what: str
    found: str
    bar: str
    met: bool | None


def with_ratios(measurements: Iterable[Measurement]) -> list[Measurement]:
    """Add ratios to the measurements that have figures: to unsloth in as many bits, to TRL, to the plain way.

    `ratio_merged` names ratios of which one side was measured in another run.
    """
    rows = [dict(row) for row in measurements]
    by_key = {(row["contender"], row["questions"]): row for row in rows if "samples_per_s" in row}
    for (name, questions), row in by_key.items():
        contender = CONTENDERS[name]
        others = {
            "unsloth": f"unsloth-{contender.bits}bit",
            "trl": "trl-16bit",
            "plain": name.replace("shared", "plain"),
        }
        row["ratio_merged"] = []
        for whom, other in others.items():
            theirs = by_key.get((other, questions)) if other != name else None
            row[f"ratio_to_{whom}"] = row["samples_per_s"] / theirs["samples_per_s"] if theirs else None
            if theirs and _run_of(theirs) != _run_of(row):
                row["ratio_merged"].append(whom)
    return rows


def find_bars(measurements: Iterable[Measurement], *, size: str, family: str) -> list[Bar]:
    """The bars of this family. They are promises about real sizes: the small models have none."""
    if size != "real":
        return []
    rows = {(row["contender"], row["questions"]): row for row in measurements}
    bars = []
    for (of, bits, questions, whom), times in SPEED_BARS.items():
        if of == family:
            ours, theirs = _best(rows, family, bits, questions), rows.get((whom, questions), {})
            what = f"{questions:g} questions per image, {bits} bits: speed over {whom}"
            bars.append(_compare(what, ours, theirs, "samples_per_s", "samples/s", f">= {times:g} x", times))
    for (of, bits, questions), whom in PEAK_BARS.items():
        if of == family:
            ours, theirs = _best(rows, family, bits, questions), rows.get((whom, questions), {})
            what = f"{questions:g} questions per image, {bits} bits: peak memory against {whom}"
            bars.append(_compare(what, ours, theirs, "peak_gb", "GB", "no more", None))
    waits = [
        (row["data_wait_share"], row)
        for row in rows.values()
        if CONTENDERS[row["contender"]].shared and row.get("data_wait_share") is not None
    ]
    worst = max(waits, key=lambda pair: pair[0], default=None)
    found = f"{100 * worst[0]:.2f}% ({worst[1]['contender']}, {worst[1]['questions']:g})" if worst else "not measured"
    met = worst[0] < WAITING_BAR if worst else None
    bars.append(Bar("share of a step waiting for data, the most of all that share", found, "< 2%", met))
    return bars


def make_table(measurements: Iterable[Measurement], title: str) -> Table:
    """All that was tried; a star marks figures and ratios of which a part comes from an earlier run."""
    heads = ("contender", "questions", "samples/s", "step s", "peak GB", "waiting", "x unsloth", "x TRL", "x plain")
    table = Table(*heads, title=title)
    for row in measurements:
        name, questions = row["contender"] + ("*" if row.get("merged") else ""), f"{row['questions']:g}"
        if "samples_per_s" not in row:
            if "failed" in row:
                table.add_row(name, questions, "failed")
            continue
        wait, peak = row["data_wait_share"], row["peak_gb"]
        table.add_row(
            name, questions, f"{row['samples_per_s']:.2f}", f"{row['step_s']:.2f}",
            "-" if peak is None else f"{peak:.1f}", "-" if wait is None else f"{100 * wait:.1f}%",
            *(_ratio(row, whom) for whom in ("unsloth", "trl", "plain")),
        )  # fmt: skip
    return table


def notes(measurements: Iterable[Measurement], expected_row: dict[str, Any]) -> list[str]:
    """Footnotes of the table: why a figure is missing, rows unlike those of the rest, figures of other runs."""
    rows = list(measurements)
    found: dict[str, None] = {}
    for reason in dict.fromkeys(row["not_run"] for row in rows if "not_run" in row):
        names = dict.fromkeys(row["contender"] for row in rows if row.get("not_run") == reason)
        found[f"not run: {reason}: {', '.join(names)}"] = None
    for row in rows:
        if "failed" in row:
            found[f"failed: {row['contender']}, {row['questions']:g}: {row['failed']}"] = None
        for difference in row_differences(row["row"], expected_row) if row.get("row") else ():
            found[f"{row['contender']}: {difference}"] = None
        if row.get("merged"):
            found[f"* measured in the run of {row['run']['started']}, on the same kind of machine"] = None
    return list(found)


def _best(rows: dict[tuple[str, float], Measurement], family: str, bits: int, questions: float) -> Measurement:
    """The fastest of our contenders that share images.

    The promise about memory is for the same contender: if some keep it, the fastest of these is taken. Without any
    figures: one that failed, if any did.
    """
    ours = [row for (name, q), row in rows.items() if q == questions and _shares(CONTENDERS[name], bits)]
    measured = [row for row in ours if "samples_per_s" in row]
    if not measured:
        return next((row for row in ours if "failed" in row), {})
    limit = rows.get((PEAK_BARS.get((family, bits, questions), ""), questions), {}).get("peak_gb")
    within = [row for row in measured if limit is not None and row["peak_gb"] <= limit]
    best: Measurement = max(within or measured, key=lambda row: row["samples_per_s"])
    return best


def _compare(
    what: str, ours: Measurement, theirs: Measurement, key: str, unit: str, bar: str, times: float | None
) -> Bar:
    """`times`: ours must be as many times theirs at least; None: no more than theirs."""
    if ours.get(key) is None or theirs.get(key) is None:
        failed = [row["contender"] for row in (ours, theirs) if "failed" in row]
        return Bar(what, f"{failed[0]} failed" if failed else "not measured", bar, False if failed else None)
    ratio = ours[key] / theirs[key]
    star = "*" if _run_of(ours) != _run_of(theirs) else ""
    found = f"{ratio:.2f} x{star} ({ours['contender']} {ours[key]:.1f}, {theirs['contender']} {theirs[key]:.1f} {unit})"
    return Bar(what, found, bar, ratio >= times if times is not None else ratio <= 1)


def _shares(contender: Contender, bits: int) -> bool:
    return contender.shared and contender.bits == bits


def _ratio(row: Measurement, whom: str) -> str:
    ratio = row.get(f"ratio_to_{whom}")
    return "" if ratio is None else f"{ratio:.2f}{'*' if whom in row['ratio_merged'] else ''}"


def _run_of(row: Measurement) -> str:
    return str(row["run"]["started"])
