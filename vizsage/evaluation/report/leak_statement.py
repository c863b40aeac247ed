"""Whether the samples of an evaluation were trained on, in one sentence."""

from __future__ import annotations

from dataclasses import dataclass

from vizsage.contract.results_file import ResultsFile


@dataclass(frozen=True)
class LeakStatement:
    """`warns`: test images or samples are in the training split."""

    title: str
    text: str
    warns: bool = False


def leak_statement(results: ResultsFile) -> LeakStatement:
    """What results.json says about test samples in the training split; where it says nothing, why."""
    leaks = results.leaks
    if leaks is None:
        return LeakStatement("Leaks: not known", f"{_unknown(results)}.")
    by = "the same bytes" if leaks.images_by == "content" else "the same name; contents were not compared"
    text = (
        f"{leaks.images_in_training:,} of {leaks.images:,} {results.split} images are training images ({by}); "
        f"{leaks.samples_in_training:,} of {leaks.samples:,} samples are training samples; "
        f"{leaks.questions_in_training:,} of {leaks.questions:,} questions are asked in training too, on any image."
    )
    if leaks.images_in_training or leaks.samples_in_training:
        return LeakStatement("Leak", f"{text} The score may be higher than on new images.", warns=True)
    return LeakStatement("No leaks", text)


def _unknown(results: ResultsFile) -> str:
    if results.adapter is None:
        return "This is the base model, and what it was trained on is not recorded"
    if not results.has("leaks"):
        return "This evaluation was made by a version that did not compare its samples with those of the training"
    return "The samples of the training run that made this adapter were not found"
