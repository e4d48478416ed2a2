#!/usr/bin/env bash
# Train one model with N processes on this machine.
#
#   launch/local.sh N CONFIG [--field value ...]
#
# On CPUs each process has one device (--cpu-devices M: M devices). On NVIDIA GPUs each has one GPU, so
# N is their number. On SIGTERM or Ctrl-C all of them save, and the exit code is 75.
set -uo pipefail
if [[ $# -lt 2 || ! $1 =~ ^[1-9][0-9]*$ ]]; then
  sed -n 's/^# \{0,1\}//p' "$0" >&2
  exit 2
fi
count=$1
shift

free_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
export JAX_COORDINATOR_ADDRESS=127.0.0.1:$(python3 -c "$free_port") JAX_NUM_PROCESSES=$count

gpus=$(nvidia-smi --list-gpus 2>/dev/null | wc -l)
workers=()
for ((index = 0; index < count; index++)); do
  if ((gpus > 0)); then export JAX_LOCAL_DEVICE_IDS=$index; fi
  JAX_PROCESS_ID=$index "${LLMJAX:-llmjax}" train "$@" &
  workers+=($!)
done

# The terminal sends Ctrl-C to the processes itself; a second signal would end them before they save.
trap 'kill -TERM "${workers[@]}" 2>/dev/null' TERM
trap : INT

# Name those that were killed: nobody else can, before they have reported to process 0.
name_killed() {
  for ((index = 0; index < count; index++)); do
    kill -0 "${workers[index]}" 2>/dev/null && continue
    wait "${workers[index]}" 2>/dev/null
    local code=$?
    if ((code > 128 && code != 130 && code != 143)); then
      echo "llmjax: error: process $index (host $(hostname), pid ${workers[index]})" \
        "was killed by SIG$(kill -l $((code - 128)))" >&2
    fi
  done
}

# If one has failed, the others end by themselves and say at which step; kill what is left after 5 s.
# (130 and 143: we received a signal.)
failed=0
while [[ -n $(jobs -rp) ]]; do
  wait -n
  status=$?
  case $status in
    0 | 75 | 127 | 130 | 143) ;;
    *)
      failed=$status
      name_killed
      for ((end = SECONDS + 5; SECONDS < end; )); do
        if [[ -z $(jobs -rp) ]]; then break; fi
        sleep 0.2
      done
      kill -KILL $(jobs -rp) 2>/dev/null
      break
      ;;
  esac
done
for worker in "${workers[@]}"; do
  wait "$worker"
  status=$?
  if ((failed == 0)); then failed=$status; fi
done
exit "$failed"
