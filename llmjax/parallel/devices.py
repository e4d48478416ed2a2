"""JAX's devices, or one line about why they cannot be had."""

import os
from importlib.util import find_spec

import jax

from llmjax.errors import UserError

EXTRAS = {"cuda": "cuda13", "gpu": "cuda13", "tpu": "tpu"}
"""Platform -> the extra of llmjax that brings it."""
VISIBLE = ("CUDA_VISIBLE_DEVICES", "TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES")
PLUGINS = {
    "cuda": ("jax_cuda13_plugin", "jax_cuda12_plugin"),
    "rocm": ("jax_rocm7_plugin", "jax_rocm60_plugin"),
    "tpu": ("libtpu",),
}
"""Platform -> the packages of which one is needed."""


def devices() -> list[jax.Device]:
    """All devices of the default platform, of every process; starts it at the first call.

    Raises:
      UserError: a platform is asked for that is not here.
    """
    try:
        return jax.devices()
    except (RuntimeError, AssertionError) as error:
        raise _missing(error) from error


def platform_mistake(error: BaseException) -> UserError | None:
    """What is wrong with the platform, where that is why JAX has failed somewhere; else None."""
    if not isinstance(error, RuntimeError | AssertionError):
        return None
    try:
        devices()
    except UserError as mistake:
        return mistake
    return None


def _missing(error: BaseException) -> UserError:
    asked = jax.config.values["jax_platforms"] or os.environ.get("JAX_PLATFORMS") or ""
    hidden = [f"{name}={os.environ[name]}" for name in VISIBLE if name in os.environ]
    # Of CUDA without its plugin JAX says nothing at all.
    reason = " ".join(str(error).partition(" (set JAX_PLATFORMS")[0].split())[:300]
    reason = f": {reason.rstrip('.')}" if reason else ""
    reason += f" ({', '.join(hidden)})" if hidden else ""
    installed = [name for name, needed in PLUGINS.items() if any(map(find_spec, needed))]
    known = ", ".join(["cpu", *installed])
    extras = [EXTRAS[name] for name in asked.split(",") if name in EXTRAS and name not in installed]
    install = (
        f", or pip install 'llmjax[{extras[0]}]' where there is such a device" if extras else ""
    )
    return UserError(
        f"JAX_PLATFORMS={asked}",
        f"there is no such device here{reason}; installed: {known}",
        f"unset JAX_PLATFORMS or set it to cpu{install}",
    )
