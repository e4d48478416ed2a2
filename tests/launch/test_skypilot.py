"""SkyPilot's own loader reads the task."""

from pathlib import Path

import pytest

sky = pytest.importorskip("sky")

LAUNCH = Path(__file__).parents[2] / "launch"


def test_the_task_is_read_by_skypilot():
    task = sky.Task.from_yaml(str(LAUNCH / "skypilot.yaml"))
    assert task.num_nodes == 2
    (resources,) = task.resources
    assert resources.accelerators == {"H100": 8}
    assert "llmjax train" in task.run
    assert "JAX_PROCESS_ID=$SKYPILOT_NODE_RANK" in task.run


def test_fields_may_be_given_on_the_command_line():
    task = sky.Task.from_yaml(str(LAUNCH / "skypilot.yaml"))
    task.update_envs({"CONFIG": "gpt2_355m"})
    assert task.envs["CONFIG"] == "gpt2_355m"
