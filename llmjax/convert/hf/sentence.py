"""sentence-transformers folders: an encoder, and how its states become a text's embedding.

Reads modules.json, the config.json of each module, sentence_bert_config.json and
config_sentence_transformers.json as sentence-transformers 6 does. Unsupported settings that would
change an embedding are refused by name.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

from llmjax.convert.hf.config import read_object, write_json
from llmjax.convert.hf.sentence_modules import read_layer, write_layer
from llmjax.errors import UserError
from llmjax.inference.embedding_layers import EmbeddingLayer, layer_from_json
from llmjax.run.origin import Origin, Pooling
from llmjax.storage.json_documents import DOCUMENT, read_json

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
TRANSFORMERS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""File names of the encoder's settings; the first that exists is read."""
POOLINGS: dict[Pooling, str] = {
    "mean": "mean",
    "cls": "cls",
    "last": "lasttoken",
    "max": "max",
    "mean_sqrt": "mean_sqrt_len_tokens",
    "weighted_mean": "weightedmean",
}
"""llmjax's names -> sentence-transformers'."""
assert set(POOLINGS) == set(get_args(Pooling))
POOLING_SWITCHES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Fields of older folders, in the order of concatenation."""
POOLING_FIELDS = {
    *POOLING_SWITCHES,
    "pooling_mode",
    "word_embedding_dimension",
    "embedding_dimension",
    "include_prompt",
}
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
IGNORED = ("max_seq_length", "do_lower_case", "unpad_inputs")
"""Encoder settings that are read elsewhere or do not affect embeddings."""
MAX_MODULES = 100


class Module(NamedTuple):
    """An entry of modules.json: its class, without the package, and its folder."""

    kind: str
    path: str


@dataclass(frozen=True)
class SentenceConfig:
    """How to compute a text's embedding; most fields are those of `run.origin.Origin`."""

    path: str = ""
    """The encoder's folder, relative to the model's."""
    pooling: Pooling | None = None
    """None if the folder has none."""
    normalize: bool = False
    length: int | None = None
    concatenated: tuple[Pooling, ...] = ()
    layers: tuple[EmbeddingLayer, ...] = ()
    """Layers after pooling, except a final normalisation; `steps` in origin.json."""
    truncate: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool = True
    similarity: str | None = None

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """All poolings, in order of concatenation."""
        return () if self.pooling is None else (self.pooling, *self.concatenated)

    def check(self, width: int) -> None:
        """Check that the layers fit encoder states of this width.

        Raises:
          UserError: they do not.
        """
        width *= max(1, len(self.poolings))
        for layer in self.layers:
            width = layer.output_width(width)

    def origin_fields(self) -> dict[str, Any]:
        """The fields of `Origin`."""
        values = {name: value for name, value in vars(self).items() if name != "path"}
        layers = [layer.to_json() for layer in values.pop("layers")]
        return values | {"concatenated": list(self.concatenated), "steps": layers}


def from_origin(origin: Origin) -> SentenceConfig:
    """Rebuild a config from the fields of `SentenceConfig.origin_fields`."""
    names = SentenceConfig.__dataclass_fields__.keys() & vars(origin).keys()
    return SentenceConfig(
        **{name: getattr(origin, name) for name in names - {"concatenated"}},
        concatenated=tuple(origin.concatenated),
        layers=tuple(map(layer_from_json, origin.steps)),
    )


def read_sentence(folder: Path) -> SentenceConfig:
    """Read modules.json and the files it names; the default config if there is none.

    Raises:
      UserError: a module or setting is not supported, or a file is damaged.
    """
    if not (folder / MODULES).exists():
        return SentenceConfig()
    modules = read_modules(folder)
    encoder = modules[0].path
    fields: dict[str, Any] = {"path": encoder, "length": _max_length(folder / encoder)}
    fields |= _read_settings(folder / SETTINGS)
    if len(modules) == 1:
        return SentenceConfig(**fields)
    fields |= _read_pooling(folder / modules[1].path / "config.json")
    after_pooling = [read_layer(module.kind, folder / module.path) for module in modules[2:]]
    layers = [layer for layer in after_pooling if layer is not None]
    normalize = bool(layers) and layers[-1].kind == "normalize"
    layers = layers[:-1] if normalize else layers
    return SentenceConfig(**fields, layers=tuple(layers), normalize=normalize)


