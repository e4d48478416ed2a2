"""Folders of sentence-transformers: an encoder, and how its vectors become a text's."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from llmjax.convert.reading import read_object
from llmjax.errors import UserError
from llmjax.origin import Pooling
from llmjax.storage import read_json

MODULES = "modules.json"
PACKAGE = "sentence_transformers.models"
THEIRS = {"last": "lasttoken"}
"""Names of poolings that differ from ours."""


@dataclass(frozen=True)
class Sentence:
    """What makes a vector of a text."""

    path: str = ""
    """Folder of the encoder, within the model's."""
    pooling: Pooling | None = None
    """Which of the tokens' vectors count; None: the folder does not say."""
    normalize: bool = False
    """Whether the vector is brought to length 1."""
    length: int | None = None
    """Tokens from which a text is cut off."""


def read_sentence(folder: Path) -> Sentence:
    """What modules.json and the files that it names say; nothing where there is none.

    Raises:
      UserError: there is a part that is not supported.
    """
    if not (folder / MODULES).is_file():
        return Sentence()
    try:
        modules = read_json(folder / MODULES)
        parts = [(str(one["type"]).rpartition(".")[2], str(one["path"])) for one in modules]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(folder / MODULES, f"is damaged: {error!r}", "restore the file") from error
    kinds = [kind for kind, _ in parts]
    if kinds not in (
        ["Transformer"],
        ["Transformer", "Pooling"],
        ["Transformer", "Pooling", "Normalize"],
    ):
        raise UserError(
            folder / MODULES,
            f"lists {', '.join(kinds)}",
            "supported are Transformer, Pooling, Normalize, in this order",
        )
    for _, path in parts:
        if Path(path).is_absolute() or ".." in Path(path).parts:
            raise UserError(folder / MODULES, f"names {path!r}, which is not in its own folder")
    encoder = parts[0][1]
    length = _length(folder / encoder)
    if len(parts) == 1:
        return Sentence(encoder, length=length)
    return Sentence(encoder, _pooling(folder / parts[1][1]), len(parts) == 3, length)


def _length(folder: Path) -> int | None:
    path = folder / "sentence_bert_config.json"
    if not path.is_file():
        return None
    settings = read_object(path)
    if settings.get("do_lower_case"):
        raise UserError(path, "do_lower_case is true: that is for the tokenizer to do")
    length = settings.get("max_seq_length")
    return length if isinstance(length, int) and length > 0 else None


def _pooling(folder: Path) -> Pooling:
    settings = read_object(folder / "config.json")
    chosen = [
        name.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for name, on in settings.items()
        if name.startswith("pooling_mode_") and on
    ]
    if "pooling_mode" in settings:
        said = settings["pooling_mode"]
        chosen = said if isinstance(said, list) else [said]
    for pooling in get_args(Pooling):
        if chosen == [THEIRS.get(pooling, pooling)]:
            found: Pooling = pooling
            return found
    known = ", ".join(THEIRS.get(pooling, pooling) for pooling in get_args(Pooling))
    raise UserError(folder, f"pools by {' and '.join(map(str, chosen))}", f"supported: {known}")


def write_sentence(folder: Path, sentence: Sentence, width: int) -> None:
    """Writes the files of sentence-transformers beside an encoder's."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if sentence.normalize else [])]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds[1:], 1))]
    modules: list[dict[str, Any]] = [
        {"idx": i, "name": str(i), "path": path, "type": f"{PACKAGE}.{kind}"}
        for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))
    ]
    _write(folder / MODULES, modules)
    for path in paths[1:]:
        (folder / path).mkdir()
    pooling = {
        "word_embedding_dimension": width,
        "pooling_mode_cls_token": sentence.pooling == "cls",
        "pooling_mode_mean_tokens": sentence.pooling == "mean",
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": False,
        "pooling_mode_lasttoken": sentence.pooling == "last",
    }
    _write(folder / paths[1] / "config.json", pooling)
    _write(
        folder / "sentence_bert_config.json",
        {"max_seq_length": sentence.length, "do_lower_case": False},
    )


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
