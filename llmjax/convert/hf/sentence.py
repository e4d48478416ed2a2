"""Folders of sentence-transformers: an encoder, and how its vectors become a text's.

What a folder says is read as sentence-transformers 6 reads it: modules.json, the config.json of
each module, sentence_bert_config.json and config_sentence_transformers.json. What would change a
vector and is not known here is refused by name.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, get_args

from llmjax.convert.hf.safetensors import read_object
from llmjax.convert.hf.sentence_modules import read_step
from llmjax.errors import UserError
from llmjax.inference.vector_steps import Step
from llmjax.run.origin import Pooling
from llmjax.storage.json_documents import read_json

MODULES = "modules.json"
SETTINGS = "config_sentence_transformers.json"
TRANSFORMERS = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
"""What the settings of the encoder's module have been called; the first that is there counts."""
THEIRS: dict[Pooling, str] = {
    "mean": "mean",
    "cls": "cls",
    "last": "lasttoken",
    "max": "max",
    "mean_sqrt": "mean_sqrt_len_tokens",
    "weighted_mean": "weightedmean",
}
"""Their names of our poolings."""
LEGACY = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""Switches of the poolings before there was a list, in the order in which vectors are put."""
POOLING_FIELDS = {*LEGACY, "pooling_mode", "word_embedding_dimension", "embedding_dimension"}
SIMILARITIES = ("cosine", "dot", "euclidean", "manhattan")
HARMLESS = frozenset("max_seq_length do_lower_case unpad_inputs model_args tokenizer_args".split())
"""Settings of the encoder's module that are read elsewhere, or that change no vector if empty."""
MOST_STEPS = 100


class Module(NamedTuple):
    """An entry of modules.json: the class, without its package, and its folder."""

    kind: str
    path: str


@dataclass(frozen=True)
class SentenceConfig:
    """What makes a vector of a text; its fields are those of `run.origin.Origin`."""

    path: str = ""
    """Folder of the encoder, within the model's."""
    pooling: Pooling | None = None
    """Which of the tokens' vectors count; None: the folder does not say."""
    normalize: bool = False
    length: int | None = None
    concatenated: tuple[Pooling, ...] = ()
    steps: tuple[Step, ...] = ()
    truncate: int | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt: str | None = None
    include_prompt: bool = True
    similarity: str | None = None

    @property
    def poolings(self) -> tuple[Pooling, ...]:
        """All of them, in order."""
        return () if self.pooling is None else (self.pooling, *self.concatenated)

    def check(self, width: int) -> None:
        """Checks that the steps suit the vectors of an encoder.

        Raises:
          UserError: they do not.
        """
        width *= max(1, len(self.poolings))
        for step in self.steps:
            width = step.width(width)


def read_sentence(folder: Path) -> SentenceConfig:
    """What modules.json and the files that it names say; nothing where there is none.

    Raises:
      UserError: there is a part that is not supported, or a file is damaged.
    """
    if not (folder / MODULES).exists():
        return SentenceConfig()
    modules = read_modules(folder)
    encoder = modules[0].path
    found: dict[str, Any] = {"path": encoder, "length": _length(folder / encoder)}
    found |= _settings(folder)
    if len(modules) == 1:
        return SentenceConfig(**found)
    first, *others = _poolings(folder / modules[1].path / "config.json", found)
    steps = [read_step(one.kind, folder / one.path) for one in modules[2:]]
    kept = [step for step in steps if step is not None]
    ends = bool(kept) and kept[-1].kind == "normalize"
    kept = kept[:-1] if ends else kept
    found |= {"pooling": first, "concatenated": tuple(others)}
    return SentenceConfig(**found, steps=tuple(kept), normalize=ends)


def read_modules(folder: Path) -> list[Module]:
    """The modules, in order: Transformer, and perhaps Pooling and others behind it.

    Raises:
      UserError: they are others, or lie elsewhere.
    """
    path, listed = folder / MODULES, read_json(folder / MODULES, fix="restore the file")
    if not isinstance(listed, list) or not 1 <= len(listed) <= MOST_STEPS:
        raise UserError(path, "is no list of modules", "restore the file")
    modules = [_module(path, entry) for entry in listed]
    kinds = [one.kind for one in modules]
    if kinds[0] != "Transformer" or kinds[1:2] not in ([], ["Pooling"]):
        raise UserError(
            path,
            f"lists {', '.join(kinds[:5])}",
            "supported are Transformer, Pooling, and Dense, LayerNorm, Normalize behind them",
        )
    return modules


def _module(path: Path, entry: Any) -> Module:
    kind, place = (
        entry.get(name) if isinstance(entry, dict) else None for name in ("type", "path")
    )
    if not isinstance(kind, str) or not isinstance(place, str):
        raise UserError(path, "is damaged: a module without type or path", "restore the file")
    if not kind.startswith("sentence_transformers."):
        raise UserError(path, f"lists {kind[:80]}, a program of its own", "it cannot be run here")
    if Path(place).is_absolute() or ".." in Path(place).parts or "\0" in place:
        raise UserError(path, f"names {place[:80]!r}, which is not in its own folder")
    return Module(kind.rpartition(".")[2], place)