def read_modules(folder: Path) -> list[Module]:
    """Read the list of modules: Transformer, optionally followed by Pooling and further ones.

    Raises:
      UserError: the list is different, or a module's folder lies outside of `folder`.
    """
    path, entries = folder / MODULES, read_json(folder / MODULES, fix="restore the file")
    if not isinstance(entries, list) or not 1 <= len(entries) <= MAX_MODULES:
        raise UserError(path, "is not a list of modules", "restore the file")
    modules = [_read_module(path, entry) for entry in entries]
    kinds = [module.kind for module in modules]
    if kinds[0] != "Transformer" or kinds[1:2] not in ([], ["Pooling"]):
        raise UserError(
            path,
            f"lists {', '.join(kinds[:5])}",
            "supported are Transformer and Pooling, followed by Dense, LayerNorm, Normalize",
        )
    return modules


def _read_module(path: Path, entry: Any) -> Module:
    kind, folder = (
        entry.get(name) if isinstance(entry, dict) else None for name in ("type", "path")
    )
    if not isinstance(kind, str) or not isinstance(folder, str):
        raise UserError(path, "is damaged: a module without type or path", "restore the file")
    if not kind.startswith("sentence_transformers."):
        raise UserError(path, f"lists {kind[:80]}, which is custom code", "it is never executed")
    if Path(folder).is_absolute() or ".." in Path(folder).parts or "\0" in folder:
        raise UserError(path, f"names {folder[:80]!r}, which is not in its own folder")
    return Module(kind.rpartition(".")[2], folder)


def _max_length(folder: Path) -> int | None:
    """The module's maximum length in tokens, else the tokenizer's."""
    path = next((folder / name for name in TRANSFORMERS if (folder / name).exists()), None)
    settings = {} if path is None else read_object(path)
    for name, value in settings.items():
        if value and name not in IGNORED and not _is_default(name, value):
            raise UserError(path, f"{name[:60]} = {repr(value)[:60]} is not supported")
    if settings.get("do_lower_case") and not _lowercases(folder / "tokenizer.json"):
        raise UserError(
            path,
            "do_lower_case is true, but the tokenizer does not lowercase",
            'put {"type": "Lowercase"} before the normalizer of its tokenizer.json',
        )
    length = settings.get("max_seq_length")
    if length is None and (folder / "tokenizer_config.json").exists():
        path = folder / "tokenizer_config.json"
        length = read_object(path).get("model_max_length")
        if isinstance(length, int | float) and length >= 2**31:  # Transformers' "no limit"
            return None
    if length is not None and (type(length) is not int or length < 1):
        raise UserError(path, f"limits texts to {repr(length)[:40]} tokens", "restore the file")
    return length


def _is_default(name: str, value: Any) -> bool:
    """Whether a setting has the value of every text encoder."""
    text = {"method": "forward", "method_output_name": "last_hidden_state"}
    defaults: dict[str, Any] = {
        "transformer_task": "feature-extraction",
        "module_output_name": "token_embeddings",
        "modality_config": {"text": text},
    }
    return name in defaults and bool(value == defaults[name])


def _lowercases(path: Path) -> bool:
    """Whether a tokenizer.json lowercases text."""
    if not path.is_file():
        return False
    spec = read_json(path, limits=DOCUMENT)
    normalizer = spec.get("normalizer") if isinstance(spec, dict) else None
    if not isinstance(normalizer, dict):
        return False
    parts = normalizer.get("normalizers") if normalizer.get("type") == "Sequence" else [normalizer]
    return any(
        isinstance(part, dict)
        and (part.get("type") == "Lowercase" or part.get("lowercase") is True)
        for part in (parts if isinstance(parts, list) else [])
    )


