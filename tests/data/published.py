"""Small folders in the form of published models with SentencePiece."""

import io
import json

import sentencepiece

LINES = [
    "the quick brown fox jumps over the lazy dog, and the cat sat on the mat; the hat was 12345",
    "Ein Hund läuft über die Straße. Zwei Männer stehen am Haus und schauen nach den Vögeln!",
    "naïve café, 你好世界 Привет мир: judge my vow, for the king is here and there",
    "What light through yonder window breaks? It is the east and Juliet is the sun.",
] * 30
PARTS = {"unk_id": 0, "bos_id": 1, "eos_id": 2}
IDENTITY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
LLAMA = {"model_type": "bpe", "byte_fallback": True, "vocab_size": 680, **IDENTITY, **PARTS}
UNIGRAM = {"model_type": "unigram", "vocab_size": 300, "hard_vocab_limit": False}


def write(folder, **files):
    folder.mkdir(exist_ok=True)
    for name, value in files.items():
        (folder / f"{name}.json").write_text(json.dumps(value))
    return folder


def sentencepiece_model(path, **options):
    """Trains a model and writes it to a file; returns SentencePiece's processor."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(LINES), model_writer=model, minloglevel=2, **options
    )
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())


def t5(folder):
    sentencepiece_model(folder / "spiece.model", **UNIGRAM, pad_id=0, eos_id=1, unk_id=2, bos_id=-1)
    config = {"model_type": "t5", "is_encoder_decoder": True, "decoder_start_token_id": 0}
    settings = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return write(folder, config=config, tokenizer_config=settings)


def llama(folder):
    sentencepiece_model(folder / "tokenizer.model", **LLAMA)
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": False}
    settings |= {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True}
    return write(
        folder,
        config={"model_type": "llama"},
        tokenizer_config=settings,
        generation_config={"eos_token_id": [2, 5]},
    )


def xlm_roberta(folder):
    sentencepiece_model(folder / "sentencepiece.bpe.model", **UNIGRAM, **PARTS)
    return write(folder, config={"model_type": "xlm-roberta"})
