"""LoRA layers without casts give what PEFT's own give, and keep and move less."""

from __future__ import annotations

import collections
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from tests.families.data import randomise_adapter, samples, settings
from vizsage.data.collate import TrainCollator
from vizsage.models.adapters.lora import add_adapter
from vizsage.models.adapters.lora_linear import fast_lora
from vizsage.models.loading.hf import load_base

TOKENS, WIDTH, OUT = 24, 48, 80


class Block(nn.Module):
    """Two products of one input, as those of queries and keys."""

    def __init__(self, bias: bool) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(WIDTH, OUT, bias=bias), nn.Linear(WIDTH, OUT, bias=bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x) * self.second(x).sigmoid()


def adapted(dtype: torch.dtype = torch.float32, *, bias: bool = False, **changed: Any) -> Any:
    """A Block with float32 adapters that are no longer zero."""
    torch.manual_seed(0)
    lora = LoraConfig(**{"r": 4, "lora_alpha": 4, "target_modules": ["first", "second"], **changed})
    model = get_peft_model(Block(bias).to(dtype), lora).train()
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.float()
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model


def both(dtype: torch.dtype = torch.float32, **changed: Any) -> tuple[Any, Any]:
    """PEFT's layers, and the same with this project's forward."""
    fast = adapted(dtype, **changed)
    assert fast_lora(fast) == 2
    return adapted(dtype, **changed), fast


