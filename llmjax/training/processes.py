"""Starting devices and processes, and checking that all processes share one config."""

import ctypes
import socket
from fnmatch import fnmatch

import jax

from llmjax.errors import UserError
from llmjax.parallel import distributed
from llmjax.parallel.compilation import enable_compilation_cache
from llmjax.parallel.devices import devices as all_devices
from llmjax.parallel.distributed.texts import text_of, texts_of_all
from llmjax.run.checkpoint.reading import wait_for_all
from llmjax.run.config.checks import differences
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import from_json, to_json
from llmjax.run.folder import Run

PER_PROCESS = (
    "run_dir",
    "cpu_devices",
    "data.cache_dir",
    "data.workers",
    "data.prefetch",
    "data.store*",
    "log*",
)
"""Fields that may differ between the processes of a run."""
SAME_COMMAND = "start every process with the same command"


def start_devices(config: Config) -> distributed.Link | None:
    """Sets up virtual CPU devices, joins the other processes, and enables the compilation cache.

    Returns:
      The link to the other processes, where there are any and they can reach each other.

    Raises:
      UserError: JAX has already started with other devices, or the processes cannot connect.
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
    link = distributed.join(config.log.watchdog)
    on_cpu = all_devices()[0].platform == "cpu"
    # On CPUs the keys differ between processes, and JAX stores the programs of process 0 only. It
    # would wait for the others, which gains nothing, and Gloo gives them 30 s to compile.
    if jax.process_count() == 1 or not on_cpu:
        enable_compilation_cache(config.data.cache_dir)
    if on_cpu:
        keep_freed_memory()
    return link


def check_same_config(config: Config) -> None:
    """Checks that all processes have the config of process 0; all processes call this.

    Raises:
      UserError: one has another, in every process: whichever ends first, and ends the others with
        it, has named the process and the fields.
    """
    if jax.process_count() == 1:
        return
    first = from_json(text_of(0, to_json(config)))
    changed = {
        name: values
        for name, values in differences(first, config).items()
        if not any(fnmatch(name, pattern) for pattern in PER_PROCESS)
    }
    summary = "; ".join(f"{name} {a} there, {b} here" for name, (a, b) in changed.items())
    for process, text in enumerate(texts_of_all(summary)):
        if text:
            reason = f"has another config than process 0: {text}"
            raise UserError(f"process {process}", reason, SAME_COMMAND)


def share_with_all(name: str, run: Run) -> None:
    """A barrier, after which every process sees what process 0 has written to the run so far.

    Args:
      name: of the barrier.
      run: the run.

    Raises:
      UserError: the run is in a bucket that cannot be used.
    """
    if jax.process_index() == 0:
        run.publish()
    wait_for_all(name)
    run.refresh()


def local_processes() -> int:
    """How many processes of the run are on this host; all processes call this."""
    return texts_of_all(socket.gethostname()).count(socket.gethostname())


# mallopt's names, from glibc's malloc.h.
M_TRIM_THRESHOLD, M_MMAP_MAX, M_ARENA_MAX = -1, -4, -8


def keep_freed_memory() -> None:
    """Has glibc keep freed memory for the next step.

    A step's temporary buffers are one large block. By default it is returned to the system after
    each step, and the next step faults it in again page by page, which takes a sixth of a small
    model's step. Does nothing with other C libraries.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_ARENA_MAX, 1)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
