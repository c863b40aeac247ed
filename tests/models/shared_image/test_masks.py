"""Block masks are those of PyTorch's create_block_mask, for each rule, from a bounded number of cells at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as property_settings
from hypothesis import strategies as st
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from vizsage.models.families.gemma3 import with_image_blocks
from vizsage.models.families.mllama_cross import image_rule
from vizsage.models.shared_image import masks
from vizsage.models.shared_image.masks import (
    Rule,
    build_mask,
    tree_rule,
    within_window,
)

CPU = torch.device("cpu")
LENGTHS = st.one_of(st.integers(1, 700), st.sampled_from([127, 128, 129, 256, 384, 512]))


@st.composite
def rules(draw: st.DrawFn) -> tuple[Rule, int, int]:
    """A rule of any kind, its queries and its keys. Rows are some images' trees: a shared beginning, branches."""
    queries, seed = draw(LENGTHS), draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(seed)

    def pick(highest: int, *shape: int) -> torch.Tensor:
        return torch.randint(highest, shape, generator=generator)

    images = draw(st.integers(1, 4))
    tree = pick(images, queries).sort().values
    kind = draw(st.sampled_from(["tree", "window", "image blocks", "images"]))
    if kind == "images":
        tiles, tile_tokens = draw(st.integers(1, 4)), draw(st.integers(1, 140))
        return image_rule(tree, pick(2, queries, tiles), tile_tokens), queries, images * tiles * tile_tokens
    ends = torch.searchsorted(tree, tree, right=True)  # of the tree that contains a token
    branch = torch.arange(queries) // draw(st.integers(1, 300))
    shared = pick(2, queries).bool() if draw(st.booleans()) else torch.ones(queries, dtype=torch.bool)
    rule = tree_rule(torch.where(shared, ends, torch.minimum(ends, torch.searchsorted(branch, branch, right=True))))
    if kind == "image blocks":
        rule = with_image_blocks(rule, (pick(20, queries) > 0).long())
    if kind == "window":
        rule = within_window(rule, pick(queries, queries), draw(st.integers(1, 300)))
    return rule, queries, queries


def attributes(mask: BlockMask) -> dict[str, Any]:
    names = ("kv_num_blocks", "kv_indices", "full_kv_num_blocks", "full_kv_indices")
    backward = ("q_num_blocks", "q_indices", "full_q_num_blocks", "full_q_indices")
    return {name: getattr(mask, name) for name in names + backward} | {"dense": mask.to_dense()}


@given(given_rule=rules(), cells=st.sampled_from([1, 100_000, 2**24]))
@property_settings(max_examples=150, deadline=None)
def test_a_block_mask_is_that_of_pytorch(given_rule: tuple[Rule, int, int], cells: int) -> None:
    rule, queries, keys = given_rule
    expected = create_block_mask(rule, None, None, queries, keys, device=CPU)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(masks, "_CELLS", cells)
        found = build_mask(rule, queries, keys, CPU, flex=True)
    assert found.shape == expected.shape
    assert found.BLOCK_SIZE == expected.BLOCK_SIZE
    assert found.mask_mod is rule
    wanted = attributes(expected)
    for name, value in attributes(found).items():
        assert value.dtype == wanted[name].dtype, name
        assert value.is_contiguous() == wanted[name].is_contiguous(), name
        assert torch.equal(value, wanted[name]), name


def test_a_rule_is_asked_for_a_bounded_number_of_cells_at_a_time() -> None:
    """Llama 3.2 Vision with 8 images of 4 tiles; PyTorch's own would ask for all 46 million, of 8 bytes each."""
    queries, keys = 900, 8 * 6404
    rule = image_rule(torch.arange(queries) // 113, torch.ones(queries, 4, dtype=torch.long), 1601)
    asked = []

    def counting(b: Any, h: Any, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        asked.append(q.numel() * k.numel())
        return rule(b, h, q, k)

    build_mask(counting, queries, keys, CPU, flex=True)
    assert max(asked) <= masks._CELLS < sum(asked)
