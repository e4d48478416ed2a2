"""What Transformers' classes for tasks have on top of a family's body, as data."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from llmjax.convert.hf.names import Layout, NameTable, Row
from llmjax.tasks.heads import Neck

Use = Literal["text", "tokens", "answers"]
"""Of a head: labels or numbers for a text, for its tokens; where an answer begins and ends."""
USES = {"text": "SequenceClassification", "tokens": "TokenClassification"} | {
    "answers": "QuestionAnswering"
}

KERNEL, BIAS = Layout("o d -> d o"), Layout("o -> o")
DENSE = Layout("d e -> e d"), Layout("d -> d")


@dataclass(frozen=True)
class Top:
    """One class: what its head's parts are called, and what they compute.

    Attributes:
      architecture: the class.
      out: the last projection.
      necks: what of ours comes to the same before it.
      bias: whether the last projection has one.
      dense: the projection before it, where the neck has one.
      body: what the names of the body begin with, where it is not what the family's do.
    """

    architecture: str
    out: str
    necks: tuple[Neck, ...] = ("none",)
    bias: bool = True
    dense: str = ""
    body: str | None = None

    @property
    def pools(self) -> bool:
        """Whether the projection is a part of the body, there."""
        return self.dense.endswith("pooler.dense")

    def rows(self) -> tuple[Row, ...]:
        """The head's parameters, here under "head"."""
        found = [Row("head.out.kernel", f"{self.out}.weight", KERNEL)]
        found += [Row("head.out.bias", f"{self.out}.bias", BIAS)] if self.bias else []
        if self.dense:
            kernel, bias = DENSE
            found.append(Row("head.dense.kernel", f"{self.dense}.weight", kernel))
            found.append(Row("head.dense.bias", f"{self.dense}.bias", bias))
        return tuple(found)

    def name(self, table: NameTable, name: str) -> str:
        """What a tensor of the family's table is called in this class."""
        if self.body is None or not name.startswith(table.prefix):
            return name
        return self.body + name.removeprefix(table.prefix)


def _encoder(name: str, text: Top, out: str = "classifier", answers: str = "") -> dict[Use, Top]:
    """Tops of an encoder: only that for texts is its own."""
    necks: tuple[Neck, ...] = ("transform",) if "transform" in text.necks else ("none",)
    return {
        "text": text,
        "tokens": Top(f"{name}ForTokenClassification", out, necks),
        "answers": Top(f"{name}ForQuestionAnswering", answers or "qa_outputs", necks),
    }


def _decoder(
    name: str, tokens: str = "score", answers: str | None = "transformer."
) -> dict[Use, Top]:
    """Tops of a decoder, which have no neck.

    Args:
      name: what the classes' names begin with.
      tokens: name of the projection of tokens; "" where there is no such class.
      answers: what the body is called in the class for answers; None: there is no such class.
    """
    found: dict[Use, Top] = {
        "text": Top(f"{name}ForSequenceClassification", "score", bias=False),
    }
    if tokens:
        found["tokens"] = Top(f"{name}ForTokenClassification", tokens)
    if answers is not None:
        found["answers"] = Top(f"{name}ForQuestionAnswering", "qa_outputs", body=answers or None)
    return found


def _roberta(name: str) -> dict[Use, Top]:
    text = Top(
        f"{name}ForSequenceClassification",
        "classifier.out_proj",
        ("tanh", "pooler"),
        dense="classifier.dense",
    )
    return _encoder(name, text)


TOPS: Mapping[str, Mapping[Use, Top]] = {
    "bert": _encoder(
        "Bert",
        Top(
            "BertForSequenceClassification",
            "classifier",
            ("pooler", "tanh"),
            dense="bert.pooler.dense",
        ),
    ),
    "roberta": _roberta("Roberta"),
    "xlm-roberta": _roberta("XLMRoberta"),
    "distilbert": _encoder(
        "DistilBert",
        Top(
            "DistilBertForSequenceClassification",
            "classifier",
            ("relu",),
            dense="pre_classifier",
        ),
    ),
    "modernbert": _encoder(
        "ModernBert",
        Top("ModernBertForSequenceClassification", "classifier", ("transform",)),
        answers="classifier",
    ),
    "gpt2": _decoder("GPT2", "classifier", ""),
    "gpt_neox": _decoder("GPTNeoX", "classifier", ""),
    "llama": _decoder("Llama"),
    "mistral": _decoder("Mistral", answers=""),
    "qwen2": _decoder("Qwen2"),
    "qwen3": _decoder("Qwen3"),
    "smollm3": _decoder("SmolLM3"),
    "olmo2": _decoder("Olmo2", "", None),
    "gemma": _decoder("Gemma", answers=None),
    "gemma2": _decoder("Gemma2", answers=None),
    "gemma3_text": _decoder("Gemma3Text", "", None),
    "phi3": _decoder("Phi3", answers=None),
}
"""model_type -> its classes; there are none for encoder-decoders, whose states stand for nothing by
themselves."""
