"""Several questions on one image as a tree of tokens, laid out in one row.

The rows of an image group begin alike: instruction, image, perhaps a description. What is alike stands once, what
differs are branches behind it. The nodes are laid out depth first, so that the descendants of token k are the tokens
k + 1 ... subtree_end[k] - 1, and a token sees exactly its own row:

    q sees k  <=>  k <= q < subtree_end[k]

With the position that a token has in its own row (its depth), a causal model computes for it what it computes in that
row alone. Trees of several images follow each other in one row and do not see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class TokenTree:
    """N tokens in depth-first order, and the K tokens that they are to predict."""

    row: list[int] = field(default_factory=list)
    """[N] a row that the token stands in."""
    depth: list[int] = field(default_factory=list)
    """[N] its place in that row."""
    subtree_end: list[int] = field(default_factory=list)
    """[N] one past its last descendant."""
    tree: list[int] = field(default_factory=list)
    """[N] number of its tree, which is that of its image."""
    target_positions: list[int] = field(default_factory=list)
    """[K] the token that predicts."""
    targets: list[int] = field(default_factory=list)
    """[K] the token id that it shall predict. One position has several where rows part after it."""
    last: dict[int, int] = field(default_factory=dict)
    """By row, its last token. Rows that are alike have the same."""

    def __len__(self) -> int:
        return len(self.row)


def plant(rows: Sequence[Sequence[int]], prompt_tokens: Sequence[int], groups: Sequence[Sequence[int]]) -> TokenTree:
    """One tree for each group of rows.

    Args:
        rows: the token ids of each row, without padding.
        prompt_tokens: row r is supervised from rows[r][prompt_tokens[r]] on.
        groups: indices of the rows of each image.

    The layout does not depend on the order of the rows within a group.
    """
    out = TokenTree()
    for number, group in enumerate(groups):
        path: list[int] = []  # the nodes of the row at hand, from the root on
        before: Sequence[int] = ()
        for index in sorted(group, key=lambda i: (list(rows[i]), prompt_tokens[i])):
            tokens = rows[index]
            shared = common_prefix(before, tokens)
            _close(out, path, shared)
            for depth in range(shared, len(tokens)):
                path.append(len(out))
                out.row.append(index)
                out.depth.append(depth)
                out.subtree_end.append(0)
                out.tree.append(number)
            out.last[index] = path[-1]
            for depth in range(max(prompt_tokens[index], 1), len(tokens)):
                out.target_positions.append(path[depth - 1])
                out.targets.append(tokens[depth])
            before = tokens
        _close(out, path, 0)
    return out


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two rows share from their beginning on."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))


def _close(out: TokenTree, path: list[int], depth: int) -> None:
    """End the subtrees of the nodes of `path` from `depth` on."""
    for node in path[depth:]:
        out.subtree_end[node] = len(out)
    del path[depth:]