def run(
    model: Any, dtype: torch.dtype | None = None, *, kind: torch.dtype | None = None, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Output and gradients for an input of dtype `kind`, under autocast to `dtype` if that is given."""
    torch.manual_seed(1)
    x = torch.randn(2, TOKENS, WIDTH).to(kind or dtype or torch.float32).requires_grad_()
    wanted = torch.randn(2, TOKENS, OUT)
    torch.manual_seed(seed)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        out = model(x)
    (out.float() * wanted).sum().backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert x.grad is not None
    return {"out": out.detach(), "x": x.grad, **found}


def distances(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> dict[str, float]:
    assert found.keys() == expected.keys()
    return {
        name: float((found[name].double() - value.double()).norm() / value.double().norm())
        for name, value in expected.items()
    }


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("changed", [{}, {"lora_alpha": 7}, {"use_rslora": True}, {"lora_dropout": 0.3}], ids=str)
def test_output_and_gradients_are_those_of_peft(bias: bool, changed: dict[str, Any]) -> None:
    plain, fast = both(bias=bias, **changed)
    assert max(distances(run(fast), run(plain)).values()) < 1e-6


def test_another_dropout_is_another_output() -> None:
    _, fast = both(lora_dropout=0.3)
    assert distances({"out": run(fast)["out"]}, {"out": run(fast, seed=1)["out"]})["out"] > 1e-3


@pytest.mark.parametrize("bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("alpha", [4, 7])
def test_under_autocast_it_is_as_near_to_float32_as_peft(alpha: int, bias: bool) -> None:
    plain, fast = both(torch.bfloat16, bias=bias, lora_alpha=alpha)
    exact = adapted(torch.bfloat16, bias=bias, lora_alpha=alpha).float()
    found, theirs, expected = run(fast, torch.bfloat16), run(plain, torch.bfloat16), run(exact)
    for name, value in theirs.items():
        assert found[name].dtype == value.dtype
    ours, peft = distances(found, expected), distances(theirs, expected)
    assert all(ours[name] < 1.2 * peft[name] + 1e-4 for name in ours)
    assert max(ours.values()) < 2e-2


def test_float32_inputs_under_autocast() -> None:
    """As in a vision tower, whose LayerNorms put out float32 there."""
    plain, fast = both(bias=True)
    found, theirs = (run(model, torch.bfloat16, kind=torch.float32) for model in (fast, plain))
    assert found["out"].dtype == theirs["out"].dtype == torch.bfloat16
    assert found["x"].dtype == torch.float32
    assert max(distances(found, theirs).values()) < 2e-2


@pytest.mark.parametrize("family", ["mllama", "qwen2_5_vl"])
def test_a_whole_model_checkpointed_with_vision_layers(family: str) -> None:
    found = []
    for prepare in (lambda _: 0, fast_lora):
        config = settings(family, finetune_vision_layers=True, use_gradient_checkpointing=True, use_rslora=True)
        loaded = load_base(config)
        model = add_adapter(loaded, config).train()
        adapters = sum(name.endswith("lora_A.default.weight") for name, _ in model.named_parameters())
        assert prepare(model) in (0, adapters)
        randomise_adapter(model)
        batch = TrainCollator(loaded.processor, config)(samples())
        batch.pop("left_out")
        model(**batch).loss.backward()
        found.append({name: p.grad for name, p in model.named_parameters() if p.grad is not None})
    assert max(distances(found[1], found[0]).values()) < 1e-5


def test_four_bits() -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")

    def quantised() -> Any:
        model = adapted(torch.bfloat16)
        for layer in (model.base_model.model.first, model.base_model.model.second):
            weight = layer.base_layer.weight.data
            four = bitsandbytes.nn.Linear4bit(WIDTH, OUT, bias=False, compute_dtype=torch.bfloat16, quant_type="nf4")
            four.weight = bitsandbytes.nn.Params4bit(weight, requires_grad=False, quant_type="nf4")
            layer.base_layer = four.to("cpu")
        return model

    from peft.tuners.lora.bnb import Linear4bit

    plain, fast = quantised(), quantised()
    for model in (plain, fast):  # what PEFT makes of a base that was loaded in 4 bits
        for layer in (model.base_model.model.first, model.base_model.model.second):
            layer.__class__ = Linear4bit
    assert fast_lora(fast) == 2
    theirs, found = run(plain, torch.bfloat16), run(fast, torch.bfloat16)
    assert max(distances(found, theirs).values()) < 2e-2
    assert distances(found, run(adapted(torch.bfloat16), torch.bfloat16))["out"] > 2e-2  # 4 bits are felt


class Kernels(TorchDispatchMode):
    """Counts operators that compute or copy."""

    def __init__(self) -> None:
        super().__init__()
        self.found: collections.Counter[str] = collections.Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in ("mm", "addmm", "addmm_", "mul", "add", "_to_copy", "clone", "copy_"):
            self.found[name] += 1
        return func(*args, **(kwargs or {}))


def cost(layer: Any) -> tuple[int, int, int]:
    """Kernels forward and backward, and bytes kept beside weights and input, of one layer under autocast."""
    x = torch.randn(1, TOKENS, WIDTH).bfloat16().requires_grad_()
    own = {t.untyped_storage().data_ptr() for t in (x, *layer.parameters())}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)
    with Kernels() as forward, torch.autocast("cpu", torch.bfloat16), hooks:
        out = layer(x)
    with Kernels() as backward:
        out.backward(torch.ones_like(out))
    beside = sum(size for storage, size in kept.items() if storage not in own)
    return forward.found.total(), backward.found.total(), beside


def test_fewer_kernels_and_no_copy_of_the_input() -> None:
    plain, fast = (model.base_model.model.first for model in both(torch.bfloat16))
    forward, backward, kept = cost(plain)
    assert cost(fast)[:2] == (5, 8)
    assert (forward, backward) > (5, 8)
    assert kept - cost(fast)[2] >= TOKENS * WIDTH * 2


def test_a_bias_costs_no_copy_of_the_output() -> None:
    """A product with a bias is a view in three dimensions, and writing into a view costs copies on the way back."""
    _, fast = both(torch.bfloat16, bias=True)
    assert cost(fast.base_model.model.first)[:2] == (5, 8)


def two_adapters(model: Any) -> None:
    torch.manual_seed(3)
    model.add_adapter("other", LoraConfig(r=2, target_modules=["first", "second"], init_lora_weights=False))
    model.base_model.set_adapter(["default", "other"])


@pytest.mark.parametrize(
    ("changed", "prepare"),
    [
        ({"use_dora": True}, lambda _: None),
        ({"lora_bias": True}, lambda _: None),
        ({}, lambda model: model.merge_adapter()),
        ({}, two_adapters),
    ],
    ids=["dora", "lora_bias", "merged", "two"],
)
def test_whatever_is_unusual_is_left_to_peft(changed: dict[str, Any], prepare: Any) -> None:
    plain, fast = both(bias=True, **changed)
    for model in (plain, fast):
        prepare(model)
    theirs, found = run(plain), run(fast)
    assert theirs.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in theirs.items())


def test_without_adapter_it_is_the_base() -> None:
    _, fast = both()
    x = torch.randn(1, 3, WIDTH)
    base = fast.base_model.model
    with fast.disable_adapter():
        expected = base.first.base_layer(x) * base.second.base_layer(x).sigmoid()
        assert torch.equal(fast(x), expected)
    assert not torch.equal(fast(x), expected)


def test_bfloat16_without_autocast_is_left_to_peft() -> None:
    plain, fast = both(torch.bfloat16)
    theirs, found = (run(model, kind=torch.bfloat16) for model in (plain, fast))
    assert all(torch.equal(found[name], value) for name, value in theirs.items())


def test_a_second_call_changes_nothing() -> None:
    _, fast = both()
    forward = fast.base_model.model.first.forward
    assert fast_lora(fast) == 2
    assert fast.base_model.model.first.forward is forward
    assert fast_lora(nn.Linear(2, 2)) == 0
