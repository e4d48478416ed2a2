"""What the files beside a published tokenizer say of it."""

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmjax.errors import UserError


@dataclass(frozen=True)
class AddedToken:
    """A token beside the vocabulary.

    Attributes:
      id: as its file says.
      content: its spelling.
      flags: lstrip, rstrip, single_word, normalized, special.
    """

    id: int
    content: str
    flags: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """The JSON files of a published model's folder; {} for those that are not there.

    Attributes:
      folder: that holds them.
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
    def read(cls, folder: Path) -> "Facts":
        """Raises UserError where one of the files is no JSON object."""
        return cls(
            folder,
            tokenizer=read_object(folder / "tokenizer_config.json"),
            special=read_object(folder / "special_tokens_map.json"),
            added=read_object(folder / "added_tokens.json"),
            config=read_object(folder / "config.json"),
            generation=read_object(folder / "generation_config.json"),
        )

    @property
    def kind(self) -> str:
        """The family: config.json's model_type, or the tokenizer's class without "Tokenizer"."""
        named = str(self.tokenizer.get("tokenizer_class") or "")
        named = named.removesuffix("Fast").removesuffix("Tokenizer").lower()
        return str(self.config.get("model_type") or named).replace("_", "-")

    def token(self, *keys: str) -> str | None:
        """The first of these special tokens (such as "bos_token") that has a name."""
        for key in keys:
            for source in (self.tokenizer, self.special):
                value = source.get(key)
                value = value.get("content") if isinstance(value, dict) else value
                if isinstance(value, str) and value:
                    return value
        return None

    def names(self, vocab: Mapping[str, int]) -> dict[str, str | None]:
        """Which tokens of the vocabulary are called bos_token, eos_token, pad_token, mask_token."""
        spelt = {token: name for name, token in vocab.items()}

        def named(*keys: str) -> str | None:
            found = self.token(*keys)
            if found in vocab:
                return found
            key = f"{keys[0].removesuffix('_token')}_token_id"
            ids = [*_ids(self.generation.get(key)), *_ids(self.config.get(key))]
            return next((spelt[token] for token in ids if token in spelt), None)

        found = {
            "bos_token": named("bos_token", "cls_token"),
            "eos_token": named("eos_token", "sep_token"),
            "pad_token": named("pad_token"),
            "mask_token": named("mask_token"),
        }
        if self.config.get("is_encoder_decoder") or self.kind in ("t5", "mt5", "umt5"):
            # What the decoder of an encoder-decoder starts from.
            starts = _ids(self.config.get("decoder_start_token_id"))
            first = next((spelt[token] for token in starts if token in spelt), None)
            found["bos_token"] = first or found["pad_token"] or found["bos_token"]
        return found

    def stops(self, vocab: Mapping[str, int]) -> tuple[str, ...]:
        """Tokens that end a written text, as the model's own settings name them."""
        spelt = {token: name for name, token in vocab.items()}
        ids = _ids(self.generation.get("eos_token_id")) or _ids(self.config.get("eos_token_id"))
        return tuple(spelt[token] for token in ids if token in spelt)

    def added_tokens(self) -> list[AddedToken]:
        """Tokens that these files put beside the vocabulary, by id.

        Raises:
          UserError: an entry is of another form.
        """
        special = set(self._special_names())
        found: dict[str, AddedToken] = {}
        try:
            for content, number in self.added.items():
                flags = {"special": content in special, "normalized": content not in special}
                found[content] = AddedToken(int(number), content, flags)
            for number, value in (self.tokenizer.get("added_tokens_decoder") or {}).items():
                flags = {key: bool(value[key]) for key in FLAGS if key in value}
                found[value["content"]] = AddedToken(int(number), str(value["content"]), flags)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                self.folder / "tokenizer_config.json", f"has odd added tokens: {error!r}", "mend it"
            ) from error
        return sorted(found.values(), key=lambda token: token.id)

    def chat_template(self) -> str | None:
        """The default chat template; None where there is none.

        Raises:
          UserError: its file cannot be read.
        """
        path = self.folder / "chat_template.jinja"
        if path.is_file():
            try:
                return path.read_text(encoding="utf-8")
            except (OSError, ValueError) as error:
                raise UserError(path, f"cannot be read: {error}", "mend or remove it") from error
        inside = read_object(self.folder / "chat_template.json").get("chat_template")
        return _default(inside) or _default(self.tokenizer.get("chat_template"))

    def _special_names(self) -> Iterator[str]:
        for key in (*self.special, *self.tokenizer):
            if key.endswith("_token") and (token := self.token(key)):
                yield token
        for source in (self.special, self.tokenizer):
            for value in source.get("additional_special_tokens") or ():
                yield str(value.get("content") if isinstance(value, dict) else value)


FLAGS = ("lstrip", "rstrip", "single_word", "normalized", "special")


def read_object(path: Path) -> dict[str, Any]:
    """A file's JSON object; {} where there is no such file.

    Raises:
      UserError: it is something else.
    """
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(path, f"is not JSON: {error}", "mend it") from error
    if not isinstance(value, dict):
        raise UserError(path, "is not a JSON object", "mend it")
    return value


def _ids(value: Any) -> list[int]:
    values: Collection[Any] = value if isinstance(value, list) else [value]
    return [one for one in values if isinstance(one, int) and not isinstance(one, bool)]


def _default(value: Any) -> str | None:
    """A template, or the one of several that is named default."""
    if isinstance(value, list):
        named = {one.get("name"): one.get("template") for one in value if isinstance(one, dict)}
        value = named.get("default", next(iter(named.values())) if len(named) == 1 else None)
    elif isinstance(value, dict):
        value = value.get("default")
    return value if isinstance(value, str) and value else None
