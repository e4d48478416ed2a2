"""Open a folder in the layout of the Hugging Face hub."""

import logging
from pathlib import Path

from llmjax.convert.hf.config import read_object
from llmjax.convert.hf.multimodal import is_multimodal, text_model
from llmjax.convert.hf.quantized import widened
from llmjax.convert.hf.safetensors import INDEX, NAMED, SINGLE, open_folder
from llmjax.convert.hf.sentence import read_sentence
from llmjax.convert.sources import ADAPTER, Importer, Published
from llmjax.data.tokenizers.huggingface.importing import import_tokenizer
from llmjax.errors import UserError

log = logging.getLogger(__name__)


class HFImporter(Importer):
    """config.json, safetensors and tokenizer files, optionally of a sentence-transformers model."""

    @staticmethod
    def reads(path: Path) -> bool:
        return path.is_dir()

    @staticmethod
    def open(source: str, path: Path) -> Published:
        sentence = read_sentence(path)
        folder = path / sentence.path
        has_config, has_adapters, *has_weights = (
            (folder / name).exists() for name in ("config.json", ADAPTER, SINGLE, INDEX)
        )
        if has_adapters and not (has_config and any(has_weights)):
            fix = "import it with --base RUN, the run of its base model"
            raise UserError(path, "holds adapters alone", fix)
        if not has_config:
            raise UserError(path, "has no config.json", "give the folder of a model")
        config = read_object(folder / "config.json")
        tensors = widened(open_folder(folder, config.get(NAMED)), config, folder / "config.json")
        if is_multimodal(config):
            config, tensors = text_model(config, tensors, folder / "config.json")
        if has_adapters:
            log.warning(
                "%s: the adapters beside the model (%s) are not imported; import them with --base "
                "and the new run",
                folder,
                ADAPTER,
            )
        generation = folder / "generation_config.json"
        return Published(
            source=source,
            format="hf",
            where=folder / "config.json",
            config=config,
            tensors=tensors,
            tokenizer=lambda rows: import_tokenizer(folder, rows),
            generation_config=read_object(generation) if generation.exists() else None,
            sentence=sentence,
        )
