"""Verifying an archive in a process that shares nothing with the encoder, from both sides.

What comes out there is what a decoder gets some other day: on an accelerator it compiles its
programs itself, rather than being given those of the encoder.

The second process runs `python -m llmjax.compression.verification RUN [--show]`: it decodes the
archive on its standard input and keeps nothing. It exits with 0 where the original's SHA-256 comes
out, else with 2 and a line on stdout.
"""

import logging
import os
import subprocess
import sys
import sysconfig
from collections.abc import Mapping, Sequence
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
"""What keeps XLA from choosing other kernels for a GPU the next time."""

logger = logging.getLogger(__name__)


def verify_archive(run: str | Path, file: BinaryIO, platform: str, show: bool) -> None:
    """Decodes the archive in a new process, which checks the original's SHA-256.

    Args:
      run: the run folder.
      file: the archive, at its beginning.
      platform: what the model runs on: cpu, gpu or tpu.
      show: whether the process writes to stderr.

    Raises:
      UserError: the archive does not decode; with what the process said.
    """
    # -P: nothing is imported from the user's current folder.
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
        why = output.decode("utf-8", "replace").strip() or f"exit code {done.returncode}"
        raise UserError("the archive", f"does not decode, so it was not kept ({why})")


def child_environment(parent: Mapping[str, str], platform: str) -> dict[str, str]:
    """The environment variables of the second process.

    Args:
      parent: those of this process.
      platform: what the model runs on: cpu, gpu or tpu.
    """
    child = dict(parent)
    package = str(Path(__file__).parents[2])
    if package not in (sysconfig.get_path("purelib"), sysconfig.get_path("platlib")):
        # A checkout, which may have been found through the current folder alone.
        paths = [package, *filter(None, [child.get("PYTHONPATH")])]
        child["PYTHONPATH"] = os.pathsep.join(paths)
    if platform != "cpu":
        child["JAX_ENABLE_COMPILATION_CACHE"] = "0"
        child["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"  # this process may still hold a part
    elif folder := jax.config.values["jax_compilation_cache_dir"]:
        child["JAX_COMPILATION_CACHE_DIR"] = str(folder)
    return child


def warn(platform: str, flags: str, verify: bool) -> None:
    """Warns beforehand about what an accelerator needs for an archive that can be decoded.

    Args:
      platform: cpu, gpu or tpu.
      flags: of the compiler.
      verify: whether a second process will decode the archive.
    """
    missing = [flag for flag in GPU_FLAGS if flag not in flags.split()]
    if platform in ("gpu", "cuda", "rocm") and missing:
        logger.warning(
            "without XLA_FLAGS='%s' the compiler may choose other kernels for decompression, "
            "which is then refused",
            " ".join(missing),
        )
    if platform == "tpu" and verify:
        logger.warning(
            "verification needs the device in a second process, but a TPU has one owner: if it "
            "fails, compress with --no-verify, and decompress the archive afterwards"
        )


def release_device() -> None:
    """Gives an accelerator back, so that a second process can use it.

    Compiled programs are dropped; where no array is left, so is JAX's hold of the device.
    """
    if jax.default_backend() == "cpu":
        return
    jax.clear_caches()
    if not jax.live_arrays():
        clear_backends()


def main(arguments: Sequence[str]) -> int:
    """The second process.

    Args:
      arguments: the run folder, and --show for progress on stderr.
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
