"""What a pod of a run requests: GPUs, and cores, memory and shared memory in proportion to them."""

from __future__ import annotations

import math
import re
from fractions import Fraction
from typing import Any

from vizsage.errors import ConfigError

_GPU = re.compile(r"/gpu(\.shared)?$|^gpu\.|/mig-")
_QUANTITY = re.compile(r"(\d+(?:\.\d*)?|\.\d+)(m|k|[KMGTPE]i?)?")
# The next smaller unit, and how many of it are one.
_SMALLER = {
    "": ("m", 1000),
    "k": ("", 1000),
    "M": ("k", 1000),
    "G": ("M", 1000),
    "T": ("G", 1000),
    "P": ("T", 1000),
    "E": ("P", 1000),
    "Ki": ("", 1024),
    "Mi": ("Ki", 1024),
    "Gi": ("Mi", 1024),
    "Ti": ("Gi", 1024),
    "Pi": ("Ti", 1024),
    "Ei": ("Pi", 1024),
}


def set_gpus(
    pod: dict[str, Any], container: dict[str, Any], gpus: int | None, *, one: bool, on_cpu: bool
) -> int | None:
    """Set the number of GPUs of a container.

    Cores, memory and /dev/shm in the overlay are meant for its number of GPUs, and are changed in proportion.
    Quantities become texts, as the server stores them.

    Args:
        pod: the spec that contains the container; changed.
        container: changed.
        gpus: the number; None: as in the overlay.
        one: at most one GPU.
        on_cpu: no GPU unless `gpus` is given.

    Returns:
        The cores per process, if the number of GPUs has changed.

    Raises:
        ConfigError: it is not clear which resource is a GPU.
    """
    resources = container.setdefault("resources", {})
    parts = [resources[part] for part in ("requests", "limits") if resources.get(part)]
    kinds = sorted({key for part in parts for key in part if _GPU.search(key)})
    if gpus is not None:
        _check(resources, parts, kinds)
    had = max((int(part[key]) for part in parts for key in kinds if key in part), default=0)
    wanted = gpus if gpus is not None else 0 if on_cpu else had
    wanted = min(1, wanted) if one else wanted
    for part in parts:
        for key in [key for key in kinds if key in part]:
            part[key] = wanted
            if not wanted:
                del part[key]
    if wanted and not kinds:
        resources.setdefault("limits", {})["nvidia.com/gpu"] = wanted
    if wanted and wanted != had:
        _grow(pod, container, Fraction(wanted, had or 1))
    for part in ("requests", "limits"):
        if resources.get(part):
            resources[part] = {key: str(value) for key, value in resources[part].items()}
    cores = str(resources.get("requests", {}).get("cpu", ""))
    return max(1, int(cores) // wanted) if wanted and wanted != had and cores.isdecimal() else None


def _check(resources: dict[str, Any], parts: list[dict[str, Any]], kinds: list[str]) -> None:
    """Raise ConfigError where the number of GPUs cannot be set."""
    if len(kinds) > 1:
        raise ConfigError(
            f"--gpus-per-node: the container asks for {' and '.join(kinds)}; keep one of them in the overlay (a patch "
            "with null takes the other out)"
        )
    if kinds:
        return
    if claims := [str(claim["name"]) for claim in resources.get("claims", ())]:
        raise ConfigError(
            f"--gpus-per-node: the container gets its devices by the resource claim {', '.join(claims)}; set their "
            "number in that claim and leave the option out"
        )
    if others := sorted({key for part in parts for key in part if "/" in key}):
        raise ConfigError(
            f"--gpus-per-node: the container asks for {', '.join(others)}, which is not known as a GPU; set its number "
            "in the overlay and leave the option out"
        )


def _grow(pod: dict[str, Any], container: dict[str, Any], factor: Fraction) -> None:
    """Multiply cores, memory and shared memory by a factor."""
    for part in ("requests", "limits"):
        for key in ("cpu", "memory"):
            given = container["resources"].get(part, {})
            if key in given:
                given[key] = _times(f"resources.{part}.{key}", given[key], factor)
    shared = {
        mount["name"] for mount in container.get("volumeMounts", ()) if mount["mountPath"].rstrip("/") == "/dev/shm"
    }
    for volume in pod.get("volumes", ()):
        folder = volume.get("emptyDir") or {}
        if volume["name"] in shared and "sizeLimit" in folder:
            folder["sizeLimit"] = _times(f"sizeLimit of the volume {volume['name']}", folder["sizeLimit"], factor)


def _times(what: str, quantity: Any, factor: Fraction) -> str:
    """A quantity of Kubernetes times a factor, in its unit or a smaller one. Raises ConfigError."""
    found = _QUANTITY.fullmatch(str(quantity))
    if not found:
        raise ConfigError(f"{what}: expected an amount such as 8, 500m or 32Gi, found {quantity!r}")
    amount, unit = Fraction(found[1]) * factor, found[2] or ""
    while amount.denominator > 1 and unit != "m":
        smaller, parts = _SMALLER[unit]
        if smaller == "m" and not what.endswith("cpu"):
            break  # there is no thousandth of a byte
        unit, amount = smaller, amount * parts
    return f"{math.ceil(amount)}{unit}"
