"""Tokenizers as they were published before tokenizer.json: WordPiece and byte-level BPE."""

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors as post

from llmjax.data.tokenizers.limits import FILE_SIZE, MAX_MERGES, MAX_TOKENS, at_most, check_ids
from llmjax.data.tokenizers.metadata import Facts
from llmjax.errors import UserError
from llmjax.storage.bounded import read_bytes
from llmjax.storage.json_documents import DOCUMENT, read_json


def wordpiece(facts: Facts) -> Tokenizer:
    """BERT's vocab.txt (Devlin et al. 2018, arXiv:1810.04805): a piece a line, its number the id.

    Raises:
      UserError: it lacks [UNK], [CLS] or [SEP].
    """
    path, settings = facts.folder / "vocab.txt", facts.tokenizer
    lines = _text(path).removesuffix("\n").split("\n")
    at_most(MAX_TOKENS, len(lines), "tokens", path)
    vocab = {line.rstrip("\r"): number for number, line in enumerate(lines)}
    unknown = facts.token("unk_token") or "[UNK]"
    first = facts.token("cls_token") or "[CLS]"
    last = facts.token("sep_token") or "[SEP]"
    for token in (unknown, first, last):
        if token not in vocab:
            raise UserError(path, f"has no {token}", "check special_tokens_map.json")
    inner = Tokenizer(models.WordPiece(vocab, unk_token=unknown, max_input_chars_per_word=100))
    inner.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece(prefix="##")
    inner.post_processor = post.TemplateProcessing(
        single=f"{first}:0 $A:0 {last}:0",
        pair=f"{first}:0 $A:0 {last}:0 $B:1 {last}:1",
        special_tokens=[(first, vocab[first]), (last, vocab[last])],
    )
    others = [facts.token("pad_token") or "[PAD]", facts.token("mask_token") or "[MASK]"]
    special = [token for token in (unknown, first, last, *others) if token in vocab]
    inner.add_special_tokens(special)
    return inner


def byte_level(facts: Facts) -> Tokenizer:
    """GPT-2's vocab.json and merges.txt (Radford et al. 2019), RoBERTa's too.

    Raises:
      UserError: another model's, whose way of cutting words these files do not tell.
    """
    roberta = facts.kind in ("roberta", "bart", "longformer")
    if not roberta and facts.kind not in ("gpt2", "gpt-neo", "gptj", "opt", ""):
        reason = f"does not tell how {facts.kind} cuts words"
        raise UserError(facts.folder / "merges.txt", reason, "a tokenizer.json is needed")
    path = facts.folder / "vocab.json"
    vocab = read_json(path, limits=DOCUMENT)
    at_most(MAX_TOKENS, len(vocab), "tokens", path)
    check_ids(vocab.values(), path)
    lines = _text(facts.folder / "merges.txt").split("\n")
    at_most(MAX_MERGES, len(lines), "merges", facts.folder / "merges.txt")
    pairs = [line.rstrip("\r").split(" ") for line in lines if not line.startswith("#version")]
    merges = [(pair[0], pair[1]) for pair in pairs if len(pair) == 2]
    inner = Tokenizer(models.BPE(vocab, merges))
    space = bool(facts.tokenizer.get("add_prefix_space", False))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=space)
    inner.decoder = decoders.ByteLevel()
    if not roberta:
        end = facts.token("eos_token") or "<|endoftext|>"
        inner.post_processor = post.ByteLevel(trim_offsets=False)
        inner.add_special_tokens([end] if end in vocab else [])
        return inner
    first, last = facts.token("cls_token") or "<s>", facts.token("sep_token") or "</s>"
    mask = facts.token("mask_token") or "<mask>"
    inner.post_processor = post.RobertaProcessing(
        (last, vocab[last]), (first, vocab[first]), trim_offsets=True, add_prefix_space=space
    )
    plain = [token for token in (first, "<pad>", last, "<unk>") if token in vocab]
    # The mask takes the space before it, so that "a <mask>" is a word and a mask.
    masks = [AddedToken(mask, lstrip=True, normalized=False, special=True)] if mask in vocab else []
    inner.add_special_tokens([*plain, *masks])
    return inner


def _text(path: Path) -> str:
    """As Python reads a text file: a line may end with a carriage return too."""
    text = read_bytes(path, FILE_SIZE).decode("utf-8")
    return text.replace("\r\n", "\n").replace("\r", "\n")
