"""What scoring text found, for a person and as plain data."""

from dataclasses import dataclass
from typing import Any

from llmjax.scoring.totals import Totals


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found; print it for a table.

    Attributes:
      run: the run folder.
      step: of the checkpoint.
      data: the files, or what else was read.
      score: the sums and the figures; see Score, and DrawnScore for objectives but the causal.
      lossless: whether the tokenizer gives the text back exactly; otherwise the bits per byte are
        not those of the original text.
      seconds: wall-clock time of reading, encoding, compiling and scoring.
    """

    run: str
    step: int
    data: str
    score: Totals
    lossless: bool
    seconds: float

    @property
    def bits_per_byte(self) -> float | None:
        """Of the original text; None for objectives that give most of it."""
        return self.score.quality()["bits_per_byte"]

    @property
    def bytes(self) -> int:
        """UTF-8 bytes of the original text."""
        return self.score.bytes

    def to_dict(self) -> dict[str, Any]:
        """The figures as plain data, for JSON."""
        score = self.score
        return {
            "run": self.run,
            "step": self.step,
            "data": self.data,
            **score.quality(),
            "loss": score.loss_per_token,
            "perplexity": score.perplexity,
            "nats": score.nats,
            "tokens": score.tokens,
            "bytes": score.bytes,
            "documents": score.documents,
            "intervals": {
                name: {"low": low, "high": high} for name, (low, high) in score.intervals().items()
            },
            "context": score.context,
            "stride": getattr(score, "stride", None),
            "lossless": self.lossless,
            "seconds": self.seconds,
            "tokens_per_second": score.tokens / self.seconds,
        }

    def __str__(self) -> str:
        score, between = self.score, _between(self.score)
        words = score.words()
        first, *rest = words
        rows = {
            first: words[first] + between.get(first, ""),
            "loss": f"{score.loss_per_token:.4f} nats per token{between.get('loss', '')}",
            "perplexity": f"{score.perplexity:.4g} per token{between.get('perplexity', '')}",
            "text": f"{score.bytes:,} bytes in {score.documents:,} document"
            + ("s" if score.documents != 1 else ""),
            **{name: words[name] for name in rest},
            "time": f"{self.seconds:.1f} s, {score.tokens / self.seconds:,.0f} tokens/s",
        }
        if between:
            rows["intervals"] = "95 %, from drawing as many documents anew"
        if not self.lossless:
            rows["note"] = "the tokenizer does not give this text back exactly"
        lines = (f"  {name:15}{value}" for name, value in rows.items())
        return "\n".join([f"{self.run} at step {self.step} on {self.data}", *lines])


def _between(score: Totals) -> dict[str, str]:
    """The intervals in words, by the names that a person reads."""
    forms = {"accuracy": "{:.2%}", "perplexity": "{:.4g}"}
    found = {}
    for name, (low, high) in score.intervals().items():
        form = forms.get(name, "{:.4f}")
        found[name.replace("_", " ")] = f"   ({form.format(low)} to {form.format(high)})"
    return found
