"""Several questions on one image as a tree of tokens, laid out in one row.

The rows of an image group begin with the same tokens: instruction, image, perhaps a description. The tree contains
these once; the rest of each row is a branch. The nodes are in depth-first order, so that the descendants of token k are
the tokens k + 1 ... subtree_end[k] - 1, and a token sees exactly its own row:

    q sees k  <=>  k <= q < subtree_end[k]

If each token has the position that it has in its own row (its depth), a causal model computes the same for it as in
that row alone. The trees of several images follow each other in one packed row and do not see each other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class TokenTree:
    """N tokens in depth-first order, and K targets.

    Attributes:
        row: [N] the index of a row that contains the token.
        depth: [N] the token's place in that row.
        subtree_end: [N] one past the token's last descendant.
        tree: [N] the number of the token's tree, which is that of its image.
        target_positions: [K] the token that predicts the target.
        targets: [K] a token id. A position has several targets where rows branch after it.
        last: the last token of each row; equal rows have the same.
    """

    row: list[int] = field(default_factory=list)
    depth: list[int] = field(default_factory=list)
    subtree_end: list[int] = field(default_factory=list)
    tree: list[int] = field(default_factory=list)
    target_positions: list[int] = field(default_factory=list)
    targets: list[int] = field(default_factory=list)
    last: dict[int, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.row)


def plant(rows: Sequence[Sequence[int]], prompt_tokens: Sequence[int], groups: Sequence[Sequence[int]]) -> TokenTree:
    """Build one tree per group of rows. The result does not depend on the order of the rows within a group.

    Args:
        rows: the token ids of each row, without padding.
        prompt_tokens: row r is supervised from rows[r][prompt_tokens[r]] on.
        groups: indices of the rows of each image.

    Returns:
        The trees, one after the other.
    """
    out = TokenTree()
    for number, group in enumerate(groups):
        path: list[int] = []  # the nodes of the current row, from the root on
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
    """The number of tokens with which both rows begin."""
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return i
    return min(len(first), len(second))


def _close(out: TokenTree, path: list[int], depth: int) -> None:
    """End the subtrees of the nodes of `path` from `depth` on."""
    for node in path[depth:]:
        out.subtree_end[node] = len(out)
    del path[depth:]
