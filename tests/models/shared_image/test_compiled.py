"""Compiled blocks give the same numbers, with one piece of code for all blocks of a kind. On a CPU without a compiler:
traced and differentiated by torch.compile, run by PyTorch's own kernels, with dense masks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch
from torch._dynamo.backends.registry import lookup_backend
from torch._dynamo.utils import counters
from torch.fx.experimental import _config as shape_config
from torch.torch_version import TorchVersion
from transformers import AutoModelForImageTextToText

from tests.families.data import samples, settings
from tests.models.shared_image.test_sharing import run, sharing_of
from vizsage.data.collate import TrainCollator
from vizsage.models.adapters.lora import add_adapter
from vizsage.models.loading.hf import load_base, quantisation
from vizsage.models.shared_image import compiled

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    counters.clear()
    with torch._dynamo.config.patch(specialize_float=False), shape_config.patch(use_duck_shape=True):
        yield
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("family", "graphs", "recompute"),
    [("mllama", 3, False), ("mllama", 3, True), ("gemma3", 4, False), ("qwen2_5_vl", 2, True)],
)
def test_compiled_blocks_change_nothing(
    family: str, graphs: int, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another length compiles nothing new: a graph for each kind of block, and one more where no gradient comes in.

    No graph takes a number from the CPU: a GPU's kernels then need no compiler but triton's own.
    """
    config = settings(family, use_gradient_checkpointing=recompute, lora_r=4, lora_alpha=8)
    loaded = load_base(config)
    model = add_adapter(loaded, config).train()
    sharing = sharing_of(model, loaded.processor, config)
    collate = TrainCollator(loaded.processor, config, share_images=True)
    batches = [collate(samples()), collate(samples()[:5]), collate(samples()[3:])]
    plain, expected = run(model, batches, sharing)
    sharing.base.gradient_checkpointing_disable()
    kept = saved_bytes(model, batches[:1], sharing)
    if recompute:
        sharing.base.gradient_checkpointing_enable({"use_reentrant": False})
    monkeypatch.setattr(compiled, "is_packed", lambda mask: isinstance(mask, torch.Tensor) and mask.dim() == 4)
    compiled.compile_blocks(sharing.base, backend=without_numbers)
    found, gradients = run(model, batches, sharing)
    assert found == pytest.approx(plain, abs=1e-6)
    for name in expected:
        assert torch.allclose(gradients[name], expected[name], rtol=1e-4, atol=1e-7), name
    assert 0 < counters["stats"]["unique_graphs"] <= graphs
    assert not counters["graph_break"]
    if recompute:
        assert saved_bytes(model, batches[:1], sharing) < kept / 2


@pytest.mark.parametrize("version", ["2.11.0", "2.12.0"])
def test_blocks_of_4_bits_are_recomputed_too(version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Around the compiled code for a PyTorch that would keep what bitsandbytes' layers return."""
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed")
    config = settings("mllama", use_gradient_checkpointing=True)
    in_4_bits = {"quantization_config": quantisation(torch.float32), "device_map": {"": "cpu"}}
    real = AutoModelForImageTextToText.from_pretrained
    monkeypatch.setattr(AutoModelForImageTextToText, "from_pretrained", partial(real, **in_4_bits))
    loaded = load_base(config)
    assert loaded.model.is_loaded_in_4bit
    model = add_adapter(loaded, config).train()
    sharing = sharing_of(model, loaded.processor, config)
    batches = [TrainCollator(loaded.processor, config, share_images=True)(samples())]
    plain, _ = run(model, batches, sharing)
    sharing.base.gradient_checkpointing_disable()
    kept = saved_bytes(model, batches, sharing)
    sharing.base.gradient_checkpointing_enable({"use_reentrant": False})
    monkeypatch.setattr(compiled, "is_packed", lambda mask: isinstance(mask, torch.Tensor) and mask.dim() == 4)
    monkeypatch.setattr(torch, "__version__", TorchVersion(version))
    compiled.compile_blocks(sharing.base, backend="aot_eager_decomp_partition")
    found, _ = run(model, batches, sharing)
    assert found == pytest.approx(plain, abs=1e-5)
    assert saved_bytes(model, batches, sharing) < kept / 4  # a third where they were kept


def without_numbers(graph: torch.fx.GraphModule, inputs: list[Any]) -> Any:
    """PyTorch's own kernels, for a graph whose inputs are tensors of data and lengths."""
    given = [node.meta.get("example_value") for node in graph.graph.nodes if node.op == "placeholder"]
    assert not [value for value in given if isinstance(value, torch.Tensor) and value.dtype == torch.float64]
    return lookup_backend("aot_eager")(graph, inputs)


def saved_bytes(model: Any, batches: list[dict[str, Any]], sharing: Any) -> int:
    """Bytes that autograd keeps for the backward passes of `batches`, weights left aside."""
    weights = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    total = 0

    def note(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal total
        if tensor.untyped_storage().data_ptr() not in weights:
            total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run(model, batches, sharing)
    return total
