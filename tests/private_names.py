"""Finds private names of other libraries in the code: what begins with one underscore and is not defined here."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Any

OWN = ("vizsage", "jobs", "benchmarks", "tools", "tests")
_DOCUMENTED = {"_exit", "_replace", "_asdict", "_fields", "_make"}  # of os and of named tuples
_BY_STRING = {"getattr", "setattr", "hasattr", "delattr", "attrgetter", "methodcaller"}


def is_private(name: str) -> bool:
    """One underscore at the beginning; `_`, `__dunder__` and names that the standard library documents do not count."""
    return name.startswith("_") and not name.startswith("__") and name.strip("_") != "" and name not in _DOCUMENTED


def names_in(source: str) -> set[str]:
    """Private names of others in a module: imported, read or set as attributes, or strings, as getattr takes them."""
    tree = ast.parse(source)
    own = set(_defined(tree))
    return {name for node in ast.walk(tree) for name in _used(node) if is_private(name) and name not in own}


def inherited_by(module: ModuleType) -> set[str]:
    """Private names of other libraries' classes that classes of `module` override, or use on themselves."""
    classes = [cls for _, cls in inspect.getmembers(module, inspect.isclass) if cls.__module__ == module.__name__]
    return {name for cls in classes for name in _inherited(cls)}


def _used(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        for alias in node.names:
            yield from alias.name.split(".")
    elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] not in OWN:
        yield from (node.module or "").split(".")
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.Attribute):
        yield node.attr
    elif isinstance(node, ast.Call):
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        if called in _BY_STRING:
            yield from _texts(node.args)
    elif isinstance(node, ast.Assign):  # METHOD = "_name", for such calls
        yield from _texts([node.value])


def _texts(nodes: Iterable[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from node.value.split(".")


def _defined(tree: ast.AST) -> Iterator[str]:
    """Functions, classes, annotated fields, assigned names, and attributes that are set on self or cls."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            yield node.name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("self", "cls")
        ):
            yield node.attr


def _inherited(cls: type[Any]) -> Iterator[str]:
    """Some attributes of the others' classes exist in instances only: their source is read."""
    uses = {name for name in vars(cls) if is_private(name)} | _of_self(inspect.getsource(cls))
    for base in cls.__mro__[1:]:
        if base.__module__.split(".")[0] in (*OWN, "builtins", "typing", "abc", "enum"):
            continue
        try:
            theirs = {name for name in vars(base) if is_private(name)} | _of_self(inspect.getsource(base))
        except (OSError, TypeError):  # written in C
            continue
        yield from uses & {name for name in theirs if is_private(name) and not name.startswith("_abc_")}


def _of_self(source: str) -> set[str]:
    return {name for name in re.findall(r"\bself\.(\w+)", source) if is_private(name)}
