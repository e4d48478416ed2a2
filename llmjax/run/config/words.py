"""Words of the command line -> plain data for a field of a given type."""

import dataclasses
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from llmjax.data.tables.files import FileTable
from llmjax.data.text.parquet import ParquetSource
from llmjax.data.text.text_files import JsonlSource, TextSource
from llmjax.data.tokenizers.config import HuggingFaceTokenizerConfig, SentencePieceConfig
from llmjax.run.config.build import MISSING, article, leaf_type, plain, shown
from llmjax.run.config.fields import element, hints, kind, members, nearest, variants

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
TABLES = (".csv", ".tsv", ".tab", ".txt", ".json", ".jsonl", ".ndjson", ".parquet")
PATHS = {".jsonl": JsonlSource, ".ndjson": JsonlSource, ".parquet": ParquetSource}
PATH = {".json": HuggingFaceTokenizerConfig, ".model": SentencePieceConfig}


def parse(annotation: Any, words: tuple[str, ...]) -> Any:
    """The plain data that `words` mean for a field of this type.

    Raises:
      ValueError: they mean none; the message says what was given and what is wanted.
    """
    if (item := element(annotation)) is not None:
        return _merge([_choice(item, word) for word in words])
    nothing = len(words) == 1 and words[0].lower() in ("none", "null")
    if nothing and type(None) in members(annotation):
        return None
    classes = variants(annotation)
    if not classes:
        return _plain_value(annotation, words)
    if len(classes) == 1 and type(None) in members(annotation) and words == (kind(classes[0]),):
        return defaults(classes[0])
    if len(classes) == 1:
        inner = ", ".join(name.replace("_", "-") for name in hints(classes[0]))
        raise ValueError(f"is a group; set one of its fields: {inner}")
    if len(words) != 1:
        raise ValueError(f"wants one of {_kinds(classes)}")
    return _choice(annotation, words[0])


def is_list(annotation: Any) -> bool:
    """Whether a field of this type holds several values."""
    return any(_is_tuple(member) for member in members(annotation))


def _plain_value(annotation: Any, words: tuple[str, ...]) -> Any:
    if not words and bool in members(annotation):
        words = ("true",)
    if len(words) != 1 and not is_list(annotation):
        said = "has no value" if not words else f"has {len(words)} values"
        raise ValueError(f"{said}; wants {article(annotation)}")
    try:
        given: Any = _in_groups(annotation, words) if is_list(annotation) else words[0]
        return leaf_type(annotation).validate_python(given, strict=False)
    except ValidationError as error:
        raise ValueError(f"{shown(' '.join(words))} is not {article(annotation)}") from error


def _in_groups(annotation: Any, words: tuple[str, ...]) -> tuple[Any, ...]:
    """The words of a list; of a list of pairs two by two."""
    (item, *_) = typing.get_args(next(m for m in members(annotation) if _is_tuple(m)))
    size = len(typing.get_args(item)) if _is_tuple(item) else 1
    if size == 1 or len(words) % size:
        return words
    return tuple(words[at : at + size] for at in range(0, len(words), size))


def _is_tuple(annotation: Any) -> bool:
    return typing.get_origin(annotation) is tuple


def _choice(annotation: Any, word: str) -> dict[str, Any]:
    """A dataclass as plain data from `kind`, `kind:first,field=value` or a file's name; a list
    takes every value up to the next field: `kind:first,second,field=value,value`."""
    classes = {kind(cls): cls for cls in variants(annotation)}
    head, colon, rest = word.partition(":")
    near = nearest(head, classes)
    if head not in classes:
        by_file = _by_file(word, classes.values())
        if by_file is not None and not (colon and near):
            return typing.cast(dict[str, Any], plain(by_file))
        hint = f"did you mean {near}?" if near else f"choose one of {_kinds(classes.values())}"
        raise ValueError(f"{word!r} is no kind of it; {hint}")
    cls = classes[head]
    node = defaults(cls)
    for key, values in _given(cls, head, word, rest.split(",") if colon else []).items():
        node[key] = parse(hints(cls)[key], tuple(values))
    return node


def _given(cls: type, head: str, word: str, parts: list[str]) -> dict[str, list[str]]:
    """The words for each field of a variant, from the parts behind its name.

    Raises:
      ValueError: a part belongs to no field.
    """
    found: dict[str, list[str]] = {}
    last = ""
    for part in parts:
        key, equals, text = part.partition("=")
        if not equals and last and is_list(hints(cls)[last]):
            found[last].append(part)
            continue
        if not equals and last:
            raise ValueError(f"{part!r} in {word!r} is not field=value")
        if not equals:
            key, text = next(iter(hints(cls))), part
        key = last = key.replace("-", "_")
        if key not in hints(cls):
            near = nearest(key, hints(cls))
            hint = f"; did you mean {near}?" if near else ""
            raise ValueError(f"{head} has no field {key!r}{hint}")
        found[key] = [text]
    return found


def _by_file(word: str, classes: Collection[type]) -> Any:
    """The one of `classes` that a file's name stands for; None for a bare word."""
    name = word.lower()
    for ending in COMPRESSED:
        name = name.removesuffix(ending)
    for suffix, many in PATHS.items():
        if many in classes and name.endswith(suffix):
            return many(paths=(word,))
    for suffix, one in PATH.items():
        if one in classes and name.endswith(suffix):
            return one(path=word)
    if FileTable in classes and name.endswith(TABLES):
        return FileTable(paths=(word,))
    if TextSource in classes and (any(mark in word for mark in "./*?") or Path(word).exists()):
        return TextSource(paths=(word,))
    return None


def _merge(nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Neighbours that differ in nothing but their paths become one source of all these paths.

    Files that a shell's glob names one by one are then read in proportion to their sizes, as they
    are when the glob is quoted, and not a row from each in turn.
    """
    merged: list[dict[str, Any]] = []
    for node in nodes:
        last = merged[-1] if merged else {}
        if "paths" in node and {**node, "paths": ()} == {**last, "paths": ()}:
            last["paths"] = [*last["paths"], *node["paths"]]
        else:
            merged.append(node)
    return merged


def defaults(cls: type) -> dict[str, Any]:
    """The defaults of a dataclass as plain data; MISSING for fields that have none."""
    found: dict[str, Any] = {}
    for item in dataclasses.fields(cls):
        if item.default is not dataclasses.MISSING:
            found[item.name] = plain(item.default)
        elif item.default_factory is not dataclasses.MISSING:
            found[item.name] = plain(item.default_factory())
        else:
            found[item.name] = MISSING
    return found


def _kinds(classes: Collection[type]) -> str:
    return ", ".join(kind(cls) for cls in classes)
