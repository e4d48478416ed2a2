#!/usr/bin/env bash
# Train on a Cloud TPU slice: run the same command on every host, by ssh.
#
#   launch/tpu_pod.sh TPU_NAME ZONE CONFIG --run-dir /shared/runs/NAME [--field value ...]
#
# Once, on all hosts: pip install 'llmjax[tpu]', and mount a file system that they share. JAX gets the
# number of hosts from the TPU metadata server.
set -euo pipefail
if [[ $# -lt 3 ]]; then
  sed -n 's/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
name=$1 zone=$2
shift 2
gcloud compute tpus tpu-vm ssh "$name" --zone "$zone" --worker=all \
  --command "LLMJAX_DISTRIBUTED=1 ${LLMJAX:-llmjax} train $(printf '%q ' "$@")"
