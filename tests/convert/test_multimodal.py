"""Text models of multimodal checkpoints compute what they compute there, given text alone."""

import json
import logging

import hf_models
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

import llmjax
from llmjax.convert.hf.multimodal import is_multimodal, text_config
from llmjax.convert.importing import import_model
from llmjax.errors import UserError

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.once

TEXT = dict(hf_models.GROUPED, num_hidden_layers=2)
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
QWEN_VISION = {"depth": 1, "hidden_size": 16, "num_heads": 2, "intermediate_size": 24}
MROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1000.0}
CASES = {
    "Gemma3ForConditionalGeneration": {
        "text_config": TEXT | {"head_dim": 16, "sliding_window": 7},
        "vision_config": VISION,
        "mm_tokens_per_image": 4,
    },
    "LlavaForConditionalGeneration": {
        "text_config": TEXT | {"model_type": "llama"},
        "vision_config": VISION | {"model_type": "clip_vision_model"},
        "image_seq_length": 4,
    },
    "Mistral3ForConditionalGeneration": {
        "text_config": TEXT | {"model_type": "mistral", "head_dim": 16},
        "vision_config": VISION | {"model_type": "pixtral", "head_dim": 8},
    },
    "Llama4ForConditionalGeneration": {
        "text_config": TEXT
        | {
            "head_dim": 16,
            "intermediate_size_mlp": 40,
            "num_local_experts": 4,
            "interleave_moe_layer_step": 2,
            "attention_chunk_size": 7,
            "no_rope_layers": [1, 0],
            "floor_scale": 5,
        },
        "vision_config": VISION | {"projector_input_dim": 16, "projector_output_dim": 16},
    },
    "Qwen2_5_VLForConditionalGeneration": {
        "text_config": TEXT | {"rope_parameters": MROPE},
        "vision_config": QWEN_VISION | {"out_hidden_size": 32},
    },
    "Qwen3VLForConditionalGeneration": {
        "text_config": TEXT | {"head_dim": 8, "rope_parameters": MROPE},
        "vision_config": QWEN_VISION
        | {"out_hidden_size": 32, "deepstack_visual_indexes": [0], "num_position_embeddings": 16},
    },
}
TOKENS = np.random.default_rng(0).integers(3, hf_models.VOCABULARY, (2, 20)).astype(np.int32)


@pytest.mark.parametrize("name", CASES)
def test_logits_are_equal(name, tmp_path, caplog):
    kind = getattr(transformers, name)
    ids = {"image_token_id": 263, "video_token_id": 262, "vision_start_token_id": 261}
    config = kind.config_class(**CASES[name], **ids)
    torch.manual_seed(0)
    model = kind(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(tmp_path / "there")
    hf_models.write_tokenizer(tmp_path / "there")
    with caplog.at_level(logging.WARNING):
        run = import_model(tmp_path / "there", tmp_path / "run")
    assert "only the text model" in caplog.text
    lm = llmjax.load(run)
    # Transformers 5.24 fails in the whole of Llama 4 without an image.
    whole = model.language_model if name.startswith("Llama4") else model
    with torch.no_grad():
        expected = whole(input_ids=torch.tensor(TOKENS)).logits.numpy()
    found = np.asarray(lm.logits(jnp.asarray(TOKENS)))
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())
    llmjax.export(run, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert not is_multimodal(written)
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    with torch.no_grad():
        alone = again(input_ids=torch.tensor(TOKENS)).logits.numpy()
    np.testing.assert_allclose(alone, expected, atol=1e-4 * np.abs(expected).max())


def test_fields_of_other_parts_are_left_out():
    """As in files of Qwen2-VL, which have those of the text model at the top."""
    flat = {
        "model_type": "qwen2_vl",
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "hidden_size": 32,
        "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
        "vision_config": {"depth": 1},
        "vision_start_token_id": 5,
        "image_token_id": 6,
    }
    assert text_config(flat, "config.json") == {
        "model_type": "qwen2",
        "hidden_size": 32,
        "rope_scaling": {"type": "default"},
    }


def test_what_has_no_text_model_is_refused(tmp_path):
    kind = transformers.CLIPModel
    small = {"vocab_size": 264} | {
        name: size for name, size in VISION.items() if "size" not in name
    }
    kind(transformers.CLIPConfig(text_config=small, vision_config=VISION)).save_pretrained(tmp_path)
    with pytest.raises(UserError):
        import_model(tmp_path, tmp_path / "run")


def test_a_text_model_of_another_type_is_refused_by_name(tmp_path):
    config = {"model_type": "gemma3n", "text_config": {"model_type": "gemma3n_text"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"model.embed_tokens.weight": np.zeros((8, 4))}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="gemma3n_text"):
        import_model(tmp_path, tmp_path / "run")
    assert not (tmp_path / "run").exists()
