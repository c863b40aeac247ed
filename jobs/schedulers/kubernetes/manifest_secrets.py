"""Secrets in the documents of an overlay."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jobs.schedulers.secret_check import in_lines, in_variables
from vizsage.errors import ConfigError

NOT_SECRETS = "vizsage/not-secrets"


def refuse_in_manifest(documents: Iterable[dict[str, Any]]) -> None:
    """Raise ConfigError for a secret in a container's variables, command or arguments, or in a ConfigMap.

    Everybody with the right to read the object would see it. The annotation vizsage/not-secrets lists names of what is
    no secret.
    """
    found = []
    for document in documents:
        kind, metadata = str(document.get("kind")), document.get("metadata") or {}
        listed = str((metadata.get("annotations") or {}).get(NOT_SECRETS, ""))
        allowed = {name.strip() for name in listed.split(",")}
        here = [f"data: {name}" for name in in_variables(_texts(document.get("data") or {}), allowed)] * (
            kind == "ConfigMap"
        )
        for container in _containers(document):
            values = {one.get("name"): one.get("value") for one in container.get("env") or ()}
            here += [
                f"env of container {container.get('name')}: {name}" for name in in_variables(_texts(values), allowed)
            ]
            for key in ("command", "args"):
                text = " ".join(word for word in container.get(key) or () if isinstance(word, str))
                here += [f"{key} of container {container.get('name')}: {name}" for _, name in in_lines(text, allowed)]
        found += [f"{kind} {metadata.get('name')}: {place}" for place in here]
    if found:
        raise ConfigError(
            f"{', '.join(dict.fromkeys(found))}: looks like a secret, which everyone who may read the object "
            "would see: keep it in a Secret and name that one with envFrom or secretKeyRef, or, if it is none, list "
            f"its name in the annotation {NOT_SECRETS} there"
        )


def _containers(value: Any) -> Iterator[dict[str, Any]]:
    """The containers of the pods in a document, at any depth."""
    if isinstance(value, dict):
        for key, below in value.items():
            if key in ("containers", "initContainers") and isinstance(below, list):
                yield from (one for one in below if isinstance(one, dict))
            else:
                yield from _containers(below)
    elif isinstance(value, list):
        for below in value:
            yield from _containers(below)


def _texts(values: Mapping[Any, Any]) -> dict[str, str]:
    return {str(name): value for name, value in values.items() if isinstance(value, str)}
