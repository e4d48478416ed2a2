"""Registries: lazy, ordered, and with suggestions for unknown kinds."""

import subprocess
import sys
from fractions import Fraction

import pytest

from llmjax.errors import UserError
from llmjax.registry import Registry

NUMBERS: Registry = Registry("number", {"ratio": "fractions:Fraction", "exact": "decimal:Decimal"})


def test_kinds_in_order_and_their_classes():
    assert list(NUMBERS) == ["ratio", "exact"]
    assert NUMBERS["ratio"] is Fraction
    assert "ratio" in NUMBERS
    assert "float" not in NUMBERS


def test_an_unknown_kind_is_a_mistake_with_a_suggestion():
    with pytest.raises(UserError, match=r"number rato: does not exist; did you mean ratio\?"):
        NUMBERS["rato"]
    with pytest.raises(UserError, match="choose ratio, exact"):
        NUMBERS["wxyz"]


def test_modules_are_imported_on_access():
    code = (
        "import sys; from llmjax.registry import Registry; "
        "r = Registry('x', {'a': 'sqlite3:Connection'}); list(r); 'a' in r; "
        "print('sqlite3' in sys.modules); r['a']; print('sqlite3' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["False", "True"]
