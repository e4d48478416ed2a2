"""Topologies, and what a mesh axis can send in them."""

import pytest

from llmjax.errors import UserError
from llmjax.run.planning.topology import compiler_topology, parse_topology


def bandwidths(text: str, **sizes: int) -> dict[str, float]:
    return parse_topology(text).bandwidths(sizes)


def test_axes_of_a_torus_use_the_links_of_whole_dimensions():
    assert bandwidths("v5e:16x16", fsdp=256) == {"fsdp": 2 * 9e10}
    found = bandwidths("v5e:16x16", fsdp=16, tensor=16)
    assert found == {"fsdp": 9e10, "tensor": 9e10}
    # Four neighbours of sixteen are a line, without the links back.
    assert bandwidths("v5e:16x16", fsdp=64, tensor=4)["tensor"] == 4.5e10


def test_hosts_of_gpus_share_their_network_cards():
    assert bandwidths("h100:8", fsdp=8) == {"fsdp": 4.5e11}
    # Eight cards of 50 GB/s for the ring through all GPUs of a host; one where each has its own.
    assert bandwidths("h100:4x8", fsdp=32) == {"fsdp": 4e11}
    assert bandwidths("h100:4x8", data=4, fsdp=8) == {"data": 5e10, "fsdp": 4.5e11}


def test_slices_are_joined_by_the_hosts():
    two = parse_topology("v5e:16x16", 2)
    assert (two.devices, two.domain) == (512, 256)
    assert two.bandwidths({"data": 2, "fsdp": 256}) == {"data": 3.1e9, "fsdp": 1.8e11}


def test_counts():
    assert parse_topology("h100:64").shape == (8, 8)
    assert parse_topology("b200:8").devices == 8
    ironwood = parse_topology("v7x:2x2x1")
    assert (ironwood.chips, ironwood.devices) == (4, 8)
    assert compiler_topology(ironwood.name) == "tpu7x:2x2x1"
    assert compiler_topology("v5p:4x4x4") == "v5p:4x4x4"
    assert parse_topology("cpu").memory is not None


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("v5e", "v5e:16x16"),
        ("v9:4x4", "v5e"),
        ("v5p:4x4", "v5p:4x4x4"),
        ("v5e:0x4", "positive"),
        ("h100:1x2x8", "hosts x GPUs"),
    ],
)
def test_bad_topologies_name_the_fix(text, problem):
    with pytest.raises(UserError, match=problem):
        parse_topology(text)


def test_slices_are_those_of_tpus():
    with pytest.raises(UserError, match="h100:2x8"):
        parse_topology("h100:8", 2)
