#!/usr/bin/env bash
#SBATCH --job-name=llmjax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
#SBATCH --open-mode=append
# Run one process per GPU of every node.
#
#   sbatch launch/slurm.sh CONFIG --run-dir /shared/runs/NAME [--field value ...]
#
# Five minutes before the time limit SLURM sends SIGTERM; the run saves, exits with 75, and is requeued;
# so is one that hung (76).
# /shared is a file system that all nodes share.
set -uo pipefail
first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export JAX_COORDINATOR_ADDRESS=$first:$((61440 + SLURM_JOB_ID % 4096))
# The processes end each other. srun would kill those that are about to exit with 75 as well. It kills
# those that still run 300 s after another has ended: they hang.
srun --kill-on-bad-exit=0 --wait=300 bash -c \
  'JAX_NUM_PROCESSES=$SLURM_STEP_NUM_TASKS JAX_PROCESS_ID=$SLURM_PROCID exec "$@"' \
  task "${LLMJAX:-llmjax}" train "$@"
code=$?
if ((code == 75 || code == 76)); then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
