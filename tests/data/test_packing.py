"""A tree holds each beginning once, and shows every token its own row: held against a search through all tokens."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from vizsage.data.packing import TokenTree, plant

Row = tuple[list[int], int]  # tokens, and how many of them are the prompt
ROW = st.lists(st.integers(0, 2), min_size=1, max_size=7).flatmap(
    lambda tokens: st.tuples(st.just(tokens), st.integers(1, len(tokens)))
)
GROUPS = st.lists(st.lists(ROW, min_size=1, max_size=6), min_size=1, max_size=3)


def planted(groups: list[list[Row]]) -> tuple[TokenTree, list[list[int]]]:
    rows = [row for group in groups for row in group]
    numbers = iter(range(len(rows)))
    tokens, prompts = [row[0] for row in rows], [row[1] for row in rows]
    return plant(tokens, prompts, [[next(numbers) for _ in group] for group in groups]), tokens


def layout(groups: list[list[Row]]) -> tuple[list[int], ...]:
    tree, rows = planted(groups)
    tokens = [rows[row][depth] for row, depth in zip(tree.row, tree.depth, strict=True)]
    return tokens, tree.depth, tree.subtree_end, tree.tree, tree.target_positions, tree.targets


@given(GROUPS)
def test_a_token_sees_its_own_row_up_to_itself(groups: list[list[Row]]) -> None:
    tree, rows = planted(groups)
    for q in range(len(tree)):
        seen = [k for k in range(q + 1) if q < tree.subtree_end[k]]
        assert [rows[tree.row[k]][tree.depth[k]] for k in seen] == rows[tree.row[q]][: tree.depth[q] + 1]
        assert {tree.tree[k] for k in seen} == {tree.tree[q]}


@given(GROUPS)
def test_each_beginning_stands_once_in_its_tree(groups: list[list[Row]]) -> None:
    tree, _ = planted(groups)
    beginnings = [{tuple(tokens[: n + 1]) for tokens, _ in group for n in range(len(tokens))} for group in groups]
    assert Counter(tree.tree) == {number: len(found) for number, found in enumerate(beginnings)}


@given(GROUPS)
def test_every_row_has_all_of_its_targets(groups: list[list[Row]]) -> None:
    tree, rows = planted(groups)
    found = Counter(
        (tree.tree[at], *rows[tree.row[at]][: tree.depth[at] + 1], target)
        for at, target in zip(tree.target_positions, tree.targets, strict=True)
    )
    assert found == Counter(
        (number, *tokens[: n + 1])
        for number, group in enumerate(groups)
        for tokens, prompt in group
        for n in range(prompt, len(tokens))
    )


@given(GROUPS, st.integers())
def test_the_order_of_rows_does_not_matter(groups: list[list[Row]], seed: int) -> None:
    assert layout([Random(seed).sample(group, len(group)) for group in groups]) == layout(groups)
