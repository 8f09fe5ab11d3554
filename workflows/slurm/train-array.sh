#!/usr/bin/env bash
# Several trainings of one file, each a task of a SLURM array, on a queue that may take a job's machine away:
#
#     sbatch --array=0-3 train-array.sh cells.pp.h5ad runs.txt
#
# Each line of runs.txt is one run: the model's name, then options of `cellalign train`; lines that begin with # are left out.
# A minute before a task is ended, SLURM sends it SIGTERM: cellalign leaves a checkpoint and ends with status 143. This script
# then puts the task back into the queue, which --requeue alone does after preemption or the loss of a node, not at the
# time limit, and --auto-resume goes on from the checkpoint, in the same weights, bit for bit. A task whose model is
# complete is done at once.
#
#SBATCH --job-name=cellalign
#SBATCH --time=02:00:00
#SBATCH --cpus-per-task=4
#SBATCH --mem=8G
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --signal=TERM@60
#SBATCH --output=%x-%A_%a.log
set -euo pipefail

cells=${1:?usage: sbatch --array=0-N train-array.sh CELLS RUNS}
runs=${2:?usage: sbatch --array=0-N train-array.sh CELLS RUNS}
task=${SLURM_ARRAY_TASK_ID:?this is a task of an array: sbatch --array=0-N}

mapfile -t lines < <(grep -Ev '^[[:space:]]*(#|$)' "$runs")
if ((task >= ${#lines[@]})); then
    echo "task $task: $runs has ${#lines[@]} runs only" >&2
    exit 2
fi
read -r model options <<<"${lines[task]}"
# the words of the line as a shell reads them, quotes and all
words=()
eval "words=($options)"
mkdir -p "$(dirname -- "$model")"

# In a step of its own: --signal goes to what srun starts, and this script is there to see how it ended.
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}" # which srun does not take from the job since SLURM 22.05
srun=()
if [[ -n ${SLURM_JOB_ID:-} ]] && command -v srun >/dev/null; then
    srun=(srun --ntasks=1)
fi
trap 'kill -TERM "$training" 2>/dev/null || true' TERM
"${srun[@]}" cellalign train "$cells" -m "$model" --threads "${SLURM_CPUS_PER_TASK:-1}" --auto-resume \
    "${words[@]}" &
training=$!
# a trapped signal ends `wait` before the training has ended: wait for it again
while kill -0 "$training" 2>/dev/null; do
    wait "$training" || true
done
status=0
wait "$training" || status=$?

case $status in
0) echo "task $task: $model is complete" ;;
129 | 130 | 143)
    echo "task $task: $model was ended (status $status), its checkpoint is kept"
    if [[ -n ${SLURM_JOB_ID:-} ]]; then
        scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_JOB_ID:+_$task}"
    fi
    ;;
*) echo "task $task: $model failed with status $status, and is not tried again" >&2 ;;
esac
exit "$status"
