"""Which GPUs a job may be given: those that the submitter sees, of which each job takes its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from jobs.schedulers.local.visible_gpus import gpus_of_job, visible_gpus
from vizsage.errors import ConfigError


@pytest.mark.parametrize(
    ("variable", "found"),
    [
        ("1,3", ("1", "3")),
        (" 1 , 3", ("1", "3")),
        ("GPU-8932f937,MIG-1", ("GPU-8932f937", "MIG-1")),
        ("", ()),
        ("-1", ()),
        ("0,-1,1", ("0",)),  # CUDA ignores what follows
    ],
)
def test_the_submitter_s_variable_is_respected(
    standin: Callable[[str, str], None], variable: str, found: object
) -> None:
    standin("nvidia-smi", "printf '0\\n1\\n2\\n'")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": variable}) == found


@pytest.mark.parametrize(
    ("nvidia_smi", "found"),
    [
        ("printf '0\\n1\\n'", ("0", "1")),
        ("echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9", ()),
        ("echo 'No devices were found'; exit 6", ()),
    ],
)
def test_without_it_nvidia_smi_tells(standin: Callable[[str, str], None], nvidia_smi: str, found: object) -> None:
    standin("nvidia-smi", nvidia_smi)
    assert visible_gpus({}) == found


def test_a_machine_without_nvidia_smi_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus({}) == ()


@pytest.mark.parametrize(
    ("asked", "there", "on_cpu", "found"),
    [
        (None, ("0", "1"), False, 1),
        (None, ("0", "1"), True, 0),
        (None, (), False, 0),
        (0, ("0",), False, 0),
        (2, ("0", "1"), True, 2),
    ],
)
def test_how_many_a_job_takes(asked: int | None, there: tuple[str, ...], on_cpu: bool, found: int) -> None:
    assert gpus_of_job(asked, there, on_cpu=on_cpu) == found


@pytest.mark.parametrize(("there", "shown"), [((), "has none"), (("2", "5"), "2 (2, 5)")])
def test_more_than_there_are_is_refused(there: tuple[str, ...], shown: str) -> None:
    with pytest.raises(ConfigError) as caught:
        gpus_of_job(3, there, on_cpu=False)
    assert f"--gpus-per-node: 3 asked for, this machine {'has ' if there else ''}{shown}" in str(caught.value)
