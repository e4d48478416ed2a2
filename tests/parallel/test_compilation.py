import jax
import pytest

from llmjax.parallel.compilation import enable_compilation_cache


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
