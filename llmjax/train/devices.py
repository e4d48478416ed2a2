"""What has to be settled before JAX touches a device."""

import hashlib
from pathlib import Path

import jax

from llmjax import distributed
from llmjax.config import Config
from llmjax.data.config import cache_root
from llmjax.errors import UserError


def start_devices(config: Config) -> None:
    """Divides the CPU if asked to, joins the other processes, and keeps compiled programs on disk.

    Raises:
      UserError: JAX runs already with other devices, or the processes do not find together.
    """
    if config.cpu_devices:
        try:
            jax.config.update("jax_platforms", "cpu")
            jax.config.update("jax_num_cpu_devices", config.cpu_devices)
        except RuntimeError as error:
            if jax.local_device_count("cpu") != config.cpu_devices:
                reason = f"JAX has already started, with {jax.local_device_count('cpu')} CPU devices"
                fix = "start a new process, and train before anything else uses JAX"
                raise UserError(f"cpu_devices {config.cpu_devices}", reason, fix) from error
    distributed.join()
    if jax.config.jax_compilation_cache_dir is None:
        folder = cache_root(config.data.cache_dir) / "compiled" / _processor()
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _processor() -> str:
    """A name for this kind of processor: what is compiled for one may crash on another."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    kind = sorted({line for line in lines if line.startswith(("model name", "flags", "Features"))})
    return hashlib.blake2b("\n".join(kind).encode(), digest_size=6).hexdigest()
