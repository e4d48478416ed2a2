"""Incremental decoding of tokens to text, with stop strings."""

from collections.abc import Sequence

from llmjax.data.tokenizers.tokenizer import TextDecoder, Tokenizer

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What an incomplete character decodes to."""


class StopStrings:
    """Passes on text up to the first stop string.

    Text arrives in arbitrary pieces; a possible prefix of a stop string is held back until it is
    decided. The first stop string to be complete ends the text (of several that end together, the
    longest), so the result does not depend on how the text was cut.

    Attributes:
      stopped: whether a stop string was found.
    """

    def __init__(self, stops: Sequence[str]):
        self.stopped = False
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> str:
        """Take the next piece; return the text that is decided."""
        if self.stopped:
            return ""
        text = self._held + text
        starts = {stop: text.find(stop) for stop in self._stops}
        matches = [(start + len(stop), start) for stop, start in starts.items() if start >= 0]
        if matches:
            self.stopped, self._held = True, ""
            return text[: min(matches)[1]]
        end = len(text) - self._undecided(text)
        self._held = text[end:]
        return text[:end]

    def flush(self) -> str:
        """End the text: return what was held back."""
        held, self._held = self._held, ""
        return held

    def _undecided(self, text: str) -> int:
        """Count the last characters that may start a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0


class TextWriter:
    """Decodes the tokens of one row incrementally.

    No piece has an incomplete character; one that is incomplete at the end is dropped.

    Attributes:
      text: the text so far.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        fresh: bool,
        before: Sequence[int] = (),
    ):
        """Args:
        tokenizer: the model's tokenizer.
        stops: stop strings, which are not part of the text.
        fresh: whether the row starts a new text rather than continuing its prompt.
        before: the prompt's tokens.
        """
        self.text = ""
        self._decoder = TextDecoder(tokenizer, None if fresh else before)
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string was found."""
        return self._stops.stopped

    def push(self, token: int) -> str:
        """Take the next token; return the text that is now decided."""
        return self._write(self._stops.push(self._decoder.push(token)))

    def flush(self) -> str:
        """End the row: return what was held back."""
        rest = self._decoder.flush().rstrip(UNFINISHED)
        return self._write(self._stops.push(rest) + self._stops.flush())

    def _write(self, text: str) -> str:
        self.text += text
        return text
