"""What has to be settled before JAX touches a device."""

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
