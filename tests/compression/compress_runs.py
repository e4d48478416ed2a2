"""Runs of tiny untrained models with each type of tokenizer, and files to compress."""

import random

import jax.numpy as jnp
import numpy as np
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from llmjax.data.config import DataConfig
from llmjax.data.tokenizers.config import (
    BytesConfig,
    HuggingFaceTokenizerConfig,
    SentencePieceConfig,
)
from llmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.model import Model
from llmjax.run.checkpoint.checkpoints import save_params
from llmjax.run.config.schema import Config
from llmjax.run.folder import Run
from untrained import drawn

TEXTS = [
    "def f(x):\n    return x + 1\n\n\n\tThe cat  sat on the mat, 1234 times.\r\n",
    "Sphinx of black quartz, judge my vow. 你好,世界! naïve café\n",
    "the quick brown fox jumps over the lazy dog and the cat and the hat\n",
]


def files() -> dict[str, bytes]:
    """Name -> content: inputs that have broken compressors."""
    noise = random.Random(0).randbytes
    return {
        "empty": b"",
        "one": b"e",
        "all_values": bytes(range(256)),
        "random": noise(1 << 16),
        "invalid": b"fine so far \xff\xfe and \xc3( on " * 9 + "né".encode()[:-1],
        "specials": "<bos><eos><pad><s></s><end><unk>\u2581\0<|endoftext|>[CLS]\ufffd".encode(),
        "long": "".join(random.Random(1).choices(TEXTS, k=24)).encode(),
        "mixed": (TEXTS[1] * 30).encode() + noise(5000) + (TEXTS[0] * 40).encode(),
    }


def _byte_level(folder, lower: bool) -> HuggingFaceTokenizerConfig:
    inner = Inner(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if lower:
        inner.normalizer = normalizers.Lowercase()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<end>"], show_progress=False
    )
    inner.train_from_iterator(TEXTS * 20, trainer)
    folder.mkdir()
    inner.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text('{"eos_token": {"content": "<end>"}}')
    return HuggingFaceTokenizerConfig(str(folder))


def tokenizer_of(kind: str, folder):
    if kind == "bytes":
        return BytesTokenizer()
    if kind == "sentencepiece":
        config = SentencePieceConfig(322, "bpe", character_coverage=1.0)
        return SentencePieceTokenizer(train_sentencepiece(config, TEXTS * 20))
    return _byte_level(folder / "hf", lower=kind == "lower").open()


def make(folder, kind="bytes", seed=0, spread=0.4, nudge=0.0, likes=None):
    """Makes a run folder.

    Args:
      folder: where to make it.
      kind: type of the tokenizer.
      seed, spread: seed and standard deviation of the parameters.
      nudge: relative change of one parameter.
      likes: token -> nats added to its logit.
    """
    folder.mkdir(parents=True)
    tokenizer = tokenizer_of(kind, folder)
    shape = ModelConfig(
        max_length=64, d_model=16, num_decoder_layers=1, num_heads=2, lm_head_bias=True
    )
    data = DataConfig(length=64, cache_dir=str(folder / "cache"))
    name = str(folder / "run")
    run = Run.create(Config(run_dir=name, model=shape, tokenizer=BytesConfig(), data=data))
    tokenizer.save(run.tokenizer)
    model = Model(resolve(shape, tokenizer.vocab_size))
    params = drawn(model, seed, spread=spread)
    scale = params["decoder"]["norm"]["scale"]
    params["decoder"]["norm"]["scale"] = scale.at[3].multiply(1 + nudge)
    # As after training, special tokens do not occur in text.
    bias = params["unembedding_bias"]
    text = np.pad(tokenizer.token_bytes() > 0, (0, len(bias) - tokenizer.vocab_size))
    bias = jnp.where(text, bias, -60.0)
    for token, nats in (likes or {}).items():
        bias = bias.at[token].add(nats)
    params["unembedding_bias"] = bias
    save_params(run.checkpoints, params)
    return run.folder
