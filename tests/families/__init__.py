"""Builders of small random models of the real architectures, with tokenizer and processor made on the spot.

`BUILDERS[name](folder)` writes one to a folder; END_OF_TURN[name] is the token that ends an answer there. The sets say
how the processors and templates of a family differ from those of most.
"""

from __future__ import annotations

import atexit
import functools
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from tests.families import gemma3, idefics, llava, mllama, qwen

BUILDERS: dict[str, Callable[[Path], Path]] = {
    "mllama": mllama.build,
    "qwen2_vl": qwen.build_2,
    "qwen2_5_vl": qwen.build_2_5,
    "qwen3_vl": qwen.build_3,
    "llava": llava.build,
    "idefics3": idefics.build_idefics3,
    "smolvlm": idefics.build_smolvlm,
    "gemma3": gemma3.build,
}
END_OF_TURN: dict[str, str] = {
    "mllama": mllama.END_OF_TURN,
    "llava": llava.END_OF_TURN,
    "gemma3": gemma3.END_OF_TURN,
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), qwen.END_OF_TURN),
    **dict.fromkeys(("idefics3", "smolvlm"), idefics.END_OF_TURN),
}
FIRST_TOKEN_BY_TOKENIZER = {"llava"}  # its template leaves it out
IMAGE_FIRST = {"llava"}  # its template puts images before all text
WITHOUT_TORCHVISION = {"mllama", "llava", "gemma3"}  # whose processors do not need it


@functools.cache
def model_folder(name: str) -> Path:
    """Folder of the family's model, built once per process and deleted at its end."""
    folder = Path(tempfile.mkdtemp(prefix=f"vizsage-{name}-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return BUILDERS[name](folder)
