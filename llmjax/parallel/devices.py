"""JAX's devices, or a one-line error about why there are none."""

import os
from importlib.util import find_spec

import jax

from llmjax.errors import UserError

EXTRAS = {"cuda": "cuda13", "gpu": "cuda13", "tpu": "tpu"}
"""Platform -> the extra of llmjax that installs it."""
VISIBLE = ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES")
PLUGINS = {
    "cuda": ("jax_cuda13_plugin", "jax_cuda12_plugin"),
    "rocm": ("jax_rocm7_plugin", "jax_rocm60_plugin"),
    "tpu": ("libtpu",),
}
"""Platform -> packages, one of which it needs."""


def devices() -> list[jax.Device]:
    """Returns all devices of the default platform, of every process; initializes it.

    Raises:
      UserError: the requested platform is not available.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise _missing(error) from error


def host_device() -> jax.Device:
    """The CPU device if JAX has one: a model being converted need not fit on a GPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:  # excluded by JAX_PLATFORMS
        return jax.local_devices()[0]


def platform_mistake(error: BaseException) -> UserError | None:
    """Returns the mistake if JAX failed because of its platform, else None."""
    if not isinstance(error, RuntimeError | AssertionError):
        return None
    try:
        devices()
    except UserError as mistake:
        return mistake
    return None


def _missing(error: BaseException) -> UserError:
    requested = jax.config.values["jax_platforms"] or os.environ.get("JAX_PLATFORMS") or ""
    hidden = [f"{name}={os.environ[name]}" for name in VISIBLE if name in os.environ]
    # The error is empty for CUDA without its plugin.
    reason = " ".join(str(error).partition(" (set JAX_PLATFORMS")[0].split())[:300]
    reason = f": {reason.rstrip('.')}" if reason else ""
    reason += f" ({', '.join(hidden)})" if hidden else ""
    installed = [name for name, needed in PLUGINS.items() if any(map(find_spec, needed))]
    known = ", ".join(["cpu", *installed])
    absent = [name for name in requested.split(",") if name not in installed]
    extras = [EXTRAS[name] for name in absent if name in EXTRAS]
    install = f", or pip install 'llmjax[{extras[0]}]' on a machine that has one" if extras else ""
    return UserError(
        f"JAX_PLATFORMS={requested}",
        f"there is no such device here{reason}; installed: {known}",
        f"unset JAX_PLATFORMS or set it to cpu{install}",
    )
