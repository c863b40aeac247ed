"""A YAML loader for settings: safe, without repeated keys, and of bounded size.

A few hundred bytes of anchors can expand to gigabytes of values, and Python raises an error when it prints a number of
thousands of digits.
"""

from __future__ import annotations

from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError

from vizsage.errors import quoted

MAX_VALUES = 10_000
MAX_DEPTH = 50
MAX_DIGITS = 100


class Loader(yaml.SafeLoader):
    """A safe loader that refuses a repeated key; plain YAML would use the last one silently.

    A date stays a text: no setting is a date, and a name such as 2026-01-31 would otherwise be refused.
    """

    yaml_implicit_resolvers = {  # noqa: RUF012 -- PyYAML declares it an attribute of the instance
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values: dict[int, int] = {}  # id of a node: the values in it, with its aliases expanded

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """Compose the next node. Raises ComposerError where it is nested too deep or has too many values."""
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]  # types-PyYAML has no types here
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ComposerError(None, None, f"nested more than {MAX_DEPTH} deep", mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None or id(node) in self._values:
            return node
        parts = node.value if isinstance(node, yaml.CollectionNode) else []
        parts = [part for pair in parts for part in pair] if isinstance(node, yaml.MappingNode) else parts
        values = 1 + sum(self._values.get(id(part), 1) for part in parts)
        if values > MAX_VALUES:
            raise ComposerError(None, None, f"more than {MAX_VALUES} values, anchors counted as often as used", mark)
        self._values[id(node)] = values
        return node


class TextLoader(Loader):
    """Keeps every scalar but null as the text in the file."""

    yaml_implicit_resolvers = {  # noqa: RUF012 -- PyYAML declares it an attribute of the instance
        first: [(tag, pattern) for tag, pattern in resolvers if tag == "tag:yaml.org,2002:null"]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


def _mapping(loader: Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    result: dict[Any, Any] = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if not isinstance(key, (str, int, float)):
            raise ConstructorError(None, None, "a key must be a name", key_node.start_mark)
        if key in result:
            raise ConstructorError(None, None, f"key {quoted(key)} is repeated", key_node.start_mark)
        result[key] = loader.construct_object(value_node, deep=True)
    return result


def _integer(loader: Loader, node: yaml.ScalarNode) -> int:
    if len(node.value) > MAX_DIGITS:
        raise ConstructorError(None, None, f"a number of {len(node.value)} characters", node.start_mark)
    return int(loader.construct_yaml_int(node))


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _mapping)
Loader.add_constructor("tag:yaml.org,2002:int", _integer)
