"""Writing GGUF files: they read back as the run, and Transformers computes the same with them."""

import json
from dataclasses import replace
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gguf_files import random_params
from safetensors.numpy import load_file

import llmjax
from llmjax.convert.exporting import export
from llmjax.convert.gguf.file import open_file
from llmjax.convert.gguf.metadata import recommended_sampling
from llmjax.convert.gguf.models import choose_family
from llmjax.convert.gguf.tokenizer import tokenizer_files
from llmjax.convert.importing import import_model
from llmjax.convert.params import merge, stored_params
from llmjax.data.tokenizers.config import SentencePieceConfig, load_tokenizer
from llmjax.data.tokenizers.sentencepiece import SentencePieceTokenizer, train_sentencepiece
from llmjax.data.tokenizers.table import BytesTokenizer
from llmjax.errors import UserError
from llmjax.inference.chat import default_options
from llmjax.model.checks import resolve
from llmjax.model.config import ModelConfig
from llmjax.model.lora import LoraConfig
from llmjax.model.rope import Llama3Scaling, YarnScaling
from llmjax.run.checkpoint.checkpoints import save_params
from llmjax.run.config.schema import Config
from llmjax.run.config.storage import to_json
from llmjax.run.folder import Run
from llmjax.run.origin import Origin, write_origin

TEXTS = [f"Sentence {n}: the sum of {n} and {n + 1} is {2 * n + 1}; isn't it?\n" for n in range(99)]
TEXT = "Sentence 1234: isn't  the sum — of é and 你好?\n\tis it\n"
LLAMA = ModelConfig(
    vocab_size=384,
    max_length=64,
    d_model=32,
    d_ff=64,
    num_decoder_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    norm_epsilon=1e-5,
    tie_embeddings=False,
)
BIASES = ("qkv_bias", "attention_out_bias", "mlp_bias")
COMMAND_R = replace(
    LLAMA,
    head_dim=None,
    norm="layernorm",
    parallel_residual=True,
    shared_norm=True,
    rope_interleaved=True,
    logit_scale=0.3,
    tie_embeddings=True,
)
MODELS = {
    "llama": LLAMA,
    "llama3": replace(LLAMA, rope_scaling=Llama3Scaling(8.0, 8192), tie_embeddings=True),
    "yarn": replace(LLAMA, rope_scaling=YarnScaling(4.0, 16)),
    "qwen3": replace(LLAMA, qk_norm=True),
    "qwen2": replace(LLAMA, qkv_bias=True, head_dim=None),
    "granite": replace(
        LLAMA,
        head_dim=None,
        qkv_bias=True,
        attention_out_bias=True,
        mlp_bias=True,
        embed_multiplier=6.0,
        residual_multiplier=0.5,
        attention_scale=0.25,
        logit_scale=0.25,
    ),
    "starcoder2": replace(
        LLAMA,
        head_dim=None,
        activation="gelu_tanh",
        gated=False,
        norm="layernorm",
        norm_bias=True,
        qkv_bias=True,
        attention_out_bias=True,
        mlp_bias=True,
    ),
    "cohere": COMMAND_R,
    "cohere-plus": replace(
        COMMAND_R,
        num_decoder_layers=64,
        d_model=16,
        d_ff=16,
        qk_norm=True,
        qk_norm_over="heads",
        qk_norm_kind="layernorm",
    ),
    "cohere2": replace(
        COMMAND_R,
        num_decoder_layers=4,
        rope_theta=10000.0,
        window=8,
        global_layers=(3,),
        unrotated_layers=(3,),
    ),
}


@pytest.fixture(scope="module")
def tokenizer():
    return SentencePieceTokenizer(
        train_sentencepiece(SentencePieceConfig(vocab_size=320, model_type="bpe"), TEXTS)
    )


def stored(run):
    """A run's parameters, stacked."""
    opened = Run.open(run)
    tokenizer = load_tokenizer(opened.tokenizer)
    return stored_params(opened, resolve(opened.config().model, tokenizer.vocab_size), None)


