"""Verifying, from the first process's side: an archive is decoded by a process that shares nothing.

What has to come out the same there is what a decoder finds some other day: so on an accelerator it
compiles its programs itself, rather than being given those of the encoder.
"""

import logging
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

import jax
from jax.extend.backend import clear_backends

from llmjax.errors import UserError

GPU_FLAGS = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")
"""What keeps XLA from choosing other kernels for a GPU the next time."""

logger = logging.getLogger(__name__)


def verify_archive(run: str | Path, file: BinaryIO, platform: str, show: bool) -> None:
    """Decodes the archive in a fresh process, which checks it against the original's SHA-256.

    Args:
      run: the run folder.
      file: the archive, at its beginning.
      platform: what the model runs on: cpu, gpu or tpu.
      show: whether the process writes to stderr.

    Raises:
      UserError: it does not come out right; what the process said.
    """
    # -P: nothing is imported from the folder that the user is in.
    words = [
        sys.executable,
        "-P",
        "-m",
        "llmjax.compression.verify",
        str(run),
        *(["--show"] * show),
    ]
    done = subprocess.run(
        words,
        stdin=file,
        stdout=subprocess.PIPE,
        stderr=None if show else subprocess.PIPE,
        env=surroundings(os.environ, platform),
    )
    if done.returncode:
        said = done.stdout or b"".join((done.stderr or b"").strip().splitlines()[-1:])
        why = said.decode("utf-8", "replace").strip() or f"exit code {done.returncode}"
        raise UserError("the archive", f"does not decode, so it was not kept ({why})")


def surroundings(ours: Mapping[str, str], platform: str) -> dict[str, str]:
    """The second process's environment variables.

    Args:
      ours: those of this process.
      platform: what the model runs on: cpu, gpu or tpu.
    """
    theirs = dict(ours)
    package = str(Path(__file__).parents[2])
    if package not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        known = theirs.get("PYTHONPATH")  # of a checkout, which only the user's folder leads to
        theirs["PYTHONPATH"] = os.pathsep.join([package, *([known] if known else [])])
    if platform != "cpu":
        theirs["JAX_ENABLE_COMPILATION_CACHE"] = "0"
        theirs["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process may hold a part still
    elif folder := jax.config.values["jax_compilation_cache_dir"]:
        theirs["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    return theirs


def warn(platform: str, flags: str, verifies: bool) -> None:
    """Says beforehand what an accelerator needs for an archive that can be decoded.

    Args:
      platform: cpu, gpu or tpu.
      flags: of the compiler.
      verifies: whether a second process will be asked to decode.
    """
    missing = [flag for flag in GPU_FLAGS if flag not in flags.split()]
    if platform in ("gpu", "cuda", "rocm") and missing:
        logger.warning(
            "without XLA_FLAGS='%s' the compiler may choose other kernels when the archive is "
            "decompressed, which is then refused",
            " ".join(missing),
        )
    if platform == "tpu" and verifies:
        logger.warning(
            "verifying needs the device in a second process, and a TPU has one owner: where that "
            "fails, compress with --no-verify, and decompress the archive afterwards"
        )


def let_go() -> None:
    """Gives an accelerator back, so that a second process finds room on it.

    Compiled programs go; where no array is left, so does JAX's hold of the device.
    """
    if jax.default_backend() == "cpu":
        return
    jax.clear_caches()
    if not jax.live_arrays():
        clear_backends()
