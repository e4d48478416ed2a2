"""What launchers say through variables: which process this is, of how many, or what is wrong."""

import pytest

from llmjax.errors import UserError
from llmjax.parallel.distributed.environment import launched, rendezvous

SLICES = {
    "MEGASCALE_NUM_SLICES": "2",
    "MEGASCALE_SLICE_ID": "1",
    "MEGASCALE_COORDINATOR_ADDRESS": "job-slice-0-0.job",
    "MEGASCALE_PORT": "8081",
    "TPU_WORKER_HOSTNAMES": "job-slice-1-0.job,job-slice-1-1.job",
    "TPU_WORKER_ID": "1",
}
JOBSET = {
    "JOBSET_NAME": "llm",
    "REPLICATED_JOB_NAME": "gpus",
    "NNODES": "4",
    "JOB_COMPLETION_INDEX": "3",
}


def test_slices_are_left_to_jax():
    assert launched(SLICES)
    assert rendezvous(SLICES) is None
    assert rendezvous(SLICES | JOBSET) is None


@pytest.mark.parametrize(
    "change",
    [
        {"TPU_WORKER_HOSTNAMES": "job-slice-1-0.job", "TPU_WORKER_ID": "0"},  # a host per slice
        {"MEGASCALE_NUM_SLICES": "1", "MEGASCALE_SLICE_ID": "0"},
        {"TPU_WORKER_HOSTNAMES": "", "TPU_PROCESS_ADDRESSES": "a:8471,b:8471"},
        {"MEGASCALE_PORT": ""},
    ],
)
def test_other_slices_are_known_too(change):
    assert launched(SLICES | change)


def test_one_host_of_one_slice_is_alone():
    one = {"MEGASCALE_NUM_SLICES": "1", "MEGASCALE_SLICE_ID": "0", "TPU_WORKER_HOSTNAMES": "a"}
    assert not launched(SLICES | one)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"MEGASCALE_NUM_SLICES": ""}, "MEGASCALE_NUM_SLICES: not set, but MEGASCALE_SLICE_ID is"),
        ({"MEGASCALE_SLICE_ID": ""}, "MEGASCALE_SLICE_ID: not set, but MEGASCALE_NUM_SLICES is"),
        ({"MEGASCALE_COORDINATOR_ADDRESS": ""}, "MEGASCALE_COORDINATOR_ADDRESS: not set"),
        ({"MEGASCALE_SLICE_ID": "2"}, "MEGASCALE_NUM_SLICES=2 MEGASCALE_SLICE_ID=2: must be N"),
        ({"MEGASCALE_NUM_SLICES": "two"}, "MEGASCALE_NUM_SLICES=two"),
        ({"MEGASCALE_PORT": "70000"}, "MEGASCALE_PORT=70000: must be a port"),
        ({"TPU_WORKER_ID": ""}, "TPU_WORKER_ID: not set, but the slice has 2 hosts"),
        ({"TPU_WORKER_ID": "2"}, "TPU_WORKER_ID=2: must be a number from 0 to 1: hosts are job"),
        ({"TPU_WORKER_HOSTNAMES": ""}, "TPU_WORKER_HOSTNAMES: not set, .*LLMJAX_DISTRIBUTED=1"),
    ],
)
def test_half_set_slices_are_refused_unless_jax_shall_ask_the_metadata_server(change, message):
    with pytest.raises(UserError, match=f"^{message}"):
        launched(SLICES | change)
    assert launched(SLICES | change | {"LLMJAX_DISTRIBUTED": "1"})


def test_pods_of_a_jobset_find_the_first_by_its_name():
    assert rendezvous(JOBSET) == ("llm-gpus-0-0.llm:8476", 4, 3)
    assert not launched(JOBSET)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"NODE_RANK": "1"}, ("llm-gpus-0-0.llm:8476", 4, 1)),
        ({"JAX_COORDINATOR_PORT": "1234"}, ("llm-gpus-0-0.llm:1234", 4, 3)),
        ({"JAX_COORDINATOR_ADDRESS": "first"}, ("first:8476", 4, 3)),
        ({"JAX_COORDINATOR_ADDRESS": "first:99"}, ("first:99", 4, 3)),
        (  # three explicit variables say more
            {
                "JAX_COORDINATOR_ADDRESS": "first:99",
                "JAX_NUM_PROCESSES": "8",
                "JAX_PROCESS_ID": "7",
            },
            ("first:99", 8, 7),
        ),
        ({"NNODES": ""}, None),
        ({"JOBSET_NAME": ""}, None),
    ],
)
def test_a_jobset_may_say_more_or_nothing(change, expected):
    assert rendezvous(JOBSET | change) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"REPLICATED_JOB_NAME": ""}, "REPLICATED_JOB_NAME: not set, but JOBSET_NAME and NNODES"),
        ({"JOB_COMPLETION_INDEX": ""}, "NODE_RANK or JOB_COMPLETION_INDEX: not set, but NNODES is"),
        ({"JOB_COMPLETION_INDEX": "4"}, "NNODES=4 JOB_COMPLETION_INDEX=4: must be N and a number"),
        ({"JAX_COORDINATOR_PORT": "http"}, "JAX_COORDINATOR_PORT=http: must be a port"),
    ],
)
def test_half_a_jobset_is_refused(change, message):
    with pytest.raises(UserError, match=f"^{message}"):
        rendezvous(JOBSET | change)
