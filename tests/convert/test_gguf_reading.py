"""Reading GGUF files: every architecture and quantisation, and malformed files."""

import struct

import gguf
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf_files import KEYS, SIZES, file_tensors, model_of, write

from llmjax.convert.families.registry import FAMILIES
from llmjax.convert.gguf.file import open_file
from llmjax.convert.gguf.reading import open_gguf
from llmjax.convert.gguf.tensors import rotary_pairs
from llmjax.convert.hf.mapping import BoundTable, read_params
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.model import Model
from llmjax.model.rope import (
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    YarnScaling,
    rope_frequencies,
)

TOKENS = np.arange(40, dtype=np.int32).reshape(2, 20) * 7 % 96
READ_BY_TRANSFORMERS = ("llama", "qwen2", "gemma2", "gemma3", "gpt2", "starcoder2")
"""Architectures whose GGUF files Transformers reads correctly (Qwen3 only with head_dim 128, Phi-3
not at all)."""


def tied(architecture):
    return architecture.startswith(("gemma", "co"))


def read(path):
    opened = open_gguf(path)
    family = FAMILIES[opened.config["model_type"]]
    config = resolve(family.read_config(opened.config, opened), 96)
    return config, read_params(opened, BoundTable(family.table, Model(config)))


def make(folder, architecture, keys=None, more_tensors=None, kind="F32", **rest):
    """Write a file; returns its path, config and parameters."""
    keys = {**KEYS[architecture], **(keys or {})}
    hf_config, config, params = model_of(architecture, tied(architecture))
    tensors = file_tensors(architecture, hf_config, config, params) | (more_tensors or {})
    return write(folder / "m.gguf", architecture, keys, tensors, kind, **rest), config, params


@pytest.mark.parametrize("architecture", KEYS)
def test_parameters_come_back(tmp_path, architecture):
    path, config, params = make(tmp_path, architecture)
    config_read, params_read = read(path)
    assert config_read == config
    assert config_read.tie_embeddings == tied(architecture)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), params_read, params)


@pytest.mark.parametrize("architecture", READ_BY_TRANSFORMERS)
def test_logits_are_those_of_transformers(tmp_path, architecture):
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    more = {"tokenizer.ggml.tokens": [str(i) for i in range(96)]}  # Transformers counts them
    path, config, params = make(tmp_path, architecture, more=more)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32
    )
    with torch.inference_mode():
        expected = model(torch.tensor(TOKENS, dtype=torch.long)).logits.numpy()
    logits = np.asarray(jax.jit(Model(config).apply)(params, jnp.asarray(TOKENS)))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_rotary_pairs_are_the_inverse_of_the_published_interleaving():
    rows = np.arange(4 * 6)
    interleaved = rows.reshape(4, 2, 3).swapaxes(1, 2).reshape(-1)
    np.testing.assert_array_equal(interleaved[rotary_pairs(4, 24)], rows)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_quantised_matrices_are_read_as_the_library_reads_them(tmp_path, kind):
    path, _, _ = make(tmp_path, "llama", {"embedding_length": 32}, kind=kind)
    opened = open_gguf(path)
    stored = {t.name: t for t in gguf.GGUFReader(path).tensors}
    embedding = stored["token_embd.weight"]
    expected = gguf.dequantize(embedding.data, embedding.tensor_type)
    name = "model.embed_tokens.weight"
    np.testing.assert_array_equal(opened.read(name).astype(np.float32), expected)
    part = opened.read(name, (slice(3, 90), slice(5, 17)))
    np.testing.assert_array_equal(part.astype(np.float32), expected[3:90, 5:17])
    queries = stored["blk.1.attn_q.weight"]
    expected = gguf.dequantize(queries.data, queries.tensor_type)[rotary_pairs(4, 64)]
    part = opened.read("model.layers.1.self_attn.q_proj.weight", (slice(7, 30), slice(0, 32)))
    np.testing.assert_array_equal(part.astype(np.float32), expected[7:30])


def test_rope_scaling_of_each_kind(tmp_path):
    def scaling(keys, more=None, architecture="llama"):
        path, _, _ = make(tmp_path, architecture, keys, more)
        return read(path)[0].rope_scaling

    kind, factor = "rope.scaling.type", "rope.scaling.factor"
    original = "rope.scaling.original_context_length"
    assert scaling({kind: "linear", factor: 4.0}) == LinearScaling(4.0)
    assert scaling({kind: "yarn", factor: 4.0, original: 32}) == YarnScaling(4.0, 32)
    expected = Llama3Scaling(8.0, 8192)
    plain, _ = rope_frequencies(LinearScaling(1.0), 10000.0, 16, 64)
    turns, _ = rope_frequencies(expected, 10000.0, 16, 64)
    assert scaling({}, {"rope_freqs.weight": plain / turns}) == expected
    divisors = np.linspace(1, 3, 8).astype(np.float32)
    actual = scaling({}, {"rope_freqs.weight": divisors})
    frequencies, _ = rope_frequencies(actual, 10000.0, 16, 64)
    np.testing.assert_allclose(frequencies, plain / divisors, rtol=1e-6)
    factors = {
        f"rope_factors_{n}.weight": np.full(4, f, np.float32)
        for n, f in (("long", 2.0), ("short", 1.5))
    }
    actual = scaling({original: 32}, factors, "phi3")
    assert actual == LongRopeScaling((1.5,) * 4, (2.0,) * 4, 32)
    with pytest.raises(UserError, match="su"):
        scaling({kind: "su"})


