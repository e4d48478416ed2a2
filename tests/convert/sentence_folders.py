"""Small sentence-transformers folders, and their embeddings.

python tests/convert/sentence_folders.py writes tests/convert/sentence_vectors.json.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import tokenizers
from hf_golden import FOLDER
from safetensors.numpy import save_file
from tokenizers import models, normalizers, pre_tokenizers, processors

EXPECTED = Path(__file__).with_name("sentence_vectors.json")
TEXTS = ["a b c", "x", "q r s t u v w x y z a b c d e f g h i j k l m n o p q r s t u v w x y z"]
POOLINGS = ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
PROMPTS = {"query": "q : ", "document": "", "long": "a b c d e : "}
WIDTH = 8
TORCH = "torch.nn.modules"


def _dense(**fields: Any) -> dict[str, Any]:
    defaults = {"in_features": WIDTH, "out_features": 5, "bias": True}
    return {"kind": "Dense", "config": defaults | fields}


def _activation(name: str) -> dict[str, Any]:
    module = "linear" if name == "Identity" else "activation"
    return _dense(activation_function=f"{TORCH}.{module}.{name}")


NORMALIZE: dict[str, Any] = {"kind": "Normalize", "config": None}
VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    **{f"pooling {name}": {"pooling": {"pooling_mode": name}} for name in POOLINGS},
    "no pooling named": {"pooling": {}},
    "legacy names": {
        "pooling": {
            "word_embedding_dimension": WIDTH,
            "pooling_mode_lasttoken": True,
            "pooling_mode_mean_tokens": True,
            "pooling_mode_cls_token": True,
            "pooling_mode_max_tokens": False,
        }
    },
    "several": {"pooling": {"pooling_mode": ["max", "mean", "weightedmean"]}},
    "normalize": {"steps": [NORMALIZE]},
    "truncate": {"settings": {"truncate_dim": 3}},
    "truncate after normalize": {"steps": [NORMALIZE], "settings": {"truncate_dim": 3}},
    "truncate to more": {"settings": {"truncate_dim": 300}},
    **{
        f"dense {name}": {"steps": [_activation(name)]}
        for name in ("Identity", "Tanh", "ReLU", "GELU", "SiLU", "Sigmoid")
    },
    "dense without activation": {"steps": [_dense()]},
    "dense without bias": {"steps": [_dense(bias=False)]},
    "dense residual": {"steps": [_dense(out_features=WIDTH, use_residual=True)]},
    "dense projected residual": {"steps": [_dense(use_residual=True), NORMALIZE]},
    "dense on several": {
        "pooling": {"pooling_mode": ["cls", "mean"]},
        "steps": [_dense(in_features=2 * WIDTH, out_features=3)],
    },
    "layer norm": {"steps": [{"kind": "LayerNorm", "config": {"dimension": WIDTH}}]},
    "dropout": {"steps": [{"kind": "Dropout", "config": {"dropout": 0.2}}]},
    "all of them": {
        "steps": [
            NORMALIZE,
            _dense(),
            {"kind": "LayerNorm", "config": {"dimension": 5}},
            _dense(in_features=5, out_features=WIDTH, bias=False),
            NORMALIZE,
        ],
        "settings": {"truncate_dim": 4},
    },
    "prompts": {"settings": {"prompts": PROMPTS, "similarity_fn_name": "dot"}},
    "default prompt": {"settings": {"prompts": PROMPTS, "default_prompt_name": "query"}},
    "default prompt that is empty": {
        "settings": {"prompts": PROMPTS, "default_prompt_name": "document"}
    },
    **{
        f"prompt not pooled by {name}": {
            "pooling": {"pooling_mode": name, "include_prompt": False},
            "settings": {"prompts": PROMPTS, "default_prompt_name": "long"},
        }
        for name in POOLINGS
    },
    "short": {"encoder": {"max_seq_length": 7, "do_lower_case": False}},
    "short by the tokenizer": {"encoder": None, "model_max_length": 6},
    "without a length": {"encoder": {"max_seq_length": None}},
    "lower case": {"encoder": {"max_seq_length": 16, "do_lower_case": True}},
    "as version 6 writes it": {
        "encoder": {
            "transformer_task": "feature-extraction",
            "modality_config": {
                "text": {"method": "forward", "method_output_name": "last_hidden_state"}
            },
            "module_output_name": "token_embeddings",
        },
        "model_max_length": 9,
    },
}


def write_tokenizer(folder: Path, longest: int | None) -> None:
    """Letters, and small ones of words."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(ord("a") + i) for i in range(26)]
    pieces = [*special, *letters, ":", *(f"##{letter}" for letter in letters[:8])]
    vocabulary = {piece: i for i, piece in enumerate(pieces)}
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=True)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.add_special_tokens(special)
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    inner.save(str(folder / "tokenizer.json"))
    names = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
    settings: dict[str, Any] = {f"{name}_token": special[i] for name, i in names.items()}
    settings |= {"tokenizer_class": "PreTrainedTokenizerFast"}
    if longest is not None:
        settings["model_max_length"] = longest
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _weights(path: Path, step: dict[str, Any], seed: int) -> None:
    config, rng = step["config"], np.random.default_rng(seed)
    if step["kind"] == "Dense":
        out, width = config["out_features"], config["in_features"]
        shapes: dict[str, tuple[int, ...]] = {"linear.weight": (out, width)}
        if config.get("bias", True):
            shapes["linear.bias"] = (out,)
        if config.get("use_residual") and out != width:
            shapes["residual.weight"] = (out, width)
    elif step["kind"] == "LayerNorm":
        width = config["dimension"]
        shapes = {"norm.weight": (width,), "norm.bias": (width,)}
    else:
        return
    save_file({n: rng.normal(size=s).astype("f4") for n, s in shapes.items()}, path)


