"""Import, export and merging of PEFT adapters: same logits, same bits."""

import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import hf_models
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

import llmjax
import untrained
from llmjax.cli.main import main
from llmjax.convert.exporting import export
from llmjax.convert.importing import import_model
from llmjax.convert.params import merge, stored_params
from llmjax.convert.peft.reading import import_adapter
from llmjax.data.text.text_files import TextSource
from llmjax.data.tokenizers.config import load_tokenizer
from llmjax.errors import UserError
from llmjax.model.checks import resolve
from llmjax.model.lora import LoraConfig
from llmjax.model.model import Model
from llmjax.model.trees import flatten, unflatten
from llmjax.optimizers.config import ScheduleConfig
from llmjax.optimizers.standard import SgdConfig
from llmjax.run.checkpoint.checkpoints import save_params
from llmjax.run.config.storage import to_json
from llmjax.run.folder import Run

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
peft = pytest.importorskip("peft")

RNG = np.random.default_rng(0)
TOKENS = RNG.integers(3, hf_models.VOCABULARY, (2, 20)).astype(np.int32)
WEIGHTS = "adapter_model.safetensors"

# Modules that hold one, two and three kernels.
TARGET_MODULES: dict[str, Any] = {
    "llama": ["q_proj", "v_proj", "down_proj"],
    "qwen3": "all-linear",
    "gpt2": ["c_attn", "mlp.c_proj"],
    "phi3": ["qkv_proj", "o_proj", "gate_up_proj"],
    "gpt-neox": ["query_key_value", "dense_h_to_4h"],
    "bert": ["query", "attention.output.dense"],
    "distilbert": ["q_lin", "lin2"],
    "modernbert": ["Wqkv", "Wi"],
    "t5": ["q", "wo"],
}
EVERY = ("query", "key", "value", "out", "gate", "up", "down")


@dataclass(frozen=True)
class Pair:
    """A Transformers model and its import."""

    name: str
    folder: Path
    run: Path
    architecture: str

    def reference(self) -> Any:
        return getattr(transformers, self.architecture).from_pretrained(self.folder).eval()


@pytest.fixture(scope="module", params=TARGET_MODULES)
def pair(request, tmp_path_factory) -> Pair:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "there").mkdir()
    model = hf_models.build(request.param, folder / "there")
    run = import_model(folder / "there", folder / "run")
    return Pair(request.param, folder / "there", run, type(model).__name__)


def shape_of(run: Path):
    opened = Run.open(run)
    return resolve(opened.config().model, load_tokenizer(opened.tokenizer).vocab_size)


def logits(run: Path) -> np.ndarray:
    shape = shape_of(run)
    params = stored_params(Run(run), shape, None)
    more = {"encoder_tokens": TOKENS} if shape.is_encoder_decoder else {}
    return np.asarray(jax.jit(Model(shape).apply)(params, TOKENS, **more))


def close(here: np.ndarray, model: Any) -> None:
    tokens = torch.tensor(TOKENS)
    more = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
    with torch.no_grad():
        there = model(input_ids=tokens, **more).logits.numpy()
    error = np.abs(here - there).max() / np.abs(there).max()
    assert error < 1e-4, f"{error:.1e}"


def drawn(model: Any) -> None:
    """Draw B, which is initialised to 0."""
    torch.manual_seed(1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)


def adapted(pair: Pair, folder: Path, targets=EVERY, **fields: Any) -> Path:
    """A run of the same model with random adapters."""
    base, run = Run.open(pair.run), Run(folder)
    config = base.config()
    targets = tuple(name for name in targets if name != "gate" or config.model.gated)
    lora = LoraConfig(rank=3, alpha=5.0, targets=targets)
    config = replace(config, run_dir=str(folder), model=replace(config.model, lora=lora, **fields))
    load_tokenizer(base.tokenizer).save(run.tokenizer)
    run.config_path.write_text(to_json(config))
    (folder / "origin.json").write_bytes((pair.run / "origin.json").read_bytes())
    flat = dict(flatten(stored_params(base, shape_of(pair.run), None)))
    generator = np.random.default_rng(2)
    for path, leaf in flatten(Model(shape_of(folder)).abstract_params()):
        if ".lora_" in path:
            flat[path] = jnp.asarray(generator.normal(0, 0.2, leaf.shape), jnp.float32)
    save_params(run.checkpoints, unflatten(flat))
    return folder