def test_refuses_what_it_does_not_know(tmp_path):
    for keys, match in (
        ({"attention.clamp_kqv": 8.0}, "attention.clamp_kqv"),
        ({"expert_count": 8}, "expert_used_count is missing"),
        ({"block_count": -0.5}, "block_count"),
        ({"block_count": 2**31 - 1}, "layers"),
        ({"embedding_length": 2**31 - 1}, "embed_tokens|hidden_size"),
        ({"attention.head_count": 2**31 - 1}, "q_proj|heads|rotates"),
    ):
        path, _, _ = make(tmp_path, "llama", keys)
        with pytest.raises(UserError, match=match):
            read(path)
    path, _, _ = make(tmp_path, "llama", more_tensors={"blk.0.ssm_a.weight": np.ones(3)})
    with pytest.raises(UserError, match="ssm_a"):
        open_gguf(path)
    path = write(tmp_path / "m.gguf", "mamba", SIZES, {"token_embd.weight": np.ones((9, 32))})
    with pytest.raises(UserError, match=r"mamba; supported are .*gemma, .*qwen3"):
        open_gguf(path)


def header(tensors=0, entries=0, version=3, rest=b""):
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries) + rest


def text(words, size=None):
    return struct.pack("<Q", len(words) if size is None else size) + words


ENTRY = text(b"a") + struct.pack("<I", 8)
HUGE = 2**62
HOSTILE = {
    "empty": b"",
    "garbage": bytes(range(256)) * 4,
    "cut in the header": header()[:20],
    "version 1": header(version=1) + bytes(64),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0) + bytes(64),
    "as many entries as there are numbers": header(entries=HUGE) + bytes(64),
    "as many tensors": header(tensors=HUGE) + bytes(64),
    "a string longer than the file": header(entries=1, rest=ENTRY + text(b"b", HUGE)),
    "an array longer than the file": header(
        entries=1, rest=text(b"a") + struct.pack("<IIQ", 9, 4, HUGE) + bytes(64)
    ),
    "an array of arrays": header(
        entries=1, rest=text(b"a") + struct.pack("<IIQ", 9, 9, 1) + bytes(64)
    ),
    "an unknown type": header(entries=1, rest=text(b"a") + struct.pack("<I", 77) + bytes(64)),
    "the same key twice": header(entries=2, rest=(ENTRY + text(b"b")) * 2),
    "no UTF-8": header(entries=1, rest=ENTRY + text(b"\xff\xfe")),
    "a thousand dimensions": header(
        tensors=1, rest=text(b"t") + struct.pack("<I", 1000) + bytes(64)
    ),
    "a tensor larger than the file": header(
        tensors=1, rest=text(b"t") + struct.pack("<IQQIQ", 2, 2**40, 2**40, 0, 0) + bytes(64)
    ),
    "sizes that overflow": header(
        tensors=1, rest=text(b"t") + struct.pack("<IQQIQ", 2, 2**32, 2**32, 0, 0) + bytes(64)
    ),
    "an offset beyond the file": header(
        tensors=1, rest=text(b"t") + struct.pack("<IQIQ", 1, 4, 0, 2**63) + bytes(64)
    ),
    "a tensor of no elements": header(
        tensors=1, rest=text(b"t") + struct.pack("<IQIQ", 1, 0, 0, 0) + bytes(64)
    ),
    "an unknown quantisation": header(
        tensors=1, rest=text(b"t") + struct.pack("<IQIQ", 1, 4, 999, 0) + bytes(64)
    ),
    "half a block": header(
        tensors=1, rest=text(b"t") + struct.pack("<IQIQ", 1, 33, 8, 0) + bytes(128)
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_files_that_lie_are_refused(tmp_path, name):
    path = tmp_path / "m.gguf"
    path.write_bytes(HOSTILE[name])
    with pytest.raises(UserError, match=r"GGUF|big-endian"):
        open_file(path)


def test_every_truncation_and_many_flipped_bytes_are_refused_or_read(tmp_path):
    path, _, _ = make(tmp_path, "llama", {"feed_forward_length": 64})
    content = path.read_bytes()
    for length in [*range(0, 3000, 97), len(content) - 1]:
        path.write_bytes(content[:length])
        with pytest.raises(UserError):
            open_gguf(path)
    generator = np.random.default_rng(0)
    for _ in range(300):
        broken = bytearray(content)
        broken[generator.integers(4, 3000)] ^= 1 << generator.integers(8)
        path.write_bytes(broken)
        try:
            opened = open_gguf(path)
            family = FAMILIES[opened.config["model_type"]]
            BoundTable(family.table, Model(family.read_config(opened.config, opened))).locate(
                opened
            )
        except UserError:
            pass
