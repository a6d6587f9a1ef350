# shellcheck shell=bash
# What the jobs of this folder share: the site's settings, one process for each GPU, and what becomes of a job that is
# told to stop or crashes. It knows nothing of ranks and where they meet: elm_dist/parallel/environment.py reads srun's
# own variables.

ELM_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PATH=$ELM_ROOT/.venv/bin:$PATH # what `make` set up, where it did
CONTAINER=()                   # what stands before `python`, if it is to run in a container
STOP_SIGNAL=USR1               # what tells the processes to save and end
MAX_RESTARTS=10                # a job that crashes is requeued unless it has been started so often
if [[ -f $ELM_ROOT/cluster/site.env ]]; then
    # shellcheck source=cluster/site.env.example
    source "$ELM_ROOT/cluster/site.env"
fi

set -euo pipefail
# The number of an array's last task is that of the array, which means all of them.
JOB=${SLURM_ARRAY_TASK_ID:+${SLURM_ARRAY_JOB_ID}_}${SLURM_ARRAY_TASK_ID:-$SLURM_JOB_ID}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export NCCL_DEBUG=${NCCL_DEBUG:-WARN}
export PYTHONFAULTHANDLER=1
export PYTHONPATH=$ELM_ROOT${PYTHONPATH:+:$PYTHONPATH}
if [[ -v SLURM_CPUS_PER_TASK ]]; then
    export SRUN_CPUS_PER_TASK=$SLURM_CPUS_PER_TASK # srun asks for it anew since SLURM 22.05
fi

# run_training CONFIG [SECTION.KEY=VALUE]...
# Train; each task of an array with its number as its seed, in a folder of its own.
run_training() {
    local config=$1 override directory
    shift
    local overrides=("$@")
    if [[ -v SLURM_ARRAY_TASK_ID ]]; then
        directory=runs/$(basename "$config" .yaml)
        for override in "$@"; do
            [[ $override != run.directory=* ]] || directory=${override#*=}
        done
        overrides+=("run.seed=$SLURM_ARRAY_TASK_ID" "run.directory=$directory/seed_$SLURM_ARRAY_TASK_ID")
    fi
    run_processes "$ELM_ROOT/elm_dist/train.py" --config "$config" "${overrides[@]}"
}

# run_processes ARGUMENT...
# Run `python ARGUMENT...` once for each GPU of the job. Returns when all are done; ends the job otherwise.
run_processes() {
    local is_stopped=no step='' status
    trap 'is_stopped=yes; [[ -z $step ]] || kill -s "$STOP_SIGNAL" "$step" || true' USR1 USR2
    # One process that ends badly ends all: the others would wait for it. In the background, for a trap waits for what
    # is in front; srun passes the signal on to every process.
    srun --label --kill-on-bad-exit=1 --wait=60 "${CONTAINER[@]}" python -u "$@" &
    step=$!
    while true; do
        wait "$step" && status=0 || status=$?
        kill -0 "$step" 2>/dev/null || break # it was the signal that ended the wait
    done
    trap - USR1 USR2
    if [[ $is_stopped == yes ]] || is_preempted; then
        requeue "told to stop"
        exit "$status" # where jobs are not requeued: what was saved is for the next job of a chain
    elif ((status != 0 && status != 2 && ${SLURM_RESTART_COUNT:-0} < MAX_RESTARTS)); then # 2 is wrong input
        requeue "its processes ended with $status"
    fi
    ((status == 0)) || exit "$status"
}

# run_process ARGUMENT...
# The same as one process in all.
run_process() {
    SLURM_NNODES=1 SLURM_NTASKS=1 SLURM_NTASKS_PER_NODE=1 run_processes "$@"
}

# requeue REASON
# Put this job back into the queue, which ends this script; returns if SLURM refuses.
requeue() {
    echo "cluster: job $JOB was started ${SLURM_RESTART_COUNT:-0} times before; $1"
    if scontrol requeue "$JOB"; then
        sleep 60
    fi
}

# Whether the job has to make room for another. Where there is a time of grace, SLURM tells the processes and not this
# script; they have saved then.
is_preempted() {
    [[ $(scontrol show job "$JOB") =~ PreemptTime=[0-9] ]]
}
