"""The batch script of a SLURM job: a pure function of the work and of the cluster's profile."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from submitit.slurm import slurm as submitit_slurm

from jobs.schedulers.slurm.profile import Profile
from jobs.spec import Work
from vizsage.errors import ConfigError

# Runs on the first host of the allocation. Without the traps, the signals that stop the training would end this shell
# too, before it reads the exit code. The tasks do not inherit the traps.
PROLOGUE = """\
trap : TERM USR2
id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
id=${id:-$SLURM_JOB_ID}
echo "=== attempt $((${SLURM_RESTART_COUNT:-0} + 1)) of job $id on $SLURM_JOB_NODELIST, $(date -u +%Y-%m-%dT%H:%M:%SZ)"
export NNODES=$SLURM_JOB_NUM_NODES
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
getent hosts "$MASTER_ADDR" > /dev/null || MASTER_ADDR=$(hostname)  # a node's name need not be its host's
export MASTER_ADDR MASTER_PORT=$((15000 + (SLURM_JOB_ID + 1009 * ${SLURM_RESTART_COUNT:-0}) % 15000))
export EXIT_CODES_DIR="$run_dir/jobs/$id.codes"
rm -rf "$EXIT_CODES_DIR\""""

# After the lines of the profile, which may have changed these options and traps.
AFTER_SETUP = "set +eu; set +o pipefail; trap : TERM USR2"

# On the host, because a container has no SLURM commands. `run_dir`, `max_retries` and `id` are set above. Only a job
# that is RUNNING requeues itself: a cancelled one would run again, and a preempted one is requeued already.
EPILOGUE = """\
code=$?
for known in 2 3 4; do  # what one node found out outweighs how the others broke off
    if grep -qsx "$known" "$run_dir/jobs/$id.codes"/*; then code=$known; fi
done
ask_state() {  # the controller may be busy, or restarting
    for pause in 0 2 5 10 20; do
        sleep "$pause"
        state=$(scontrol show job "$id" --oneliner | grep -o 'JobState=[A-Z_]*' | head -n 1 | cut -d = -f 2)
        if [ -n "$state" ]; then return; fi
    done
    state=UNKNOWN
}
requeue() {
    for pause in 0 5 30 60; do
        sleep "$pause"
        ask_state
        if [ "$state" != RUNNING ]; then break; fi
        if scontrol requeue "$id"; then exit "$code"; fi
    done
    echo "=== job $id was not requeued, SLURM calls it $state; the same submission continues the run"
}
ask_state
echo "$code $state" > "$run_dir/jobs/$id.end"
case "$state:$code" in
*:0 | *:2 | *:3 | *:4) ;;  # done, or wrong in a way that will repeat
RUNNING:75)
    echo "=== job $id was interrupted, its checkpoint is safe: it goes back into the queue"
    requeue ;;
RUNNING:*)
    failures=$(($(cat "$run_dir/jobs/$id.failures" 2> /dev/null || echo 0) + 1))
    if ! echo "$failures" > "$run_dir/jobs/$id.failures"; then
        echo "=== job $id failed with exit code $code, and its failures cannot be counted: given up"
    elif [ "$failures" -gt "$max_retries" ]; then
        echo "=== job $id failed with exit code $code: given up after $max_retries retries"
    else
        echo "=== job $id failed with exit code $code: retry $failures of $max_retries"
        requeue
    fi ;;
*)
    echo "=== job $id ended with exit code $code and goes on only if SLURM, which calls it $state, queues it again" ;;
esac
exit "$code\""""


def sbatch_parameters(works: Sequence[Work], profile: Profile, *, after: str | None = None) -> dict[str, Any]:
    """The parameters for submitit: resources, lines around the command, and how SLURM is to treat the job.

    Args:
        works: one, or the members of a job array.
        profile: the resources.
        after: the id of the job whose success this one waits for.
    """
    first = works[0]
    gpus = {"gres": profile.gres} if profile.gres else {"gpus_per_node": profile.gpus_per_node or None}
    more: dict[str, Any] = {
        "requeue": True,  # also when a node is lost
        "signal": f"USR2@{profile.signal_delay_s}",  # not USR1, which NCCL catches
    }
    for key in ("clusters", "reservation"):
        if value := getattr(profile, key):
            more[key] = value
    if after:
        more |= {"dependency": f"afterok:{after}", "kill-on-invalid-dep": "yes"}
    found: dict[str, Any] = {
        "job_name": f"vizsage-{first.command}-{first.run_dir.name}" if len(works) == 1 else "vizsage-sweep",
        "partition": profile.partition,
        "account": profile.account,
        "qos": profile.qos,
        "constraint": profile.constraint,
        "nodes": profile.nodes,
        "ntasks_per_node": 1,
        "cpus_per_task": profile.cpus_per_task,
        "mem": profile.mem,
        "time": profile.time,
        "wckey": None,
        "stderr_to_stdout": True,
        "setup": [*_setup(works, profile)],
        "teardown": [EPILOGUE],
        "srun_args": [*_srun_arguments(works, profile)],
        "additional_parameters": more,
    } | gpus
    unset_in_submitit = ("wckey",)  # submitit sets one, which a cluster that tracks keys would refuse
    return {name: value for name, value in found.items() if value is not None or name in unset_in_submitit}


