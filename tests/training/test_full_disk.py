"""A full disk, on a real file system of a few hundred KiB: one line of error, and nothing earlier is lost."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from vizsage.errors import is_disk_full
from vizsage.training import checkpoints

ROOT = Path(__file__).parents[2]
Disk = Callable[[int], Path]


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Mounts a file system of so many KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = []

    def mount(size_kib: int) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", f"size={size_kib}k", "tmpfs", str(folder)]
        if os.getuid() != 0 or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("only root can mount a file system, and not in every container")
        mounted.append(folder)
        return folder

    yield mount
    for place in mounted:
        # Lazily: a file that PyTorch could not write stays open as long as its error is known.
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@pytest.mark.parametrize("size_kib", [700, 2000])
@pytest.mark.parametrize("save", [save_file, torch.save], ids=["safetensors", "torch"])
def test_a_full_disk_is_known_behind_the_errors_of_libraries(disk: Disk, size_kib: int, save: Any) -> None:
    folder = disk(size_kib)
    tensors = {"weight": torch.ones(50_000)}

    def write(step: int) -> None:
        with checkpoints.writing(folder, step, main=True, barrier=lambda: None) as partial:
            save(tensors, partial / "weights")

    write(1)
    tensors["weight"] = torch.ones(600_000)
    with pytest.raises(Exception) as caught:  # noqa: PT011 -- which one is the library's to say
        write(2)
    assert is_disk_full(caught.value)
    assert [path.name for path in folder.iterdir()] == ["checkpoint-1"]
    assert checkpoints.damage(folder / "checkpoint-1") is None


def test_another_error_of_pytorch_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with (
        pytest.raises(RuntimeError, match="inline_container") as caught,
        checkpoints.writing(tmp_path, 1, main=True, barrier=lambda: None),
    ):
        raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534")
    assert not is_disk_full(caught.value)


@pytest.mark.parametrize(
    ("error", "full"),
    [
        (OSError(errno.EDQUOT, "Disk quota exceeded"), True),
        (OSError(errno.EACCES, "No space left on device"), False),
        (Exception("I/O error: No space left on device (os error 28)"), True),
        (ValueError("No such file (os error 2)"), False),
    ],
)
def test_what_says_that_a_disk_is_full(error: Exception, full: bool) -> None:
    assert is_disk_full(error) is full


@pytest.mark.slow
@pytest.mark.parametrize(("command", "size_kib"), [("train", 700), ("train", 2000), ("eval", 32)])
def test_a_command_on_a_full_disk_is_one_line_and_goes_on_later(
    disk: Disk, write_data: Callable[..., Path], write_settings: Callable[..., Path], command: str, size_kib: int
) -> None:
    output_dir = disk(size_kib) / "run"
    path = write_settings(
        model_name="vizsage-tiny", device="cpu", load_in_4bit=False, use_bf16=False, base_path=str(write_data()),
        batch_size=2, grad_accum=1, max_steps=2, save_steps=1, eval_steps=2, num_proc=0, max_new_tokens=2,
        use_gradient_checkpointing=False, output_dir=str(output_dir),
    )  # fmt: skip

    def run() -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-m", "vizsage", command, str(path), *(["--base"] if command == "eval" else [])]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    done = run()
    assert done.returncode == 1, done.stderr
    last = done.stderr.splitlines()[-1]
    assert last.startswith("vizsage: error: ")
    assert last.endswith(": the disk is full; nothing written earlier was lost. Free space and run the command again")
    if command == "train":
        assert json.loads((output_dir / "outcome.json").read_text())["exit_code"] == 1
        assert not [path.name for path in output_dir.iterdir() if path.name.startswith(".checkpoint")]
    else:
        answers = output_dir / "evaluation_results/test-base/answers"
        assert sum(file.read_bytes().count(b"\n") for file in answers.iterdir()) == 3
    subprocess.run(["mount", "-o", "remount,size=40m", str(output_dir.parent)], check=True)
    assert run().returncode == 0
