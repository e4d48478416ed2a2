"""Published layers for tokens after next: left out where a family has them, else refused."""

import pytest

from llmjax.convert.families.registry import FAMILIES


@pytest.mark.parametrize("name", ["deepseek_v3", "glm4_moe"])
def test_layers_after_the_last_are_ignored(name):
    table = FAMILIES[name].table
    assert table.is_ignored("model.layers.61.eh_proj.weight", 61)
    assert table.is_ignored("model.layers.61.mlp.experts.3.up_proj.weight", 61)
    assert not table.is_ignored("model.layers.60.mlp.experts.3.up_proj.weights", 61)
    assert not table.is_ignored("model.further.weight", 61)


def test_other_families_have_none():
    assert not FAMILIES["llama"].table.is_ignored("model.layers.61.eh_proj.weight", 61)