def task_command(works: Sequence[Work], profile: Profile) -> str:
    """What srun starts on every node: a shell that becomes the container or Python (`exec`), so that signals arrive."""
    # With pyxis the shell is inside the container.
    make_cache = 'mkdir -p "$VIZSAGE_LOCAL_CACHE" || exit; ' if profile.local_cache else ""
    shell = f'{make_cache}export NODE_RANK="$SLURM_NODEID"; exec "$@"'
    python = profile.python or (sys.executable if profile.container_kind == "none" else "python3")
    words = ["bash", "-c", shell, "task"]
    if profile.container_kind == "apptainer":
        words += ["apptainer", "exec", *(["--nv"] if profile.gpus_per_node or profile.gres else [])]
        for mount in _mounts(works, profile):
            words += ["--bind", mount]
        words += ["--pwd", str(Path.cwd()), str(profile.container_image)]
    words += [python, "-u", "-m", "jobs.run", works[0].command]
    return " ".join([shlex.join(words), '"$settings"', *map(shlex.quote, works[0].evaluation.words)])


def script_text(works: Sequence[Work], profile: Profile, folder: Path, *, after: str | None = None) -> str:
    """The script, exactly as it is sent. The log is written into `folder`."""
    parameters = sbatch_parameters(works, profile, after=after)
    if len(works) > 1:
        parameters["map_count"] = len(works)
    return submitit_slurm._make_sbatch_string(command=task_command(works, profile), folder=folder, **parameters)


def _setup(works: Sequence[Work], profile: Profile) -> list[str]:
    if len(works) == 1:
        [work] = works
        lines = [f"settings={shlex.quote(str(work.settings_file))}", f"run_dir={shlex.quote(str(work.run_dir))}"]
    else:
        lines = [
            "all_settings=(" + shlex.join(str(work.settings_file) for work in works) + ")",
            "all_run_dirs=(" + shlex.join(str(work.run_dir) for work in works) + ")",
            "settings=${all_settings[$SLURM_ARRAY_TASK_ID]}",
            "run_dir=${all_run_dirs[$SLURM_ARRAY_TASK_ID]}",
        ]
    lines += [f"max_retries={profile.max_retries}", PROLOGUE]
    processes = _processes(profile)
    # Otherwise one that is exported in the submitting shell would be used, without a warning.
    lines.append(f"export PROCESSES_PER_NODE={processes}" if processes else "unset PROCESSES_PER_NODE")
    if profile.local_cache:
        lines += [
            f'export VIZSAGE_LOCAL_CACHE="{profile.local_cache}"',
            # Compiled kernels and memory-mapped tables. The cache of base models, HF_HOME, is large and stays shared.
            'export TRITON_CACHE_DIR="$VIZSAGE_LOCAL_CACHE/triton" CUDA_CACHE_PATH="$VIZSAGE_LOCAL_CACHE/cuda"',
            'export TORCHINDUCTOR_CACHE_DIR="$VIZSAGE_LOCAL_CACHE/inductor" '
            'HF_DATASETS_CACHE="$VIZSAGE_LOCAL_CACHE/datasets" MPLCONFIGDIR="$VIZSAGE_LOCAL_CACHE/matplotlib"',
        ]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in profile.environment.items()]
    return [*lines, *profile.setup, AFTER_SETUP]


def _processes(profile: Profile) -> int | None:
    """One per GPU. None with gres, whose text only the cluster understands: the job counts the GPUs of its node."""
    return None if profile.gres else max(1, profile.gpus_per_node)


def _srun_arguments(works: Sequence[Work], profile: Profile) -> list[str]:
    arguments = [
        f"--cpus-per-task={profile.cpus_per_task}",  # since SLURM 22.05 a step does not inherit it
        "--open-mode=append",
        "--export=ALL",
        # When one node ends, the others may still be writing: they get 600 seconds before they are killed.
        "--kill-on-bad-exit=0",
        "--wait=600",
    ]
    if profile.container_kind == "pyxis":
        arguments += [
            f"--container-image={profile.container_image}",
            f"--container-mounts={','.join(_mounts(works, profile))}",
            f"--container-workdir={Path.cwd()}",
        ]
    return arguments + list(profile.srun_options)


def _mounts(works: Sequence[Work], profile: Profile) -> list[str]:
    """The profile's mounts, and those paths of the settings that are in none of them, at the same path."""
    first = works[0].config
    covered = [Path(mount.split(":")[1]) for mount in profile.mounts]
    mounts = list(profile.mounts)

    def add(path: Path, mode: str) -> None:
        path = path.absolute()
        if any(path == place or place in path.parents for place in covered):
            return
        if "," in str(path) or ":" in str(path):
            raise ConfigError(f"{path}: a container cannot mount a path with a comma or a colon; rename it")
        covered.append(path)
        mounts.append(f"{path}:{path}{mode}")

    add(Path.cwd(), "")
    for work in works:
        # The names of a sweep's members have commas, which separate mounts: their parent folder is mounted.
        add(work.run_dir.parent if "," in work.run_dir.name else work.run_dir, "")
    if first.save_path is not None:
        add(first.save_path, "")
    if profile.local_cache and "$" not in profile.local_cache:
        add(Path(profile.local_cache), "")
    adapter = works[0].evaluation.adapter
    read = (first.base_path, first.external_knowledge_path, first.init_adapter, Path(first.model_name), adapter)
    for path in read:
        if path is not None and path.exists():
            add(path, ":ro")
    if profile.container_kind == "pyxis" and (blank := next((one for one in mounts if re.search(r"\s", one)), None)):
        raise ConfigError(
            f"{blank.split(':')[0]}: pyxis cannot mount a path with a blank; rename it, or put a folder above it into "
            "mounts"
        )
    return mounts