def _length(folder: Path) -> int | None:
    """Tokens at most: those that the module says, else the tokenizer's own."""
    path = next((folder / name for name in TRANSFORMERS if (folder / name).exists()), None)
    settings = {} if path is None else read_object(path)
    for name, value in settings.items():
        if value and name not in HARMLESS and not _usual(name, value):
            raise UserError(path, f"{name[:60]} = {repr(value)[:60]} cannot be honoured")
    if settings.get("do_lower_case") and not _lowers(folder):
        raise UserError(
            path,
            "do_lower_case is true, but the tokenizer does not do that",
            'put {"type": "Lowercase"} before the normalizer of its tokenizer.json',
        )
    for name in ("model_args", "tokenizer_args"):
        if settings.get(name):
            raise UserError(path, f"{name} = {repr(settings[name])[:60]} cannot be honoured")
    stated = settings.get("max_seq_length")
    if stated is None and (folder / "tokenizer_config.json").exists():
        path = folder / "tokenizer_config.json"
        stated = read_object(path).get("model_max_length")
        if isinstance(stated, int | float) and stated >= 2**31:  # Transformers' "no limit"
            return None
    if stated is not None and (type(stated) is not int or stated < 1):
        raise UserError(path, f"has texts of at most {repr(stated)[:40]} tokens", "restore it")
    return stated


def _usual(name: str, value: Any) -> bool:
    """Whether a setting is what an encoder of texts has."""
    match name:
        case "transformer_task":
            return bool(value == "feature-extraction")
        case "module_output_name":
            return bool(value == "token_embeddings")
        case "modality_config":
            text = {"method": "forward", "method_output_name": "last_hidden_state"}
            return bool(value == {"text": text})
    return False


def _lowers(folder: Path) -> bool:
    """Whether a tokenizer.json makes all letters small."""
    path = folder / "tokenizer.json"
    if not path.is_file():
        return False
    from llmjax.storage.json_documents import DOCUMENT

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


def _poolings(path: Path, found: dict[str, Any]) -> list[Pooling]:
    """Which poolings there are; notes whether a prompt counts."""
    settings = read_object(path) if path.exists() else {}
    include = settings.get("include_prompt", True)
    if not isinstance(include, bool):
        raise UserError(path, "include_prompt is neither true nor false", "restore the file")
    found["include_prompt"] = include
    for name, value in settings.items():
        if name not in POOLING_FIELDS and name != "include_prompt":
            raise UserError(path, f"{name[:60]} = {repr(value)[:60]} is not known")
    said = settings.get("pooling_mode")
    if said is None:
        said = [theirs for name, theirs in LEGACY.items() if settings.get(name)]
    chosen = said if isinstance(said, list) else [said]
    ours = {theirs: name for name, theirs in THEIRS.items()}
    for name in chosen:
        if not isinstance(name, str) or name not in ours:
            known = ", ".join(ours)
            raise UserError(path, f"pools by {repr(name)[:60]}", f"supported: {known}")
    return [ours[name] for name in chosen[:MOST_STEPS]] or ["mean"]


def _settings(folder: Path) -> dict[str, Any]:
    """What config_sentence_transformers.json says of vectors."""
    path = folder / SETTINGS
    said: Mapping[str, Any] = read_object(path) if path.exists() else {}
    truncate, default = said.get("truncate_dim"), said.get("default_prompt_name")
    prompts, similarity = said.get("prompts") or {}, said.get("similarity_fn_name")
    if truncate is not None and (type(truncate) is not int or truncate < 1):
        raise UserError(path, f"truncate_dim is {repr(truncate)[:40]}", "it must be positive")
    if not isinstance(prompts, dict):
        raise UserError(path, "prompts is no object", "restore the file")
    prompts = {name: "" if text is None else text for name, text in prompts.items()}
    if not all(isinstance(text, str) for text in prompts.values()):
        raise UserError(path, "prompts are not all texts", "restore the file")
    if default is not None and (not isinstance(default, str) or default not in prompts):
        known = {"query", "document"}  # of every model, and empty
        if default not in known:
            raise UserError(path, f"default_prompt_name is {repr(default)[:40]}, no prompt of it")
        prompts = {**prompts, default: ""}
    if similarity is not None and similarity not in SIMILARITIES:
        raise UserError(
            path,
            f"similarity_fn_name is {repr(similarity)[:40]}",
            f"known are {', '.join(SIMILARITIES)}",
        )
    return {
        "truncate": truncate,
        "prompts": prompts,
        "default_prompt": default,
        "similarity": similarity,
    }


assert set(THEIRS) == set(get_args(Pooling))
