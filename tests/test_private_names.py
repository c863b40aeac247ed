"""Every private name of another library that the code uses: where, what breaks without it, and that it is still there.

A release may change a private name without notice. Each one is used in one module only, which the table names, so that
there is one place to change. Add a line here only where the library has no public way.
"""

from __future__ import annotations

import importlib
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.private_names import inherited_by, names_in

ROOT = Path(__file__).parents[1]
SOURCES = [path for folder in ("vizsage", "jobs", "benchmarks") for path in sorted((ROOT / folder).rglob("*.py"))]


@dataclass(frozen=True)
class PrivateName:
    """`exists` returns what the installed release has under the name; `parameters` are those that we rely on."""

    name: str
    module: str
    without_it: str
    exists: Callable[[], Any]
    parameters: tuple[str, ...] | None = None


def _trainer(name: str) -> Callable[[], Any]:
    def found() -> Any:
        from transformers import Trainer

        # The loop has to call it, or what we put there would be of no effect.
        assert f"self.{name}(" in inspect.getsource(Trainer)
        return getattr(Trainer, name)

    return found


def _submitit(where: str, name: str) -> Callable[[], Any]:
    def found() -> Any:
        slurm = importlib.import_module("submitit.slurm.slurm")
        return getattr(getattr(slurm, where) if where else slurm, name)

    return found


def _multimodal_tokens() -> Any:
    from transformers import Qwen2VLProcessor

    return Qwen2VLProcessor._get_num_multimodal_tokens


def _process_images() -> Any:
    from transformers import ProcessorMixin

    assert "self._process_images(" in inspect.getsource(ProcessorMixin.__call__)
    return ProcessorMixin._process_images


