"""The package's front: light to import, complete when asked."""

import importlib
import subprocess
import sys

import pytest

import llmjax


def test_importing_brings_nothing_heavy():
    code = "import llmjax, sys; print(sorted({'jax', 'numpy', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", llmjax.__all__)
def test_every_name_is_there(name):
    assert name in dir(llmjax)
    assert callable(getattr(llmjax, name))


@pytest.mark.parametrize(
    "name",
    "chat choose compress embed evaluate fill_mask generate harness report train".split(),
)
def test_verbs_are_modules_and_functions_alike(name, monkeypatch):
    module = importlib.import_module(f"llmjax.{name}")
    assert getattr(llmjax, name) is module
    monkeypatch.setattr(module, name, lambda *args, **kwargs: (args, kwargs))
    assert getattr(llmjax, name)(1, two=2) == ((1,), {"two": 2})


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        llmjax.nothing  # noqa: B018