def test_adapters_of_ours_compute_the_same_there(pair, tmp_path):
    run = adapted(pair, tmp_path / "run")
    here = logits(run)
    assert np.abs(here - logits(pair.run)).max() > 0.1
    export(run, tmp_path / "adapter", to="peft")
    close(here, peft.PeftModel.from_pretrained(pair.reference(), tmp_path / "adapter").eval())


def test_adapters_are_merged_on_export(pair, tmp_path):
    run = adapted(pair, tmp_path / "run")
    export(run, tmp_path / "out")
    merged = getattr(transformers, pair.architecture).from_pretrained(tmp_path / "out").eval()
    close(logits(run), merged)


def test_adapters_of_pefts_compute_the_same_here_and_go_back_bit_for_bit(pair, tmp_path):
    fields = {"r": 4, "lora_alpha": 6, "target_modules": TARGET_MODULES[pair.name]}
    if pair.name == "gpt2":
        fields["fan_in_fan_out"] = True
    model = peft.get_peft_model(pair.reference(), peft.LoraConfig(**fields)).eval()
    drawn(model)
    model.save_pretrained(tmp_path / "adapter")
    run = import_adapter(tmp_path / "adapter", tmp_path / "run", pair.run)
    close(logits(run), model)
    export(run, tmp_path / "again", to="peft")
    before, after = (load_file(tmp_path / name / WEIGHTS) for name in ("adapter", "again"))
    assert before.keys() == after.keys()
    for name in before:
        assert before[name].tobytes() == after[name].tobytes(), name
    again = peft.PeftModel.from_pretrained(pair.reference(), tmp_path / "again").eval()
    close(logits(run), again)


@pytest.fixture(scope="module")
def llama(tmp_path_factory) -> Pair:
    folder = tmp_path_factory.mktemp("llama-alone")
    (folder / "there").mkdir()
    hf_models.build("llama", folder / "there")
    run = import_model(folder / "there", folder / "run")
    return Pair("llama", folder / "there", run, "LlamaForCausalLM")


def test_the_commands(llama, tmp_path, capsys):
    run, adapter = str(adapted(llama, tmp_path / "run")), str(tmp_path / "adapter")
    assert main(["export", run, adapter, "--to", "peft", "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert summary["files"] == ["adapter_config.json", WEIGHTS]
    assert main(["import", adapter, str(tmp_path / "new")]) == 2
    assert "holds adapters alone; import it with --base RUN" in capsys.readouterr().err
    assert main(["import", adapter, str(tmp_path / "new"), "--base", str(llama.run)]) == 0
    np.testing.assert_array_equal(logits(tmp_path / "new"), logits(Path(run)))
    assert main(["export", run, str(tmp_path / "x"), "--to", "gguf", "--task", "one"]) == 2
    assert "--task: only with --to hf or peft" in capsys.readouterr().err


def test_training_goes_on_with_imported_adapters(llama, tmp_path):
    export(adapted(llama, tmp_path / "run"), tmp_path / "adapter", to="peft")
    run = import_adapter(tmp_path / "adapter", tmp_path / "new", llama.run)
    (tmp_path / "text.txt").write_text("".join(untrained.TEXTS))
    config, before = Run.open(run).config(), logits(run)
    source = TextSource(paths=(str(tmp_path / "text.txt"),), split="line")
    data = replace(
        config.data, sources=(source,), batch_size=8, length=16, validation_fraction=0.4,
        cache_dir=str(tmp_path / "cache"), workers=1,
    )  # fmt: skip
    negligible = SgdConfig(learning_rate=1e-30, schedule=ScheduleConfig(warmup_steps=0))
    config = replace(config, steps=2, optimizer=negligible, data=data)
    llmjax.train(config)
    assert Run(run).steps() == [0, 2]
    np.testing.assert_array_equal(logits(run), before)
    shutil.rmtree(run / "checkpoints" / "2")  # as if it had been interrupted before
    np.testing.assert_array_equal(logits(run), before)
    llmjax.train(config)
    np.testing.assert_array_equal(logits(run), before)


def test_ranks_and_scales_may_differ_from_module_to_module(llama, tmp_path):
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "o_proj"], use_rslora=True,
        rank_pattern={"o_proj": 2}, alpha_pattern={"o_proj": 9}, layers_to_transform=[0, 2],
    )  # fmt: skip
    model = peft.get_peft_model(llama.reference(), config).eval()
    drawn(model)
    model.save_pretrained(tmp_path / "adapter")
    run = import_adapter(tmp_path / "adapter", tmp_path / "run", llama.run)
    close(logits(run), model)
    lora = shape_of(run).lora
    assert (lora.rank, lora.targets) == (4, ("query", "out"))


