"""A language model small enough to know all about: what comes next hangs on the last two tokens."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from llmjax.decoding.completions import stream_completions
from llmjax.model.config import ModelConfig
from llmjax.parallel.mesh import reshard


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ToyCache:
    """The tokens themselves, int32 [B, S]. A slot that was never written holds token 0, so that
    reading one by mistake changes what comes next."""

    tokens: jax.Array

    def take(self, rows):
        return ToyCache(self.tokens[rows])


@dataclass(frozen=True)
class ToyModel:
    """Has the parts of Model that decoding needs; params are logits float32 [V, V, V]."""

    config: ModelConfig

    def init_cache(self, batch, length, *, text_lengths=None):
        return ToyCache(jnp.zeros((batch, length), jnp.int32))

    def prefill(self, params, tokens, length, text_lengths=None, token_counts=None):
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        return self.decode(params, tokens, positions, self.init_cache(len(tokens), length))[1]

    def decode(self, params, tokens, positions, cache):
        tokens, positions = reshard(tokens, None, None), reshard(positions, None, None)
        rows = jnp.arange(tokens.shape[0])[:, None]
        cached = cache.tokens.at[rows, positions].set(tokens)
        # Before the first token stands token 0.
        before = jnp.where(positions > 0, cached[rows, positions - 1], 0)
        return params[before, tokens], ToyCache(cached)


def toy(vocab_size, max_length=64, seed=0, spread=2.0):
    """A toy model and its params."""
    config = ModelConfig(vocab_size=vocab_size, max_length=max_length)
    values = np.random.default_rng(seed).normal(0, spread, (vocab_size,) * 3)
    return ToyModel(config), jnp.asarray(values, jnp.float32)


def next_logits(params, tokens):
    """The same in NumPy: logits after a row of tokens, float64 [V]."""
    before = tokens[-2] if len(tokens) > 1 else 0
    return np.asarray(params, np.float64)[before, tokens[-1]]


def log_softmax(logits):
    """float64 [V]."""
    shifted = logits - logits.max()
    return shifted - np.log(np.exp(shifted).sum())


class LetterTokenizer:
    """Ids 0, 1, 2 are padding, BOS and EOS; then come pieces of text, some of several letters."""

    pad_id, bos_id, eos_id = 0, 1, 2
    prefix, suffix, stop_ids = (1,), (), (2,)

    def __init__(self, pieces):
        self.pieces = [b"", b"", b"", *(piece.encode() for piece in pieces)]
        self.vocab_size = len(self.pieces)

    def encode(self, text):
        """Takes the longest piece that fits, again and again."""
        remaining, ids = text.encode(), []
        while remaining:
            best = max(
                (i for i, piece in enumerate(self.pieces) if piece and remaining.startswith(piece)),
                key=lambda i: len(self.pieces[i]),
            )
            ids.append(best)
            remaining = remaining[len(self.pieces[best]) :]
        return ids

    def encode_batch(self, texts):
        return [self.encode(text) for text in texts]

    def wrap(self, ids):
        return [self.bos_id, *ids], [0] * (len(ids) + 1)

    def piece_bytes(self, token):
        return self.pieces[token]

    def decode_bytes(self, ids):
        return b"".join(self.pieces[token] for token in ids)

    def token_bytes(self):
        return np.array([len(piece) for piece in self.pieces], np.int32)

    def decode(self, ids):
        return self.decode_bytes(ids).decode("utf-8", "replace")


LETTERS = LetterTokenizer(["a", "b", "c", "ab", "cab", " ", "ba", "\n", "abc"])


def complete(prompts, config, tokenizer=LETTERS, mesh=None, **fields):
    """Completions in order, after checking that streamed pieces add up to them."""
    model, params = toy(16, **fields)
    texts, completions = {}, {}
    for piece in stream_completions(model, params, tokenizer, prompts, config, mesh):
        assert piece.row not in completions, "a piece after the last one"
        texts[piece.row] = texts.get(piece.row, "") + piece.text
        if piece.completion is not None:
            completions[piece.row] = piece.completion
    assert {row: completion.text for row, completion in completions.items()} == texts
    return [completions[row] for row in sorted(completions)]
