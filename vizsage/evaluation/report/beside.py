"""Other evaluations of the same samples that a report shows: the blind or the real one, and that of the base model."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from vizsage.contract import PREDICTIONS, RESULTS
from vizsage.contract.results_file import BASE, BLIND, ResultsFile, read_results
from vizsage.errors import ConfigError, DataError, one_line
from vizsage.evaluation.comparison.compare import AgainstBaseline, against_baseline

# A blind evaluation and a real one are compared only if these and the data are the same in both. Otherwise the image
# would not be the only difference.
_ALIKE = (
    "backend", "adapter_sha256", "adapter_config_sha256", "base_files_sha256", "fingerprint", "generation", "precision",
    "max_seq_length", "knowledge", "mode",
)  # fmt: skip


@dataclass(frozen=True)
class BaseModel:
    """The evaluation of the base model on the same samples, and the difference that training made."""

    results: ResultsFile
    against: AgainstBaseline


@dataclass
class Beside:
    """What is shown beside an evaluation.

    Attributes:
        counterpart: results of the blind evaluation of a real one, or of the real one of a blind one.
        base: the base model, for an evaluation of an adapter.
        remarks: why one that is there is not shown, or what else distinguishes it from this one; one line each.
    """

    counterpart: ResultsFile | None = None
    base: BaseModel | None = None
    remarks: list[str] = field(default_factory=list)

    def columns(self) -> dict[str, ResultsFile]:
        """Evaluations whose score is given for each group, by the title of their column."""
        found: dict[str, ResultsFile] = {}
        if self.base:
            found["base model"] = self.base.results
        if self.counterpart:
            found["blind" if self.counterpart.blind else "image shown"] = self.counterpart
        return found


def results_of(folder: Path) -> ResultsFile:
    """results.json. Raises DataError where it is missing, damaged or of another version."""
    path = folder / RESULTS
    try:
        return read_results(folder)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; run vizsage eval first") from None
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: cannot be read: {one_line(error)}; run vizsage eval again: answers that are still valid are kept"
        ) from None


def evaluations_beside(folder: Path, results: ResultsFile) -> Beside:
    """What is shown beside the evaluation in `folder`."""
    beside = Beside()
    other = counterpart_folder(folder)
    if (other / RESULTS).is_file():
        _add_counterpart(beside, other, results)
    base = base_folder(folder)
    if results.adapter is not None and base != folder.absolute() and (base / RESULTS).is_file():
        _add_base(beside, folder, base, results)
    return beside


def _add_counterpart(beside: Beside, other: Path, results: ResultsFile) -> None:
    try:
        found = results_of(other)
    except DataError:
        return
    differ = [name for name in _ALIKE if getattr(found, name) != getattr(results, name)]
    if found.data.sha256 != results.data.sha256:
        differ.append("data")
    if differ:
        remark = f"{other.name} is not compared with this: it has another {', '.join(differ)}. Evaluate it again."
        beside.remarks.append(remark)
    else:
        beside.counterpart = found


def _add_base(beside: Beside, folder: Path, base: Path, results: ResultsFile) -> None:
    try:
        found = results_of(base)
        if found.mode != results.mode:
            raise DataError(f"its mode of exact match is {found.mode}, here it is {results.mode}; evaluate it again")
        against = against_baseline(folder, base)
    except (ConfigError, DataError, OSError) as error:
        beside.remarks.append(f"{base.name}, the base model, is not shown beside this: {one_line(error)}.")
        return
    beside.base = BaseModel(found, against)
    for warning in against.warnings:
        for each in (base, folder):
            warning = warning.replace(str(each / PREDICTIONS), each.name)
        beside.remarks.append(f"{warning}.")


def counterpart_folder(folder: Path) -> Path:
    """The folder of the blind evaluation of the real one in `folder`, or of the real one of a blind one."""
    name = folder.absolute().name
    return folder.absolute().with_name(name.removesuffix(BLIND) if name.endswith(BLIND) else name + BLIND)


def base_folder(folder: Path) -> Path:
    """The folder of the same evaluation of the base model; the folder itself where it is one."""
    name = folder.absolute().name
    plain, blind = name.removesuffix(BLIND), BLIND if name.endswith(BLIND) else ""
    return folder.absolute().with_name(plain.removesuffix(BASE) + BASE + blind)


def shown_by(folder: Path) -> list[Path]:
    """Folders of evaluations whose reports show the one in `folder`, so that they are to be written again after it."""
    folder = folder.absolute()
    found = [counterpart_folder(folder)]
    if base_folder(folder) == folder:
        plain, blind = folder.name.removesuffix(BLIND), BLIND if folder.name.endswith(BLIND) else ""
        found.append(folder.with_name(plain.removesuffix(BASE) + blind))
    return [each for each in found if (each / RESULTS).is_file()]
