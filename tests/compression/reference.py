"""The entropy coder once more, one symbol at a time in Python's own integers of any size."""

BITS = 26


def decode_stream(data, count, table):
    """Symbols of one stream, and what its state is left with above 2^8, all words used.

    table: a function from the step to its [(start, freq)].
    """
    head = (
        len(data) if len(data) <= 8 else next(n for n in (5, 6, 7, 8) if (len(data) - n) % 4 == 0)
    )
    state, words = int.from_bytes(data[:head], "little"), data[head:]
    found = []
    for step in range(count):
        target = state % (1 << BITS)
        symbol = next(i for i, (s, f) in enumerate(table(step)) if s <= target < s + f)
        start, freq = table(step)[symbol]
        state = freq * (state >> BITS) + target - start
        if state < 1 << 31 and words:
            state = (state << 32) | int.from_bytes(words[:4], "little")
            words = words[4:]
        found.append(symbol)
    assert words == b""
    return found, state - (1 << 8)
