import jax
import pytest

from llmjax.errors import UserError
from llmjax.parallel import compilation
from llmjax.parallel.compilation import (
    OPTIONS,
    accepted_options,
    compiler_options,
    enable_compilation_cache,
    option_problems,
)


@pytest.fixture(autouse=True)
def folder_as_before():
    before = jax.config.jax_compilation_cache_dir
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def test_programs_are_kept_among_the_caches(tmp_path):
    jax.config.update("jax_compilation_cache_dir", None)
    enable_compilation_cache(str(tmp_path))
    assert jax.config.jax_compilation_cache_dir.startswith(str(tmp_path / "compiled"))


def test_a_folder_that_the_user_chose_stays(tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    enable_compilation_cache(str(tmp_path))
    assert jax.config.jax_compilation_cache_dir == str(tmp_path / "mine")


def test_options_of_accelerators_and_of_the_user():
    given = compiler_options("tpu", ("xla_tpu_scoped_vmem_limit_kib=16384", "--xla_some=False"))
    assert given == dict(OPTIONS["tpu"]) | {
        "xla_tpu_scoped_vmem_limit_kib": 16384,
        "xla_some": False,
    }
    assert compiler_options("cpu") == {}
    assert compiler_options("tpu", (), "TPU v5 lite") == OPTIONS["tpu"]
    small = compiler_options("tpu", (), "TPU v4")
    assert "xla_tpu_scoped_vmem_limit_kib" not in small, "too little VMEM"
    assert small.items() < OPTIONS["tpu"].items()
    assert list(option_problems(("a=1", "b", "=2", "--c=x"))) == [
        "'b' is not NAME=VALUE",
        "'=2' is not NAME=VALUE",
    ]


def test_what_the_compiler_does_not_know(monkeypatch):
    """An option of ours is left out, and one of the user's is an error that names it."""
    known = {"xla_cpu_enable_fast_math": True}
    monkeypatch.setitem(compilation.OPTIONS, "cpu", known | {"xla_of_another_version": 1})
    assert accepted_options("cpu") == known
    with pytest.raises(UserError, match="xla_mistyped"):
        accepted_options("cpu", ("xla_mistyped=1",))
    with pytest.raises(UserError, match=r"xla_cpu_enable_fast_math=7: .*not a valid bool"):
        accepted_options("cpu", ("xla_cpu_enable_fast_math=7",))
