"""Families have the published numbers of parameters."""

import pytest

from llmjax.model import families
from llmjax.model.checks import resolve
from llmjax.model.model import Model

PUBLISHED = {
    "gpt2 124M": (families.gpt2("124M"), 124_439_808),
    "gpt2 355M": (families.gpt2("355M"), 354_823_168),
    "gpt2 774M": (families.gpt2("774M"), 774_030_080),
    "gpt2 1558M": (families.gpt2("1558M"), 1_557_611_200),
    "llama 1B": (families.llama("1B"), 1_235_814_400),
    "llama 8B": (families.llama("8B"), 8_030_261_248),
    # 109,482,240 less the pooler; the masked-token head's projection, norm and bias
    "bert base": (families.bert_base(), 109_482_240 - 590_592 + 592_128 + 30_522),
    "roberta base": (families.roberta_base(), 124_697_433),
    "t5 small": (families.t5_small(), 60_506_624),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes(name):
    config, size = PUBLISHED[name]
    assert Model(resolve(config, config.vocab_size)).num_params() == size


def test_tiny_takes_any_vocabulary():
    config = resolve(families.tiny(), 500)
    assert config.vocab_size == 512
    assert Model(config).num_params() < 4_000_000
