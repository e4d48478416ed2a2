"""What has to be settled before training touches a device."""

import ctypes

import jax

from llmjax import distributed
from llmjax.config import Config
from llmjax.errors import UserError
from llmjax.programs import keep_programs


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
                reason = (
                    f"JAX has already started, with {jax.local_device_count('cpu')} CPU devices"
                )
                fix = "start a new process, and train before anything else uses JAX"
                raise UserError(f"cpu_devices {config.cpu_devices}", reason, fix) from error
    distributed.join()
    keep_programs(config.data.cache_dir)
    if jax.default_backend() == "cpu":
        keep_freed_memory()


# mallopt's names, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Has glibc keep what is freed, for the next step to use.

    A step's temporary buffers are one large block. By default it goes back to the system after each
    step, and the next one faults it in again page by page: a sixth of a small model's step. Other
    C libraries have no such switch, and are left alone.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
