"""Metadata of a published tokenizer: special tokens, added tokens, stop tokens, chat template."""

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers

from llmjax.data.tokenizers.folder import TEMPLATE_SIZE
from llmjax.data.tokenizers.huggingface.file import MAX_ADDED, OTHER, compact
from llmjax.data.tokenizers.huggingface.library import open_tokenizer
from llmjax.errors import UserError
from llmjax.storage.bounded import read_text
from llmjax.storage.json_documents import DOCUMENT, read_json


@dataclass(frozen=True)
class AddedToken:
    """A token outside the vocabulary.

    Attributes:
      id: from its file; None if only its name is known, and it gets the next free id.
      content: its text.
      flags: lstrip, rstrip, single_word, normalized, special.
    """

    id: int | None
    content: str
    flags: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class TokenizerMetadata:
    """The JSON files of a published model's folder; {} for missing ones.

    Attributes:
      folder: of the model.
      tokenizer: tokenizer_config.json.
      special: special_tokens_map.json.
      added: added_tokens.json.
      config: config.json.
      generation: generation_config.json.
    """

    folder: Path
    tokenizer: Mapping[str, Any]
    special: Mapping[str, Any]
    added: Mapping[str, Any]
    config: Mapping[str, Any]
    generation: Mapping[str, Any]

    @classmethod
    def read(cls, folder: Path) -> "TokenizerMetadata":
        """Raises a UserError if a file is not a JSON object."""
        return cls(
            folder,
            tokenizer=read_object(folder / "tokenizer_config.json"),
            special=read_object(folder / "special_tokens_map.json"),
            added=read_object(folder / "added_tokens.json"),
            config=read_object(folder / "config.json"),
            generation=read_object(folder / "generation_config.json"),
        )

    @classmethod
    def for_tokenizer(cls, path: Path) -> "TokenizerMetadata":
        """The metadata in the folder of a tokenizer.json, without those of a model.

        Raises:
          UserError: a file is not a JSON object.
        """
        folder = path.parent
        tokenizer = read_object(folder / "tokenizer_config.json")
        special = read_object(folder / "special_tokens_map.json")
        added = read_object(folder / "added_tokens.json")
        return cls(folder, tokenizer, special, added, config={}, generation={})

    @property
    def kind(self) -> str:
        """The family: config.json's model_type, or the tokenizer's class without "Tokenizer"."""
        name = str(self.tokenizer.get("tokenizer_class") or "")
        name = name.removesuffix("Fast").removesuffix("Tokenizer").lower()
        return str(self.config.get("model_type") or name).replace("_", "-")

    def token(self, *keys: str) -> str | None:
        """The first of these special tokens (such as "bos_token") that is defined."""
        sources = (self.special, self.tokenizer) if self._is_old else (self.tokenizer, self.special)
        for key in keys:
            for source in sources:
                value = source.get(key)
                value = value.get("content") if isinstance(value, dict) else value
                if isinstance(value, str) and value:
                    return value
        return None

    def names(self, vocab: Mapping[str, int]) -> dict[str, str | None]:
        """The vocabulary's bos_token, eos_token, pad_token and mask_token."""
        names = {token: name for name, token in vocab.items()}

        def find(*keys: str) -> str | None:
            name = self.token(*keys)
            if name in vocab:
                return name
            key = f"{keys[0].removesuffix('_token')}_token_id"
            ids = [*_ids(self.generation.get(key)), *_ids(self.config.get(key))]
            return next((names[token] for token in ids if token in names), None)

        roles = {
            "bos_token": find("bos_token", "cls_token"),
            "eos_token": find("eos_token", "sep_token"),
            "pad_token": find("pad_token"),
            "mask_token": find("mask_token"),
        }
        if self.config.get("is_encoder_decoder") or self.kind in ("t5", "mt5", "umt5"):
            # The start token of an encoder-decoder's decoder.
            starts = _ids(self.config.get("decoder_start_token_id"))
            first = next((names[token] for token in starts if token in names), None)
            roles["bos_token"] = first or roles["pad_token"] or roles["bos_token"]
        return roles

    def stops(self, vocab: Mapping[str, int]) -> tuple[str, ...]:
        """Tokens that end generated text, by the model's settings."""
        names = {token: name for name, token in vocab.items()}
        ids = _ids(self.generation.get("eos_token_id")) or _ids(self.config.get("eos_token_id"))
        return tuple(names[token] for token in ids if token in names)

    def added_tokens(self) -> list[AddedToken]:
        """Tokens that these files add to the vocabulary: those with an id in order of it, then
        special tokens without one, in the order in which Transformers adds them.

        Raises:
          UserError: an entry is malformed.
        """
        tokens: dict[str, AddedToken] = {}
        try:
            named = {token.content: token for token in self._special_tokens()}
            for content, number in self.added.items():
                flags = {"special": content in named, "normalized": content not in named}
                tokens[content] = AddedToken(int(number), content, flags)
            for number, value in (self.tokenizer.get("added_tokens_decoder") or {}).items():
                flags = {key: bool(value[key]) for key in FLAGS if key in value}
                tokens[value["content"]] = AddedToken(int(number), str(value["content"]), flags)
        except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise UserError(
                self.folder / "tokenizer_config.json",
                f"has malformed added tokens: {error!r}",
                "fix it",
            ) from error
        numbered = sorted(tokens.values(), key=lambda token: token.id or 0)
        return [*numbered, *(token for name, token in named.items() if name not in tokens)]

    def chat_template(self) -> str | None:
        """The default chat template, if any.

        Raises:
          UserError: its file cannot be read.
        """
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            return read_text(path, TEMPLATE_SIZE, fix="fix or remove it")
        inside = read_object(self.folder / "chat_template.json").get("chat_template")
        return _default(inside) or _default(self.tokenizer.get("chat_template"))

    @property
    def _is_old(self) -> bool:
        """Whether special_tokens_map.json applies: tokenizer_config.json has no list of tokens."""
        return "added_tokens_decoder" not in self.tokenizer

    def _special_tokens(self) -> Iterator[AddedToken]:
        """Special tokens under the usual names, under other names, and in lists.

        The list is additional_special_tokens in version 4 of Transformers, extra_special_tokens in
        version 5, which may also be an object of names.
        """
        special = self.special if self._is_old else {}
        listed: list[Any] = []
        extra = [source.get("extra_special_tokens") for source in (self.tokenizer, special)]
        objects = [names for names in extra if isinstance(names, dict)]
        listed += _listed(extra[0]) or _listed(self.tokenizer.get("additional_special_tokens"))
        listed = [*listed, *_listed(extra[1])] or _listed(special.get("additional_special_tokens"))
        every = {**self.tokenizer, **special}
        named = [every.get(key) for key in NAMED]
        named += [every[key] for key in every if key.endswith("_token") and key not in NAMED]
        named += [token for names in objects for token in names.values()]
        for value in named:
            has_name = "content" in value if isinstance(value, dict) else isinstance(value, str)
            if has_name and value:
                yield _special_token(value, named=True)
        for value in listed:
            yield _special_token(value, named=False)


