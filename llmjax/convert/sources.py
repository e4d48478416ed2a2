"""Where a published model comes from: a folder, the hub, a GGUF file, a sample."""

import logging
import re
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmjax.convert.hf.reading import read_object
from llmjax.convert.hf.sentence import Sentence, read_sentence
from llmjax.convert.hf.weight_files import INDEX, NAMED, SINGLE, open_folder
from llmjax.convert.samples import sample_path
from llmjax.convert.tensors import TensorSource
from llmjax.data.tokenizers.tokenizer import Tokenizer
from llmjax.errors import UserError

ADAPTER = "adapter_config.json"
"""What PEFT writes beside adapters."""

log = logging.getLogger(__name__)

HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?(@[\w./-]+)?")
HUB_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]
"""What is fetched: no program, and no pickle."""
OTHER_FORMS = ["consolidated*", "original/*", "onnx/*", "openvino/*"]
"""The same weights once more, in forms that are not read here."""


@dataclass(frozen=True)
class Published:
    """A published model, opened; nothing of its weights is read yet."""

    source: str
    """As the user said it."""
    format: str
    """hf or gguf."""
    where: Path
    """For messages: its config.json, or the file."""
    config: dict[str, Any]
    """config.json, or what it would be."""
    tensors: TensorSource
    tokenizer: Callable[[int], Tokenizer]
    """Of the rows of the embedding."""
    generation: dict[str, Any] | None = None
    """generation_config.json."""
    sentence: Sentence = field(default_factory=Sentence)


def open_source(source: str) -> Published:
    """Opens what `llmjax import` is given.

    Args:
      source: a folder, a .gguf file, sample:NAME, or a name on the Hugging Face hub
        (owner/name, with @revision).

    Raises:
      UserError: there is no such thing, or it cannot be read.
    """
    if source.startswith("sample:"):
        return _open_path(source, sample_path(source.removeprefix("sample:")))
    path = Path(source).expanduser()
    if path.exists():
        return _open_path(source, path)
    if path.suffix in (".gguf", ".safetensors", ".bin") or not HUB_NAME.fullmatch(source):
        raise UserError(source, "no such file or folder", "check the path")
    return _open_path(source, _download(source))


def _open_path(source: str, path: Path) -> Published:
    if path.is_dir():
        return _open_hf(source, path)
    if path.suffix == ".gguf":
        return _open_gguf(source, path)
    raise UserError(
        path, "is neither a folder nor a .gguf file", "give the folder that has its config.json"
    )


def _open_hf(source: str, folder: Path) -> Published:
    from llmjax.data.tokenizers.huggingface.importing import import_tokenizer

    sentence = read_sentence(folder)
    inner = folder / sentence.path
    names = ("config.json", ADAPTER, SINGLE, INDEX)
    stated, adapted, *weights = ((inner / name).exists() for name in names)
    if adapted and not (stated and any(weights)):
        raise UserError(folder, "holds adapters alone", "--base RUN: of the model they are for")
    if not stated:
        raise UserError(folder, "has no config.json", "it is not the folder of a model")
    config = read_object(inner / "config.json")
    tensors = open_folder(inner, config.get(NAMED))
    if adapted:
        log.warning(
            "%s: adapters lie beside the model (%s), and are left out; then import them with "
            "--base and the run that is made now",
            inner,
            ADAPTER,
        )
    generation = inner / "generation_config.json"
    return Published(
        source=source,
        format="hf",
        where=inner / "config.json",
        config=config,
        tensors=tensors,
        tokenizer=lambda rows: import_tokenizer(inner, rows),
        generation=read_object(generation) if generation.exists() else None,
        sentence=sentence,
    )


def _open_gguf(source: str, path: Path) -> Published:
    from llmjax.convert.gguf.reading import open_gguf
    from llmjax.convert.gguf.tokenizer import tokenizer_files
    from llmjax.data.tokenizers.huggingface.importing import import_tokenizer

    opened = open_gguf(path)

    def tokenizer(rows: int) -> Tokenizer:
        files = tokenizer_files(opened.file)
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                (Path(folder) / name).write_bytes(content)
            return import_tokenizer(Path(folder), rows)

    return Published(source, "gguf", path, opened.config, opened, tokenizer)


def _download(name: str) -> Path:
    """The folder of a model in the hub's cache, fetched where it is not there yet.

    HF_HUB_OFFLINE, HF_HOME and HF_TOKEN are honoured.
    """
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import (
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
    except ImportError as error:
        raise UserError(
            name,
            "no such file or folder; a model of the hub needs huggingface_hub",
            "check the path, or pip install 'llmjax[hub]'",
        ) from error
    repository, _, revision = name.partition("@")
    try:
        found = snapshot_download(
            repository,
            revision=revision or None,
            allow_patterns=HUB_FILES,
            ignore_patterns=OTHER_FORMS,
        )
    except HFValidationError as error:
        raise UserError(name, "no such file or folder, and no name on the hub") from error
    except LocalEntryNotFoundError as error:
        raise UserError(
            name,
            "no such file or folder, and the hub cannot be reached for it",
            "check the path, or go online once: then it is in the cache",
        ) from error
    except (HfHubHTTPError, OSError) as error:
        reason = str(error).strip().splitlines()
        raise UserError(
            name, f"cannot be fetched from the hub: {reason[0] if reason else type(error).__name__}"
        ) from error
    return Path(found)
