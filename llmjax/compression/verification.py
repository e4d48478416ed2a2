"""Verifies an archive in a separate process: starts the process, and is its program.

The process shares nothing with the encoder, so its result is that of a later decoder: on an
accelerator it compiles its programs itself instead of reusing the encoder's.

It runs `python -m llmjax.compression.verification RUN [--show]`, decodes the archive on its
standard input and discards the result. It exits with 0 if the SHA-256 is that of the original, else
with 2 and a line on stdout.
"""

import logging
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import BinaryIO

import jax
from jax.extend.backend import clear_backends

from llmjax.compression.archive import Archive
from llmjax.compression.decoder import Decoder
from llmjax.compression.inputs import STREAM, open_seekable
from llmjax.compression.progress import end_line, line_progress, no_progress
from llmjax.errors import UserError, printable

GPU_FLAGS = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")
"""Flags that make XLA choose the same GPU kernels every time."""

logger = logging.getLogger(__name__)


def verify_archive(run: str | PathLike[str], file: BinaryIO, platform: str, show: bool) -> None:
    """Decodes the archive in a new process, which verifies the SHA-256 of the original.

    Args:
      run: the run folder.
      file: the archive, positioned at its start.
      platform: the model's platform: cpu, gpu or tpu.
      show: whether the process writes to stderr.

    Raises:
      UserError: the archive does not decode; quotes the output of the process.
    """
    # -P: import nothing from the user's current folder.
    command = [
        sys.executable,
        "-P",
        "-m",
        "llmjax.compression.verification",
        str(run),
        *(["--show"] * show),
    ]
    done = subprocess.run(
        command,
        stdin=file,
        stdout=subprocess.PIPE,
        stderr=None if show else subprocess.PIPE,
        env=child_environment(os.environ, platform),
    )
    if done.returncode:
        output = done.stdout or b"".join((done.stderr or b"").strip().splitlines()[-1:])
        cause = output.decode("utf-8", "replace").strip() or f"exit code {done.returncode}"
        raise UserError("the archive", f"does not decode, so it was not kept ({cause})")


def child_environment(parent: Mapping[str, str], platform: str) -> dict[str, str]:
    """Returns the environment variables of the second process.

    Args:
      parent: environment variables of this process.
      platform: the model's platform: cpu, gpu or tpu.
    """
    child = dict(parent)
    package = str(Path(__file__).parents[2])
    if package not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        # A checkout, which may be importable only from the current folder.
        paths = [package, *filter(None, [child.get("PYTHONPATH")])]
        child["PYTHONPATH"] = os.pathsep.join(paths)
    if platform != "cpu":
        child["JAX_ENABLE_COMPILATION_CACHE"] = "0"
        child["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process may still hold memory
    elif folder := jax.config.values["jax_compilation_cache_dir"]:
        child["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    return child


def warn(platform: str, flags: str, verify: bool) -> None:
    """Warns about settings on an accelerator that may keep the archive from being decoded.

    Args:
      platform: cpu, gpu or tpu.
      flags: compiler flags.
      verify: whether a second process will decode the archive.
    """
    missing = [flag for flag in GPU_FLAGS if flag not in flags.split()]
    if platform in ("gpu", "cuda", "rocm") and missing:
        logger.warning(
            "without XLA_FLAGS='%s' the compiler may choose other kernels for decompression, and "
            "the archive would be refused",
            " ".join(missing),
        )
    if platform == "tpu" and verify:
        logger.warning(
            "verification uses the device in a second process, but a TPU has a single owner: if it "
            "fails, compress with --no-verify and decompress the archive afterwards"
        )


def release_device() -> None:
    """Releases an accelerator so that a second process can use it.

    Clears compiled programs and, if no array is alive, JAX's backends.
    """
    if jax.default_backend() == "cpu":
        return
    jax.clear_caches()
    if not jax.live_arrays():
        clear_backends()


def main(arguments: Sequence[str]) -> int:
    """Runs the second process.

    Args:
      arguments: the run folder, and --show to show progress on stderr.
    """
    progress = line_progress() if "--show" in arguments else no_progress
    try:
        with open_seekable(STREAM) as file:
            decoder = Decoder(arguments[0], Archive.open(file))
            decoder.decode(lambda data: None, "Verifying", progress)
    except UserError as error:
        print(printable(str(error)))
        return 2
    finally:
        end_line()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
