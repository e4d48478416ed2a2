"""Tokens to text that ends before the first stop string."""

from collections.abc import Sequence

from llmjax.data.tokenizers.tokenizer import TextDecoder, Tokenizer

UNFINISHED = "\N{REPLACEMENT CHARACTER}"
"""What decoding gives for a part of a character."""


class StopStrings:
    """Lets text through up to the first stop string.

    Text comes in pieces, cut anywhere; what might be the beginning of a stop string is held back
    until it is known not to be. The stop string that is complete first counts (of several that end
    together, the longest), so the outcome does not depend on how the text was cut.

    Attributes:
      stopped: whether a stop string has come.
    """

    def __init__(self, stops: Sequence[str]):
        self.stopped = False
        self._stops = tuple(stops)
        self._held = ""

    def push(self, text: str) -> str:
        """Takes the next piece; returns what is sure to belong to the text."""
        if self.stopped:
            return ""
        text = self._held + text
        starts = {stop: text.find(stop) for stop in self._stops}
        found = [(start + len(stop), start) for stop, start in starts.items() if start >= 0]
        if found:
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        end = len(text) - self._doubtful(text)
        self._held = text[end:]
        return text[:end]

    def flush(self) -> str:
        """The text has ended: returns what was held back."""
        held, self._held = self._held, ""
        return held

    def _doubtful(self, text: str) -> int:
        """How many of the last characters could begin a stop string."""
        longest = max(map(len, self._stops), default=1) - 1
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return size
        return 0


class TextWriter:
    """Turns the tokens of one row into text as they come.

    No piece holds a part of a character; one that is unfinished when the row ends is left out.

    Attributes:
      text: all that was let through so far.
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        stops: Sequence[str],
        fresh: bool,
        before: Sequence[int] = (),
    ):
        """Args:
        tokenizer: of the tokens.
        stops: end the text, and are no part of it.
        fresh: the row is a text of its own, not the rest of its prompt.
        before: the prompt's tokens.
        """
        self.text = ""
        self._decoder = TextDecoder(tokenizer, None if fresh else before)
        self._stops = StopStrings(stops)

    @property
    def stopped(self) -> bool:
        """Whether a stop string has come."""
        return self._stops.stopped

    def push(self, token: int) -> str:
        """Takes the next token; returns the text that is now sure."""
        return self._write(self._stops.push(self._decoder.push(token)))

    def flush(self) -> str:
        """The row has ended: returns what was held back."""
        rest = self._decoder.flush().rstrip(UNFINISHED)
        return self._write(self._stops.push(rest) + self._stops.flush())

    def _write(self, text: str) -> str:
        self.text += text
        return text