@pytest.mark.parametrize("how", [False, "gaussian", "eva", "orthogonal", "mica"])
def test_beginnings_that_leave_the_base_alone_load_as_pefts(llama, tmp_path, how):
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"])
    model = peft.get_peft_model(llama.reference(), config)
    drawn(model)
    model.save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"init_lora_weights": how}))
    run = import_adapter(tmp_path / "adapter", tmp_path / "run", llama.run)
    close(
        logits(run), peft.PeftModel.from_pretrained(llama.reference(), tmp_path / "adapter").eval()
    )


@pytest.mark.parametrize("how", ["pissa", "olora", "pissa_niter_4"])
def test_beginnings_that_changed_the_base_are_refused_unless_converted(llama, tmp_path, how):
    config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj"], init_lora_weights=how)
    model = peft.get_peft_model(llama.reference(), config).eval()
    model.save_pretrained(tmp_path / "first")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.save_pretrained(tmp_path / "plain")
    with pytest.raises(UserError, match="path_initial_model_for_weight_conversion"):
        import_adapter(tmp_path / "plain", tmp_path / "run", llama.run)
    first = str(tmp_path / "first")
    model.save_pretrained(tmp_path / "converted", path_initial_model_for_weight_conversion=first)
    run = import_adapter(tmp_path / "converted", tmp_path / "run", llama.run)
    close(logits(run), model)


def test_a_merged_kernel_is_the_sum_in_float32():
    generator = np.random.default_rng(0)
    kernel, a, b = (
        generator.normal(size=size).astype(np.float32)
        for size in ((2, 5, 3, 4), (2, 5, 6), (2, 6, 3, 4))
    )
    lora = LoraConfig(rank=6, alpha=3.0)
    params = {"query": {"kernel": jnp.asarray(kernel), "lora_a": a, "lora_b": b, "bias": kernel[0]}}
    query = merge({"layers": params}, lora)["layers"]["query"]
    assert query.keys() == {"kernel", "bias"}
    expected = kernel + 0.5 * np.einsum("lir,lrhk->lihk", a, b)
    np.testing.assert_allclose(query["kernel"], expected, rtol=1e-6, atol=1e-6)
    narrow = params | {"query": params["query"] | {"kernel": jnp.asarray(kernel, jnp.bfloat16)}}
    merged = merge(narrow, lora)["query"]["kernel"]
    assert merged.dtype == jnp.bfloat16
    rounded = np.asarray(narrow["query"]["kernel"], np.float32)
    expected = jnp.asarray(rounded + (expected - kernel), jnp.bfloat16)
    np.testing.assert_allclose(
        merged.astype(np.float32), expected.astype(np.float32), rtol=2**-7, atol=1e-6
    )


def test_what_cannot_be_honoured_is_refused(llama, tmp_path):
    run = adapted(llama, tmp_path / "run", targets=("query",))
    with pytest.raises(UserError, match="has no adapters"):
        export(llama.run, tmp_path / "none", to="peft")
    export(run, tmp_path / "adapter", to="peft")
    with pytest.raises(UserError, match="already has adapters"):
        import_adapter(tmp_path / "adapter", tmp_path / "new", run)
    for field, value in {"use_dora": True, "bias": "all", "peft_type": "IA3"}.items():
        config = tmp_path / "adapter" / "adapter_config.json"
        text = config.read_text()
        config.write_text(json.dumps(json.loads(text) | {field: value}))
        with pytest.raises(UserError, match=str(value)):
            import_adapter(tmp_path / "adapter", tmp_path / "new", llama.run)
        config.write_text(text)
    weights = tmp_path / "adapter" / WEIGHTS
    before = load_file(weights)
    first = next(iter(before))
    wrong = {
        "does not belong to an adapter of a projection": before
        | {"base_model.model.score.weight": before[first]},
        "lacks one of its two": {k: v for k, v in before.items() if k != first},
        "for a module": before | {first: before[first][:, 1:].copy()},
    }
    for message, tensors in wrong.items():
        save_file(tensors, weights)
        with pytest.raises(UserError, match=message):
            import_adapter(tmp_path / "adapter", tmp_path / "new", llama.run)
    assert not (tmp_path / "new").exists()
