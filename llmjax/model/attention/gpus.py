"""What the local GPUs can do."""

import jax


def compute_capability() -> tuple[int, int] | None:
    """The compute capability of the local NVIDIA GPUs; (0, 0) for GPUs of others.

    None if there is none here, as when compiling for one that is absent.
    """
    if jax.default_backend() != "gpu":
        return None
    text = str(getattr(jax.local_devices()[0], "compute_capability", ""))
    major, _, minor = text.partition(".")
    return (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)


def has_flash() -> bool:
    """Whether flash attention in bfloat16 runs: from Ampere (8.0). Assumed of absent GPUs."""
    capability = compute_capability()
    return capability is None or capability >= (8, 0)


def has_large_shared_memory() -> bool:
    """Whether a block has 160 kB of shared memory, as on GPUs of data centres, or 99 kB.

    By the table of compute capabilities in the CUDA C++ Programming Guide. Assumed of absent GPUs.
    """
    capability = compute_capability()
    return capability is None or capability not in ((8, 6), (8, 9), (12, 0), (12, 1))
