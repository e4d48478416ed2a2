#!/usr/bin/env bash
# Measures llmjax on one NVIDIA GPU beside PyTorch and Transformers, in at most 8 minutes:
#   benchmarks/gpu.sh [--python PATH] [--json FILE] [--budget SECONDS] [--parts NAME,NAME] [--toy]
# Needs this checkout and a Python 3.11 or newer with JAX for CUDA, Flax and Optax: the one named by
# --python or $PYTHON, else .venv, else python3. Nothing is installed. What further packages are
# needed for, and what the columns mean: docs/performance.md.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${PYTHON:-}
if [ "${1:-}" = --python ]; then
  python=${2:?--python needs a path}
  shift 2
fi
if [ -z "$python" ]; then
  python=python3
  if [ -x "$root/.venv/bin/python" ]; then python=$root/.venv/bin/python; fi
fi
if ! command -v "$python" >/dev/null; then
  echo "gpu.sh: there is no $python; name a Python with --python PATH" >&2
  exit 2
fi
"$python" - <<'CHECK' || exit 2
import importlib.util, sys
if sys.version_info < (3, 11):
    sys.exit(f"gpu.sh: {sys.executable} is Python {sys.version.split()[0]}; 3.11 or newer is needed")
missing = [name for name in ("jax", "flax", "optax") if importlib.util.find_spec(name) is None]
if missing:
    command = f"{sys.executable} -m pip install 'jax[cuda13]' flax optax"
    sys.exit(f"gpu.sh: {sys.executable} lacks {', '.join(missing)}: {command}")
CHECK
case " $* " in *" --json "*) ;; *) set -- --json "$PWD/runs/gpu.json" "$@" ;; esac
PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} exec "$python" -m benchmarks.gpu "$@"
