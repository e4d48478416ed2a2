"""The prefix cache: prompts that were read recently, with their keys and values."""

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from llmjax.model.cache import Cache


class Prefix(NamedTuple):
    """The start of a prompt that need not be read: its first `length` tokens, and their cache."""

    length: int
    cache: Cache


class PrefixCache:
    """Prompts' caches; the one unused for longest goes first when they exceed `limit` positions.

    Prompts are read in chunks at multiples of `chunk`, and only whole ones are shared, or whole
    prompts. So what a position holds is always computed by a program of the same shape, whether it
    was found here or not. The tokens of an answer are therefore read once more, by the next turn.
    """

    def __init__(self, limit: int, chunk: int):
        self._limit, self._chunk = limit, chunk
        self._caches: OrderedDict[tuple[tuple[int, ...], bool], Cache] = OrderedDict()
        self.hits = 0

    @property
    def positions(self) -> int:
        """Positions that are kept."""
        return sum(cache.length for cache in self._caches.values())

    def find(self, tokens: Sequence[int], is_long: bool, *, whole: bool = False) -> Prefix | None:
        """The longest start of a prompt that is here; `whole`: only all of it.

        `is_long` is the `Cache.is_long` of the row.
        """
        prompt, best, found = tuple(tokens), 0, None
        for key in self._caches:
            shared = self._shared(prompt, key[0]) if key[1] == is_long else 0
            if shared == len(prompt) == len(key[0]) or (not whole and shared > best):
                best, found = shared, key
        if found is None:
            return None
        self._caches.move_to_end(found)
        self.hits += best
        return Prefix(best, self._caches[found])

    def add(self, tokens: Sequence[int], is_long: bool, cache: Cache) -> None:
        """Keep a prompt that has been read; prompts that it begins with are dropped."""
        prompt = tuple(tokens)
        for key in [key for key in self._caches if key[1] == is_long]:
            if self._shared(prompt, key[0]) == len(key[0]):
                del self._caches[key]
        self._caches[prompt, is_long] = cache
        while self._caches and self.positions > self._limit:
            self._caches.popitem(last=False)

    def _shared(self, prompt: tuple[int, ...], other: tuple[int, ...]) -> int:
        if prompt == other:
            return len(prompt)
        pairs = enumerate(zip(prompt, other, strict=False))
        differ = next((index for index, (a, b) in pairs if a != b), min(len(prompt), len(other)))
        return differ // self._chunk * self._chunk
