"""Which GPUs of this machine a job may be given, and how many it takes."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping

from vizsage.errors import ConfigError

VARIABLE = "CUDA_VISIBLE_DEVICES"


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The GPUs that `environment` shows, each as CUDA_VISIBLE_DEVICES names it.

    Args:
        environment: of the process that submits. Its CUDA_VISIBLE_DEVICES is respected; without one, all GPUs that
            nvidia-smi lists are taken.
    """
    if VARIABLE in environment:
        names = [name.strip() for name in environment[VARIABLE].split(",")]
        # CUDA ignores all that follows an invalid number, and -1 is the usual way to hide every GPU.
        last = next((i for i, name in enumerate(names) if name in ("", "-1")), len(names))
        return tuple(dict.fromkeys(names[:last]))
    command = ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    except (FileNotFoundError, PermissionError):
        return ()
    except subprocess.TimeoutExpired:
        raise ConfigError(
            "nvidia-smi does not answer, so the GPUs of this machine are unknown; name them in CUDA_VISIBLE_DEVICES "
            "(an empty value: none)"
        ) from None
    return tuple(line.strip() for line in done.stdout.splitlines() if line.strip().isdecimal())


def gpus_of_job(asked: int | None, there: tuple[str, ...], *, on_cpu: bool) -> int:
    """GPUs for one job: `asked`, or else one where the machine has any and the settings do not say `device: cpu`.

    Raises ConfigError where more are asked for than there are.
    """
    if asked is None:
        return 0 if on_cpu else min(1, len(there))
    if asked > len(there):
        shown = f"{len(there)} ({', '.join(there)})" if there else "none"
        raise ConfigError(
            f"--gpus-per-node: {asked} asked for, this machine has {shown}; CUDA_VISIBLE_DEVICES limits them too"
        )
    return asked