def make(folder, model, tokenizer, dtype="float32"):
    """A run folder with random parameters."""
    folder.mkdir()
    params = jax.tree.map(lambda x: jnp.asarray(x, dtype), random_params(model))
    save_params(folder / "checkpoints", params)
    tokenizer.save(folder / "tokenizer")
    (folder / "config.json").write_text(to_json(Config(run_dir=str(folder), model=model)))
    return folder, params


@pytest.mark.parametrize("name", MODELS)
def test_a_run_comes_back_from_its_file(tmp_path, tokenizer, name):
    run, params = make(tmp_path / "run", MODELS[name], tokenizer)
    path = export(run, tmp_path / "out" / "m.gguf", to="gguf")
    back = llmjax.load(import_model(path, tmp_path / "back"))
    jax.tree.map(np.testing.assert_array_equal, stored(tmp_path / "back"), params)
    assert back.tokenizer.encode(TEXT) == tokenizer.encode(TEXT)
    assert back.tokenizer.decode(tokenizer.encode(TEXT)) == TEXT
    assert (back.tokenizer.bos_id, back.tokenizer.eos_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert back.tokenizer.prefix == tokenizer.prefix
    tokens = np.arange(40).reshape(2, 20)
    logits = np.asarray(llmjax.load(run).logits(tokens))
    np.testing.assert_allclose(back.logits(tokens), logits, atol=1e-4 * np.abs(logits).max())
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["m.gguf"]


@pytest.mark.parametrize(
    ("dtype", "step"), [("float16", 2.0**-11), ("bfloat16", 2.0**-8), ("q8_0", 1 / 127)]
)
def test_narrower_kinds_come_back_within_their_step(tmp_path, tokenizer, dtype, step):
    run, params = make(tmp_path / "run", LLAMA, tokenizer)
    path = export(run, tmp_path / "m.gguf", to="gguf", dtype=dtype)
    back = stored(import_model(path, tmp_path / "back"))
    for leaf, expected in zip(jax.tree.leaves(back), jax.tree.leaves(params), strict=True):
        error = np.abs(np.asarray(leaf, np.float32) - expected).max()
        assert error <= step * np.abs(expected).max()


def test_bfloat16_is_kept_to_the_bit(tmp_path, tokenizer):
    run, params = make(tmp_path / "run", MODELS["qwen3"], tokenizer, "bfloat16")
    path = export(run, tmp_path / "m.gguf", to="gguf")
    back = stored(import_model(path, tmp_path / "back"))
    assert {x.dtype.name for x in jax.tree.leaves(back)} == {"bfloat16", "float32"}
    jax.tree.map(np.testing.assert_array_equal, back, params)


@pytest.mark.parametrize("to", ["gguf", "stablehlo"])
def test_adapters_are_merged(tmp_path, tokenizer, to):
    model = replace(LLAMA, lora=LoraConfig(rank=2, targets=("query", "gate")))
    run, params = make(tmp_path / "run", model, tokenizer)
    out = export(run, tmp_path / f"model.{to}", to=to)
    expected = merge(params, model.lora)
    if to == "gguf":
        back = stored(import_model(out, tmp_path / "back"))
        jax.tree.map(np.testing.assert_array_equal, back, expected)
    else:
        there = load_file(out / "model.safetensors")
        assert not any("lora" in name for name in there)
        query = np.stack([there[f"decoder.layers.{n}.attention.query.kernel"] for n in range(2)])
        np.testing.assert_array_equal(
            query, expected["decoder"]["layers"]["attention"]["query"]["kernel"]
        )


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_transformers_computes_the_same_with_it(tmp_path, tokenizer, name):
    torch = pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    transformers = pytest.importorskip("transformers")
    run, _ = make(tmp_path / "run", MODELS[name], tokenizer)
    export(run, tmp_path / "m.gguf", to="gguf")
    tokens = np.arange(40).reshape(2, 20)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32
    )
    with torch.inference_mode():
        expected = model(torch.tensor(tokens)).logits.numpy()
    logits = np.asarray(llmjax.load(run).logits(tokens))
    np.testing.assert_allclose(logits, expected, atol=1e-4 * np.abs(expected).max())


