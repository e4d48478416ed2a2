"""`llmjax tokenizer train`."""

from dataclasses import dataclass, field

from llmjax.cli.command import Call, Command, Output
from llmjax.data.config import DataConfig
from llmjax.data.progress import terminal_progress
from llmjax.data.text.corpus import train_tokenizer
from llmjax.data.tokenizers.config import SentencePieceConfig


@dataclass(frozen=True)
class Options:
    """Options of tokenizer train, those of `train_tokenizer`."""

    data: DataConfig = field(default_factory=DataConfig)
    """The text to train on, without its validation documents."""
    tokenizer: SentencePieceConfig = field(default_factory=SentencePieceConfig)
    """The tokenizer to train."""


def run(call: Call[Options]) -> Output:
    """Trains the tokenizer; prints its folder, size and fingerprint."""
    folder, options = call.words[0], call.options
    with terminal_progress() as progress:
        tokenizer = train_tokenizer(options.tokenizer, options.data, folder, progress)
    data = {
        "tokenizer": folder,
        "vocab_size": tokenizer.vocab_size,
        "fingerprint": tokenizer.fingerprint,
    }
    text = f"{folder}: {tokenizer.vocab_size} tokens, fingerprint {tokenizer.fingerprint}"
    return Output(data, text)


TOKENIZER = Command(
    about="Trains a lossless SentencePiece model (decoding restores every text exactly) and writes "
    "it to a folder. `llmjax train` does this by itself; use it to share one tokenizer between "
    "runs: llmjax train CONFIG --tokenizer FOLDER/sentencepiece.model",
    positionals=("train", "FOLDER"),
    usage="[--data.sources FILE ...] [--tokenizer.vocab-size N]",
    options=Options,
    run=run,
    compiles=False,
)
