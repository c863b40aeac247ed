#!/bin/bash

# Parameters
#SBATCH --account=art
#SBATCH --constraint='a100&ib'
#SBATCH --cpus-per-task=8
#SBATCH --gpus-per-node=2
#SBATCH --job-name=vizsage-train-run
#SBATCH --mem=64G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=HERE/out/run/jobs/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --signal=USR2@600
#SBATCH --time=2-00:00:00

# setup
settings=HERE/out/run/jobs/settings-DIGEST.yaml
run_dir=HERE/out/run
max_retries=3
trap : TERM USR2
id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
id=${id:-$SLURM_JOB_ID}
echo "=== attempt $((${SLURM_RESTART_COUNT:-0} + 1)) of job $id on $SLURM_JOB_NODELIST, $(date -u +%Y-%m-%dT%H:%M:%SZ)"
export NNODES=$SLURM_JOB_NUM_NODES
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
getent hosts "$MASTER_ADDR" > /dev/null || MASTER_ADDR=$(hostname)  # a node's name need not be its host's
export MASTER_ADDR MASTER_PORT=$((15000 + (SLURM_JOB_ID + 1009 * ${SLURM_RESTART_COUNT:-0}) % 15000))
export EXIT_CODES_DIR="$run_dir/jobs/$id.codes"
rm -rf "$EXIT_CODES_DIR"
export PROCESSES_PER_NODE=2
export VIZSAGE_LOCAL_CACHE="/tmp/$USER/vizsage"
export TRITON_CACHE_DIR="$VIZSAGE_LOCAL_CACHE/triton" CUDA_CACHE_PATH="$VIZSAGE_LOCAL_CACHE/cuda"
export TORCHINDUCTOR_CACHE_DIR="$VIZSAGE_LOCAL_CACHE/inductor" HF_DATASETS_CACHE="$VIZSAGE_LOCAL_CACHE/datasets" MPLCONFIGDIR="$VIZSAGE_LOCAL_CACHE/matplotlib"
export HF_HOME=/shared/hf
export GREETING='it'"'"'s $HOME'
module load cuda
ulimit -n 4096
set +eu; set +o pipefail; trap : TERM USR2

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output HERE/out/run/jobs/%j_%t_log.out --cpus-per-task=8 --open-mode=append --export=ALL --kill-on-bad-exit=0 --wait=600 bash -c 'mkdir -p "$VIZSAGE_LOCAL_CACHE" || exit; export NODE_RANK="$SLURM_NODEID"; exec "$@"' task PYTHON -u -m jobs.run train "$settings"


# teardown
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
exit "$code"
#!/bin/bash

# Parameters
#SBATCH --account=art
#SBATCH --constraint='a100&ib'
#SBATCH --cpus-per-task=4
#SBATCH --dependency=afterok:JOBID
#SBATCH --gpus-per-node=1
#SBATCH --job-name=vizsage-eval-run
#SBATCH --kill-on-invalid-dep=yes
#SBATCH --mem=32G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=HERE/out/run/jobs/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --signal=USR2@600
#SBATCH --time=2-00:00:00

# setup
settings=HERE/out/run/jobs/settings-DIGEST.yaml
run_dir=HERE/out/run
max_retries=3
trap : TERM USR2
id=${SLURM_ARRAY_JOB_ID:+${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID}
id=${id:-$SLURM_JOB_ID}
echo "=== attempt $((${SLURM_RESTART_COUNT:-0} + 1)) of job $id on $SLURM_JOB_NODELIST, $(date -u +%Y-%m-%dT%H:%M:%SZ)"
export NNODES=$SLURM_JOB_NUM_NODES
MASTER_ADDR=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
getent hosts "$MASTER_ADDR" > /dev/null || MASTER_ADDR=$(hostname)  # a node's name need not be its host's
export MASTER_ADDR MASTER_PORT=$((15000 + (SLURM_JOB_ID + 1009 * ${SLURM_RESTART_COUNT:-0}) % 15000))
export EXIT_CODES_DIR="$run_dir/jobs/$id.codes"
rm -rf "$EXIT_CODES_DIR"
export PROCESSES_PER_NODE=1
export VIZSAGE_LOCAL_CACHE="/tmp/$USER/vizsage"
export TRITON_CACHE_DIR="$VIZSAGE_LOCAL_CACHE/triton" CUDA_CACHE_PATH="$VIZSAGE_LOCAL_CACHE/cuda"
export TORCHINDUCTOR_CACHE_DIR="$VIZSAGE_LOCAL_CACHE/inductor" HF_DATASETS_CACHE="$VIZSAGE_LOCAL_CACHE/datasets" MPLCONFIGDIR="$VIZSAGE_LOCAL_CACHE/matplotlib"
export HF_HOME=/shared/hf
export GREETING='it'"'"'s $HOME'
module load cuda
ulimit -n 4096
set +eu; set +o pipefail; trap : TERM USR2

# command
export SUBMITIT_EXECUTOR=slurm
srun --unbuffered --output HERE/out/run/jobs/%j_%t_log.out --cpus-per-task=4 --open-mode=append --export=ALL --kill-on-bad-exit=0 --wait=600 bash -c 'mkdir -p "$VIZSAGE_LOCAL_CACHE" || exit; export NODE_RANK="$SLURM_NODEID"; exec "$@"' task PYTHON -u -m jobs.run eval "$settings"


# teardown
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
exit "$code"
