"""User errors raised in another process."""

import copy
from pathlib import Path

import pytest

from llmjax.errors import UserError
from llmjax.run.config.build import ConfigError
from llmjax.storage.cache_folders import Damaged


@pytest.mark.parametrize(
    "error",
    [
        UserError("a file", "is empty", "fill it"),
        Damaged(Path("folder"), "it is empty"),
        ConfigError(["data: missing", "model: missing"]),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_copy_is_the_same_mistake(error):
    """With the protocol of `pickle`, by which processes send exceptions."""
    again = copy.copy(error)
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)
