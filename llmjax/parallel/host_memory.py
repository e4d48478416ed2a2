"""The host's memory, in which arrays of its devices can wait."""

from jax.sharding import Mesh

from llmjax.errors import UserError

HOST = "pinned_host"
"""The kind of memory of a host that its devices read and write."""


def check_host_memory(mesh: Mesh) -> None:
    """Checks that arrays of the devices can wait in the host's memory.

    Raises:
      UserError: they cannot, or the devices' memory is the host's.
    """
    device = mesh.local_devices[0]
    kinds = {memory.kind for memory in device.addressable_memories()}
    if device.platform == "cpu" or HOST not in kinds:
        raise UserError(
            "compute.offload",
            f"{device.platform} devices have no memory apart from the host's",
            "leave it out; --compute.remat full keeps less",
        )