def _read_pooling(path: Path) -> dict[str, Any]:
    """Read the poolings, and whether they include the prompt."""
    settings = read_object(path) if path.exists() else {}
    include = settings.get("include_prompt", True)
    if not isinstance(include, bool):
        raise UserError(path, "include_prompt is neither true nor false", "restore the file")
    for name, value in settings.items():
        if name not in POOLING_FIELDS:
            raise UserError(path, f"{name[:60]} = {repr(value)[:60]} is not supported")
    modes = settings.get("pooling_mode")
    if modes is None:
        modes = [mode for name, mode in POOLING_SWITCHES.items() if settings.get(name)]
    modes = modes if isinstance(modes, list) else [modes]
    pooling_of = {mode: pooling for pooling, mode in POOLINGS.items()}
    for mode in modes:
        if not isinstance(mode, str) or mode not in pooling_of:
            supported = ", ".join(pooling_of)
            raise UserError(path, f"pools by {repr(mode)[:60]}", f"supported are {supported}")
    first, *rest = [pooling_of[mode] for mode in modes[:MAX_MODULES]] or ["mean"]
    return {"pooling": first, "concatenated": tuple(rest), "include_prompt": include}


def _read_settings(path: Path) -> dict[str, Any]:
    """Read the settings in config_sentence_transformers.json that affect embeddings."""
    settings = read_object(path) if path.exists() else {}
    truncate, default = settings.get("truncate_dim"), settings.get("default_prompt_name")
    prompts, similarity = settings.get("prompts") or {}, settings.get("similarity_fn_name")
    if truncate is not None and (type(truncate) is not int or truncate < 1):
        raise UserError(path, f"truncate_dim is {repr(truncate)[:40]}", "it must be positive")
    if not isinstance(prompts, dict):
        raise UserError(path, "prompts is not an object", "restore the file")
    prompts = {name: "" if text is None else text for name, text in prompts.items()}
    if not all(isinstance(text, str) for text in prompts.values()):
        raise UserError(path, "has prompts that are not strings", "restore the file")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        if default not in ("query", "document"):  # every model has these, empty
            raise UserError(path, f"default_prompt_name {repr(default)[:40]} is not in prompts")
        prompts = {**prompts, default: ""}
    if similarity is not None and similarity not in SIMILARITIES:
        supported = f"supported are {', '.join(SIMILARITIES)}"
        raise UserError(path, f"similarity_fn_name is {repr(similarity)[:40]}", supported)
    return {
        "truncate": truncate,
        "prompts": prompts,
        "default_prompt": default,
        "similarity": similarity,
    }


def write_sentence(folder: Path, sentence: SentenceConfig, width: int) -> None:
    """Write modules.json, the modules' folders and the settings.

    Args:
      folder: already holds the encoder.
      sentence: the config to write, with a pooling.
      width: of the encoder's states.
    """
    layers = [*sentence.layers, *([EmbeddingLayer("normalize")] if sentence.normalize else [])]
    names = {"dense": "Dense", "layernorm": "LayerNorm", "normalize": "Normalize"}
    kinds = ["Transformer", "Pooling", *(names[layer.kind] for layer in layers)]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds[1:], 1))]
    modules: list[dict[str, Any]] = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    write_json(folder / MODULES, modules)
    for path in paths[1:]:
        (folder / path).mkdir()
    modes = [POOLINGS[name] for name in sentence.poolings]
    pooling: dict[str, Any] = {"word_embedding_dimension": width}
    if modes == [mode for mode in POOLING_SWITCHES.values() if mode in modes]:
        # The order can be expressed without the list, which older versions lack.
        pooling |= {name: mode in modes for name, mode in POOLING_SWITCHES.items()}
    else:
        pooling["pooling_mode"] = modes
    pooling |= {} if sentence.include_prompt else {"include_prompt": False}
    write_json(folder / paths[1] / "config.json", pooling)
    for layer, path in zip(layers, paths[2:], strict=True):
        write_layer(folder / path, layer)
    limits = {"max_seq_length": sentence.length, "do_lower_case": False}
    write_json(folder / "sentence_bert_config.json", limits)
    settings = {
        "prompts": sentence.prompts,
        "default_prompt_name": sentence.default_prompt,
        "similarity_fn_name": sentence.similarity,
        "truncate_dim": sentence.truncate,
    }
    if settings := {name: value for name, value in settings.items() if value}:
        write_json(folder / SETTINGS, settings)
