#!/usr/bin/env bash
#SBATCH --job-name=llmjax
#SBATCH --nodes=2
#SBATCH --gpus-per-node=8
#SBATCH --ntasks-per-node=8
#SBATCH --cpus-per-task=12
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@300
#SBATCH --requeue
# Run one process per GPU of every node; JAX finds the others through SLURM's variables.
#
#   sbatch launch/slurm.sh CONFIG --run-dir /shared/runs/NAME [--field value ...]
#
# Five minutes before the time limit SLURM sends SIGTERM; the run saves, exits with 75, and is requeued;
# so is one that hung (76).
# /shared is a file system that all nodes share.
set -uo pipefail
srun --kill-on-bad-exit=1 "${LLMJAX:-llmjax}" train "$@"
code=$?
if ((code == 75 || code == 76)); then scontrol requeue "$SLURM_JOB_ID"; fi
exit "$code"
