"""FlexAttention with its block masks gives the numbers of plain rows, and is compiled a limited number of times.

On a CPU without a compiler: traced and differentiated by torch.compile, run as a plain product.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch.fx.experimental import _config as shape_config
from torch.nn.attention import flex_attention
from transformers.integrations.flex_attention import WrappedFlexAttention

from tests.families.data import randomise_adapter, samples, settings
from tests.models.shared_image.test_sharing import (
    LORA_GRADIENT,
    LORA_LOSS,
    gradients,
    run,
    sharing_of,
)
from vizsage.data.collate import TrainCollator
from vizsage.data.sample import Sample
from vizsage.models import patches
from vizsage.models.adapters.lora import add_adapter
from vizsage.models.loading.hf import load_base
from vizsage.models.shared_image import attention, compiled
from vizsage.training.loss import count_targets, on_device, summed_loss

pytestmark = pytest.mark.slow

ALL = samples()
SEVERAL_BLOCKS = [ALL, ALL[:5], ALL[3:], ALL[1:6], ALL[4:]]
ONE_BLOCK = [ALL[:1], ALL[5:6]]


@pytest.fixture(autouse=True)
def flex_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def use(base: Any) -> bool:
        return attention.use_flex_attention(SimpleNamespace(config=base.config, device=torch.device("cuda")))

    monkeypatch.setattr(patches, "use_flex_attention", use)
    monkeypatch.setattr(attention, "_compiles", lambda _: True)
    monkeypatch.setattr(flex_attention, "_validate_device", lambda *_: None)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(WrappedFlexAttention, "_instance", None)
    torch._dynamo.reset()
    counters.clear()
    with (
        torch._dynamo.config.patch(specialize_float=False, recompile_limit=8),
        shape_config.patch(use_duck_shape=True),
    ):
        yield
    torch._dynamo.reset()


def graphs_of_each(
    family: str, asked: Sequence[Sequence[Sample]], *, blocks_compiled: bool, **changed: Any
) -> list[int]:
    """Graphs compiled up to each micro-batch of `asked`, whose loss and gradients are those of plain rows.

    The backward pass, which computes activations again, has a separate thread, as on a GPU: settings of PyTorch's
    compiler belong to a thread.
    """
    config = settings(family, use_gradient_checkpointing=True, lora_r=4, lora_alpha=8, **changed)
    loaded = load_base(config)
    model = add_adapter(loaded, config).train()
    randomise_adapter(model)
    plain = TrainCollator(loaded.processor, config)
    expected = [run(model, [plain(group)], None) for group in asked]
    shared = sharing_of(model, loaded.processor, config)
    assert shared.flex
    if blocks_compiled:
        compiled.compile_blocks(shared.base, backend="aot_eager")
    packed = TrainCollator(loaded.processor, config, share_images=True)
    graphs = []
    for group, (plain_loss, plain_gradients) in zip(asked, expected, strict=True):
        batch = packed(group)
        loss, _ = summed_loss(model, on_device(batch, shared, model.device), shared)
        loss = loss / count_targets(batch)
        with ThreadPoolExecutor(1) as thread:
            thread.submit(loss.backward).result()
        found = gradients(model)
        assert loss.item() == pytest.approx(plain_loss, abs=LORA_LOSS)
        assert found.keys() == plain_gradients.keys()
        for name, gradient in plain_gradients.items():
            distance = (found[name] - gradient).norm() / gradient.norm().clamp(min=1e-12)
            assert distance < LORA_GRADIENT, f"{name}: {distance:.2e}"
        graphs.append(counters["stats"]["unique_graphs"])
    assert not counters["graph_break"]
    assert not counters["unimplemented"]
    return graphs


def test_more_graphs_than_the_usual_limit_are_compiled() -> None:
    """Else attention goes on uncompiled, which holds the scores of all tokens: on a GPU that is out of memory."""
    graphs = graphs_of_each(
        "mllama", [*ONE_BLOCK, *SEVERAL_BLOCKS[:2]], blocks_compiled=False, finetune_attention_modules=False
    )
    assert graphs[-1] > 8


@pytest.mark.parametrize("family", ["gemma3", "mllama", "qwen2_5_vl"])
@pytest.mark.parametrize("blocks_compiled", [False, True], ids=["attention", "blocks"])
def test_new_lengths_compile_nothing_more(family: str, blocks_compiled: bool) -> None:
    """Not even where a mask of the first row has as many blocks as an image has tiles, 4.

    Attention alone is compiled for the first length, then for any; blocks are compiled for any at once.
    """
    graphs = graphs_of_each(family, SEVERAL_BLOCKS, blocks_compiled=blocks_compiled)
    first = graphs[0 if blocks_compiled else 1]
    assert graphs[-1] == first > 0


def test_a_mask_of_one_block_compiles_once_more() -> None:
    several, one, another = graphs_of_each("qwen2_5_vl", [ALL, *ONE_BLOCK], blocks_compiled=True)
    assert several < one == another
