"""Published weights in FP8 and MXFP4 are read as Transformers widens them."""

import json

import hf_models
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from llmjax.convert.hf.quantized import FIELD, Fp8Tensors, Mxfp4Tensors
from llmjax.convert.importing import import_model
from llmjax.errors import UserError
from llmjax.inference.language_model import load

DRAW = np.random.default_rng(0)


class Arrays:
    """A `TensorSource` of arrays."""

    def __init__(self, **arrays):
        self._arrays = arrays

    def names(self):
        return list(self._arrays)

    def shape(self, name):
        return self._arrays[name].shape

    def dtype(self, name):
        return self._arrays[name].dtype

    def read(self, name, index=None):
        return np.array(self._arrays[name][index or ...])


def drawn(*shape):
    return DRAW.normal(size=shape).astype(ml_dtypes.float8_e4m3fn)


INDEX = (slice(3, 20), slice(5, 30))


def test_blocks_of_fp8():
    values, scales = drawn(40, 36), DRAW.random((3, 3), np.float32)
    source = Arrays(a=values, a_scale_inv=scales, norm=np.ones(3, np.float32))
    tensors = Fp8Tensors(source, (16, 16), np.dtype(np.float32))
    assert tensors.names() == ["a", "norm"]
    expected = np.empty((40, 36), np.float32)
    for row in range(40):
        for column in range(36):
            scale = scales[row // 16, column // 16]
            expected[row, column] = np.float32(values[row, column]) * scale
    np.testing.assert_array_equal(tensors.read("a"), expected)
    np.testing.assert_array_equal(tensors.read("a", INDEX), expected[INDEX])
    np.testing.assert_array_equal(tensors.read("norm"), np.ones(3))
    one = Fp8Tensors(Arrays(a=values, a_scale_inv=np.float32([2.0])), None, np.dtype(np.float32))
    np.testing.assert_array_equal(one.read("a", INDEX), values[INDEX].astype(np.float32) * 2)
    for wrong in (np.ones((2, 3), np.float32), np.ones(3, np.float32)):
        with pytest.raises(UserError, match=r"a_scale_inv: has shape .*9? blocks"):
            Fp8Tensors(Arrays(a=values, a_scale_inv=wrong), (16, 16), one.wide).read("a")


def test_mxfp4():
    torch = pytest.importorskip("torch")
    mxfp4 = pytest.importorskip("transformers.integrations.mxfp4")
    blocks = DRAW.integers(0, 256, (3, 10, 2, 16), np.uint8)
    scales = DRAW.integers(110, 140, (3, 10, 2), np.uint8)
    source = Arrays(w_blocks=blocks, w_scales=scales, w_bias=np.ones(3, np.float32))
    tensors = Mxfp4Tensors(source, np.dtype(ml_dtypes.bfloat16))
    assert sorted(tensors.names()) == ["w", "w_bias"]
    expected = mxfp4.convert_moe_packed_tensors(torch.tensor(blocks), torch.tensor(scales))
    expected = expected.float().numpy()
    assert tensors.shape("w") == expected.shape == (3, 64, 10)
    np.testing.assert_array_equal(tensors.read("w").astype(np.float32), expected)
    index = (slice(1, 3), slice(7, 50), slice(2, 9))
    np.testing.assert_array_equal(tensors.read("w", index).astype(np.float32), expected[index])
    short = Mxfp4Tensors(Arrays(w_blocks=blocks, w_scales=scales[:2]), tensors.wide)
    with pytest.raises(UserError, match=r"w_blocks: has shape .* its scales have \[2, 10, 2\]"):
        short.read("w")


@pytest.fixture
def folder(tmp_path):
    """A model whose matrices, but for embedding and head, are stored in FP8."""
    pytest.importorskip("transformers")
    hf_models.build("qwen3", tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    for name in [name for name in stored if name.endswith("proj.weight")]:
        grid = tuple(size // 16 for size in stored[name].shape)
        stored[name] = stored[name].astype(ml_dtypes.float8_e4m3fn)
        stored[f"{name}_scale_inv"] = DRAW.uniform(0.5, 2.0, grid).astype(np.float32)
    save_file(stored, tmp_path / "model.safetensors", {"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"dtype": "bfloat16"}
    config[FIELD] = {
        "quant_method": "fp8",
        "activation_scheme": "dynamic",
        "weight_block_size": [16, 16],
        "modules_to_not_convert": ["lm_head"],
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    return tmp_path


def test_a_model_in_fp8_is_imported_as_transformers_widens_it(folder, tmp_path):
    import transformers

    reference = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        quantization_config=transformers.FineGrainedFP8Config(
            weight_block_size=(16, 16), dequantize=True
        ),
    )
    params = load(import_model(folder, tmp_path / "run")).params
    layer = params["decoder"]["layers"][1]["mlp"]
    for name in ("gate", "up", "down"):
        kernel = np.asarray(layer[name]["kernel"])
        there = getattr(reference.model.layers[1].mlp, f"{name}_proj").weight
        np.testing.assert_array_equal(kernel.T.astype(np.float32), there.float().detach().numpy())


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"quant_method": "gptq"}, "of the method 'gptq'; fp8 and mxfp4 are read"),
        ({"weight_block_size": [16]}, r"weight_block_size is \[16\], not two sizes"),
        ({"weight_block_size": [32, 16]}, r"_scale_inv: has shape \[2, 3\]|has shape"),
    ],
)
def test_what_cannot_be_widened_is_named(folder, tmp_path, changes, words):
    config = json.loads((folder / "config.json").read_text())
    config[FIELD] |= changes
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=words):
        import_model(folder, tmp_path / "run")
    assert not (tmp_path / "run").exists()