def _small_model() -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    return LlamaForCausalLM(
        LlamaConfig(vocab_size=8, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )


def _attn_implementation() -> Any:
    model = _small_model()
    model.config._attn_implementation = "eager"
    assert model.model.layers[0].self_attn.config._attn_implementation == "eager"
    return model.config._attn_implementation


def _gradient_checkpointing_func() -> Any:
    model = _small_model()
    model.gradient_checkpointing_enable()
    return model.model.layers[0]._gradient_checkpointing_func


def _dynamo() -> Any:
    import torch

    config = torch._dynamo.config
    assert isinstance(config.recompile_limit, int)
    assert isinstance(config.specialize_float, bool)
    return config


def _config() -> Any:
    from torch.fx.experimental import _config

    assert isinstance(_config.use_duck_shape, bool)
    return _config


def _argument_group() -> Any:
    import argparse

    return argparse._ArgumentGroup.add_argument


TRAINER, SBATCH = "vizsage/training/trainer.py", "jobs/schedulers/slurm/sbatch.py"
TABLE = [
    PrivateName(
        "_save_checkpoint",
        TRAINER,
        "Trainer writes its own checkpoints, which a kill leaves half-written, without the run's progress in them",
        _trainer("_save_checkpoint"),
        ("self", "model", "trial"),
    ),
    PrivateName(
        "_load_optimizer_and_scheduler",
        TRAINER,
        "several processes on CPUs cannot continue: Trainer maps their states to cpu:0, which torch does not know",
        _trainer("_load_optimizer_and_scheduler"),
        ("self", "checkpoint"),
    ),
    PrivateName(
        "_load_rng_state",
        TRAINER,
        "a file of random states that is not what a run writes ends in a traceback instead of one line",
        _trainer("_load_rng_state"),
        ("self", "checkpoint"),
    ),
    PrivateName(
        "_get_grad_norm",
        TRAINER,
        "a loss or gradient that is not finite is noticed after the optimizer has spoilt the weights",
        _trainer("_get_grad_norm"),
        ("self", "model", "grad_norm"),
    ),
    PrivateName(
        "_process_images",
        "vizsage/data/images_once.py",
        "the pixels of a shared image are computed for each of its questions",
        _process_images,
        ("self", "images"),
    ),
    PrivateName(
        "_get_num_multimodal_tokens",
        "vizsage/data/processing.py",
        "batches of an evaluation are filled by the tokens of a blank image, not by those of each image",
        _multimodal_tokens,
        ("self", "image_sizes"),
    ),
    PrivateName(
        "_attn_implementation",
        "vizsage/models/attention_names.py",
        "models of unsloth's generated code cannot be given the attention that packed rows need",
        _attn_implementation,
    ),
    PrivateName(
        "_gradient_checkpointing_func",
        "vizsage/models/recomputation.py",
        "activations of a shared image's rows are kept, or those of a tower that unsloth loaded: memory runs out",
        _gradient_checkpointing_func,
    ),
    PrivateName(
        "_dynamo",
        "vizsage/models/shared_image/compiler_settings.py",
        "compiled layers are compiled again for each length, and after eight times not any more",
        _dynamo,
    ),
    PrivateName(
        "_config",
        "vizsage/models/shared_image/compiler_settings.py",
        "layers are compiled again for each row whose sizes are not equal where those of the first were",
        _config,
    ),
    PrivateName(
        "_submit_command",
        SBATCH,
        "submitit sends a pickled function only, which another Python or a container cannot read",
        _submitit("SlurmExecutor", "_submit_command"),
        ("self", "command"),
    ),
    PrivateName(
        "_get_job_id_from_submission_command",
        SBATCH,
        "the answer of sbatch that names a cluster beside the job is read without the cluster",
        _submitit("SlurmExecutor", "_get_job_id_from_submission_command"),
        ("string",),
    ),
    PrivateName(
        "_make_sbatch_string",
        "jobs/schedulers/slurm/script.py",
        "--dry-run cannot show the script that is sent",
        _submitit("", "_make_sbatch_string"),
        ("command", "folder", "map_count"),
    ),
    PrivateName(
        "_ArgumentGroup",
        "jobs/parser.py",
        "nothing at run time: it is what argparse calls the type of an argument group",
        _argument_group,
    ),
]


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_it_exists_in_the_installed_release(entry: PrivateName) -> None:
    found = entry.exists()
    assert found is not None, entry.without_it
    if entry.parameters is not None:
        assert set(entry.parameters) <= set(inspect.signature(found).parameters), entry.without_it


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_other_private_name_is_used(path: Path) -> None:
    module = str(path.relative_to(ROOT))
    found = names_in(path.read_text(encoding="utf-8"))
    if path.name != "__main__.py":
        found |= inherited_by(importlib.import_module(module.removesuffix(".py").replace("/", ".")))
    unknown = found - {entry.name for entry in TABLE if entry.module == module}
    assert not unknown, f"{module} uses {sorted(unknown)} of another library: use its public way, or see the table"


def test_each_name_has_one_module() -> None:
    assert len({entry.name for entry in TABLE}) == len(TABLE)


@pytest.mark.parametrize("entry", TABLE, ids=lambda entry: entry.name)
def test_the_table_is_up_to_date(entry: PrivateName) -> None:
    assert re.search(rf"\b{entry.name}\b", (ROOT / entry.module).read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ("import torch._dynamo", {"_dynamo"}),
        ("from lib._inner import Thing", {"_inner"}),
        ("from lib import _name as public", {"_name"}),
        ("thing._name = 1", {"_name"}),
        ("getattr(thing, '_name')", {"_name"}),
        ("NAME = '_name'\nsetattr(thing, NAME, 1)", {"_name"}),
        ("from vizsage.errors import _name", set()),
        ("class Own:\n    def run(self): self._name = 1\nOwn()._name", set()),
        ("def _name(): ...\n_name.__doc__", set()),
    ],
)
def test_what_counts_as_a_private_name_of_others(code: str, found: set[str]) -> None:
    assert names_in(code) == found


def test_overridden_names_and_attributes_of_a_base_count_too() -> None:
    from tests import overriding

    assert inherited_by(overriding) == {"_save_checkpoint", "_tr_loss"}