def test_a_unigram_tokenizer_comes_back(tmp_path):
    config = SentencePieceConfig(vocab_size=290, model_type="unigram")
    tokenizer = SentencePieceTokenizer(train_sentencepiece(config, TEXTS))
    run, _ = make(tmp_path / "run", LLAMA, tokenizer)
    path = export(run, tmp_path / "m.gguf", to="gguf")
    assert open_file(path).metadata["tokenizer.ggml.model"] == "t5"
    back = llmjax.load(import_model(path, tmp_path / "back"))
    assert back.tokenizer.encode(TEXT) == tokenizer.encode(TEXT)


def test_a_file_of_an_import_has_the_same_tokenizer(tmp_path, tokenizer):
    run, _ = make(tmp_path / "run", LLAMA, tokenizer)
    first = export(run, tmp_path / "1.gguf", to="gguf")
    second = export(import_model(first, tmp_path / "back"), tmp_path / "2.gguf", to="gguf")
    assert tokenizer_files(open_file(first)) == tokenizer_files(open_file(second))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "warm", [1.0]])
def test_sampling_that_is_no_number_is_left_out(value):
    file = SimpleNamespace(metadata={"general.sampling.temp": value, "general.sampling.top_k": 7})
    assert recommended_sampling(file) == {"top_k": 7}


def test_recommended_sampling_is_kept(tmp_path, tokenizer):
    """From a folder's generation_config.json to GGUF and back to a folder, and into chat."""
    run, _ = make(tmp_path / "run", LLAMA, tokenizer)
    sampling = {"temperature": 0.6, "top_k": 20, "top_p": 0.95, "repetition_penalty": 1.05}
    write_origin(run, Origin(generation_config={"do_sample": True, "eos_token_id": 1, **sampling}))
    file = export(run, tmp_path / "1.gguf", to="gguf")
    assert recommended_sampling(open_file(file)) == sampling
    back = import_model(file, tmp_path / "back")
    assert vars(default_options(back)).items() >= sampling.items()
    folder = export(back, tmp_path / "hf", to="hf")
    stored = json.loads((folder / "generation_config.json").read_text())
    assert stored.items() >= {**sampling, "eos_token_id": tokenizer.eos_id}.items()


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"num_encoder_layers": 1}, "has an encoder"),
        ({"window": 8}, "window"),
        ({"norm_placement": "sandwich"}, "norm_placement"),
        ({"parallel_residual": True}, "parallel_residual"),
        ({"logit_softcap": 30.0}, "logit_softcap"),
        ({"rope_scaling": YarnScaling(4.0, 16, truncate=False)}, "rope_scaling"),
    ],
)
def test_refuses_what_llama_cpp_cannot_express(tmp_path, tokenizer, fields, why):
    run, _ = make(tmp_path / "run", replace(LLAMA, **fields), tokenizer)
    with pytest.raises(UserError, match=why):
        export(run, tmp_path / "m.gguf", to="gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("starcoder2", {"window": 8}, "window"),
        (
            "starcoder2",
            dict.fromkeys(("qkv_bias", "attention_out_bias", "mlp_bias"), False),
            "bias",
        ),
        ("granite", {"window": 8}, "window"),
        ("cohere", {"tie_embeddings": False}, "tie_embeddings"),
        ("cohere", {"qk_norm": True, "qk_norm_over": "heads"}, "qk_norm"),
        ("cohere", {"qkv_bias": True, "attention_out_bias": True}, "qkv_bias"),
        ("cohere2", {"global_layers": (1,), "unrotated_layers": (1,)}, "layers"),
    ],
)
def test_refuses_what_llama_cpp_takes_for_granted(name, fields, why):
    with pytest.raises(UserError, match=why):
        choose_family(replace(MODELS[name], **fields))


def test_refuses_bytes_and_existing_files(tmp_path, tokenizer):
    run, _ = make(tmp_path / "bytes", LLAMA, BytesTokenizer())
    with pytest.raises(UserError, match="merges"):
        export(run, tmp_path / "m.gguf", to="gguf")
    run, _ = make(tmp_path / "run", LLAMA, tokenizer)
    (tmp_path / "m.gguf").write_text("mine")
    with pytest.raises(UserError, match="exists"):
        export(run, tmp_path / "m.gguf", to="gguf")
    assert (tmp_path / "m.gguf").read_text() == "mine"
    assert Run.open(run).steps() == [0]
