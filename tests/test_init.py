"""The package's front: light to import, complete when asked."""

import inspect
import subprocess
import sys

import pytest

import llmjax


def test_importing_brings_nothing_heavy():
    code = "import llmjax, sys; print(sorted({'jax', 'numpy', 'pydantic'} & set(sys.modules)))"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("name", llmjax.__all__)
def test_every_name_is_there(name):
    assert name in dir(llmjax)
    assert callable(getattr(llmjax, name))


def test_signatures_are_those_of_the_functions():
    assert "config" in inspect.signature(llmjax.train).parameters


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match=r"attribute .*nothing"):
        llmjax.nothing  # noqa: B018