def build(folder: Path, variant: dict[str, Any]) -> Path:
    """The folder of a variant."""
    folder.mkdir()
    for name in ("config.json", "model.safetensors"):
        shutil.copy(FOLDER / "bert" / name, folder / name)
    write_tokenizer(folder, variant.get("model_max_length"))
    encoder = variant.get("encoder", {"max_seq_length": 20})
    if encoder is not None:
        (folder / "sentence_bert_config.json").write_text(json.dumps(encoder))
    pooling = {"embedding_dimension": WIDTH} | variant.get("pooling", {"pooling_mode": "mean"})
    if "word_embedding_dimension" in pooling:
        del pooling["embedding_dimension"]
    steps = [
        {"kind": "Transformer", "config": None},
        {"kind": "Pooling", "config": pooling},
        *variant.get("steps", []),
    ]
    listed = []
    for i, step in enumerate(steps):
        path = f"{i}_{step['kind']}" if i else ""
        kind = f"sentence_transformers.models.{step['kind']}"
        listed.append({"idx": i, "name": str(i), "path": path, "type": kind})
        if path and step["config"] is not None:
            (folder / path).mkdir()
            (folder / path / "config.json").write_text(json.dumps(step["config"]))
            _weights(folder / path / "model.safetensors", step, i)
    (folder / "modules.json").write_text(json.dumps(listed))
    if "settings" in variant:
        path = folder / "config_sentence_transformers.json"
        path.write_text(json.dumps(variant["settings"]))
    return folder


def reference_vectors(folder: Path) -> Any:
    """The embeddings of sentence-transformers, float32 [texts, width]."""
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(folder), device="cpu")
    return model.encode(TEXTS, batch_size=2)


def main() -> None:
    """Write the embeddings of every variant."""
    import tempfile

    stored = {}
    with tempfile.TemporaryDirectory() as root:
        for number, (name, variant) in enumerate(VARIANTS.items()):
            vectors = reference_vectors(build(Path(root) / str(number), variant))
            stored[name] = [[round(float(x), 6) for x in row] for row in vectors]
    text = ",\n".join(f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in stored.items())
    EXPECTED.write_text("{\n" + text + "\n}\n")


if __name__ == "__main__":
    main()