NAMED = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))
FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


def read_object(path: Path) -> dict[str, Any]:
    """Reads a file's JSON object; {} if there is no such file.

    Raises:
      UserError: it is not a JSON object.
    """
    if not path.is_file():
        return {}
    value = read_json(path, limits=DOCUMENT, fix="fix it")
    if not isinstance(value, dict):
        raise UserError(path, "is not a JSON object", "fix it")
    return value


def _listed(value: Any) -> list[Any]:
    if value is None or isinstance(value, list | dict):
        return value if isinstance(value, list) else []
    raise ValueError(f"special tokens {value!r:.40} that are no list")


def _special_token(value: Any, *, named: bool) -> AddedToken:
    """Parses a special token: a string, or an object with flags.

    `named`: whether it has a name, such as pad_token, which makes it special whatever its flags.
    """
    if isinstance(value, str):
        return AddedToken(None, value, {"special": True, "normalized": False})
    content = value["content"]
    if not isinstance(content, str):
        raise TypeError(f"the token {content!r:.40}")
    flags = {key: bool(value[key]) for key in FLAGS if key in value}
    special = named or flags.get("special", "__type" not in value)
    return AddedToken(None, content, {"normalized": not special, **flags, "special": special})


def _ids(value: Any) -> list[int]:
    values: Collection[Any] = value if isinstance(value, list) else [value]
    return [number for number in values if type(number) is int]


def _default(value: Any) -> str | None:
    """A template, or the default among several."""
    if isinstance(value, list):
        named = {item.get("name"): item.get("template") for item in value if isinstance(item, dict)}
        value = named.get("default", next(iter(named.values())) if len(named) == 1 else None)
    elif isinstance(value, dict):
        value = value.get("default")
    return value if isinstance(value, str) and value else None


def with_added_tokens(
    content: bytes, spec: dict[str, Any], metadata: TokenizerMetadata, rows: int | None = None
) -> tuple[bytes, dict[str, Any]]:
    """Adds the tokens of the metadata that a tokenizer.json lacks, as Transformers does.

    Args:
      content: of the file.
      spec: its value.
      metadata: of its folder.
      rows: of the model's embedding: tokens with higher ids are dropped. None: all are kept.

    Returns:
      Content and value of the new file; the arguments if there is nothing to add.

    Raises:
      UserError: there are too many, or a token cannot get the id that its file states.
    """
    present = {token["content"] for token in spec["added_tokens"]}
    missing = [token for token in metadata.added_tokens() if token.content not in present]
    if not missing:
        return content, spec
    if len(missing) > MAX_ADDED:
        reason = f"adds {len(missing):,} tokens, and at most {MAX_ADDED:,} are added"
        raise UserError(metadata.folder, reason, OTHER)
    inner = open_tokenizer(content)
    kept = list(_with_rows(inner, missing, rows))
    for token in kept:
        inner.add_tokens(
            [tokenizers.AddedToken(token.content, **{"normalized": False, **token.flags})]
        )
        number = inner.token_to_id(token.content)
        if token.id is not None and number != token.id:
            raise UserError(
                metadata.folder,
                f"gives the added token {token.content!r} the id {token.id}, the vocabulary has "
                f"room for it at {number}",
                "check added_tokens.json and tokenizer_config.json",
            )
    if not kept:
        return content, spec
    spec = json.loads(inner.to_str())
    return compact(spec), spec


def _with_rows(
    inner: tokenizers.Tokenizer, tokens: Sequence[AddedToken], rows: int | None
) -> Iterator[AddedToken]:
    """Tokens with a row in the embedding; those without an id get that of their vocabulary entry,
    or the next free one."""
    free = inner.get_vocab_size(with_added_tokens=False)
    free = max(free, *(number + 1 for number in inner.get_added_tokens_decoder()), 0)
    for token in tokens:
        number = inner.token_to_id(token.content) if token.id is None else token.id
        number = free if number is None else number
        if rows is None or number < rows:
            free = max(free, number + 1)
            yield token
