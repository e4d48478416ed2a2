import jax
import numpy as np
import pytest
from jax.sharding import Mesh

from llmjax.errors import UserError
from llmjax.parallel.host_memory import check_host_memory


def test_a_cpu_has_no_memory_to_offload_to():
    with pytest.raises(UserError, match=r"compute.offload: cpu devices have no memory apart"):
        check_host_memory(Mesh(np.array(jax.devices()[:1]), ("data",)))
