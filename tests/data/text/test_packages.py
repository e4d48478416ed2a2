"""Installed packages as text: what is read, in which order, and what identifies it."""

import importlib.metadata
import sys

import pytest

from llmjax.data.text.packages import PackagesSource
from llmjax.errors import UserError

METADATA = """Metadata-Version: 2.1
Name: {name}
Version: {version}
License: {license}

About {name}.
"""


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Makes distributions that importlib.metadata finds; returns what adds one."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def add(name: str, files: dict[str, str], version: str = "1.0", license: str = "MIT") -> None:
        info = tmp_path / f"{name}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(METADATA.format(name=name, version=version, license=license))
        for path, text in files.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text)
        lines = [f"{path},sha256={hash(text)},{len(text)}" for path, text in files.items()]
        (info / "RECORD").write_text("\n".join(lines))

    return add


def test_a_package_is_its_description_its_pages_and_its_docstrings(installed):
    installed(
        "blue",
        {
            "blue/__init__.py": '"""Blue things."""\nraise SystemExit\n',
            "blue/a.py": '"""A."""\ndef f():\n    """F of a."""\n',
            "blue/b.py": '"""A."""\nclass B:\n    """Class B."""\n',
            "blue/guide.rst": "A guide.\n",
            "blue/tests/test_a.py": '"""Not documentation."""\n',
            "blue/broken.py": '"""Lost',
        },
    )
    source = PackagesSource(("blue",))
    texts = ["About blue.\n", "A guide.\n", "Blue things.\n", "A.\n\nF of a.\n", "Class B.\n"]
    assert list(source.documents()) == texts
    assert "blue" not in sys.modules


def test_identity_follows_names_versions_and_files(installed):
    installed("one", {"one.py": '"""One."""'})
    installed("two", {"two.py": '"""Two."""'}, license="BSD-3-Clause")
    both = PackagesSource(("one", "two"))
    assert [part.packages for part in both.parts()] == [("one",), ("two",)]
    assert both.identify() == both.identify()
    digests = {PackagesSource((name,)).identify().digest for name in ("one", "two")}
    assert len(digests | {both.identify().digest}) == 3
    assert both.licenses() == {"one 1.0": "MIT", "two 1.0": "BSD-3-Clause"}


def test_without_names_it_is_all_that_is_installed(installed):
    names = [part.packages[0] for part in PackagesSource().parts()]
    assert {"numpy", "jax", "flax"} <= set(names)
    assert "llmjax" not in names or not _is_editable()
    assert names == sorted(names, key=str.lower)


def _is_editable() -> bool:
    text = importlib.metadata.distribution("llmjax").read_text("direct_url.json") or ""
    return '"editable": true' in text


def test_numpy_has_documents_whose_licence_is_named():
    source = PackagesSource(("numpy",))
    texts = list(source.documents())
    assert len(set(texts)) > 100
    assert sum(len(text) for text in texts) > 500_000
    assert "BSD" in next(iter(source.licenses().values()))


def test_a_package_that_is_not_installed_is_named():
    with pytest.raises(UserError, match="package no-such-thing: is not installed"):
        list(PackagesSource(("no-such-thing",)).documents())
