"""A second implementation of the entropy decoder, one symbol at a time in Python integers."""

BITS = 26


def decode_stream(data, count, table):
    """Decodes a stream; returns the symbols and the final state minus 2^8 (the checksum).

    table: maps a step to its [(start, freq)].
    """
    head = (
        len(data) if len(data) <= 8 else next(n for n in (5, 6, 7, 8) if (len(data) - n) % 4 == 0)
    )
    state, words = int.from_bytes(data[:head], "little"), data[head:]
    symbols = []
    for step in range(count):
        target = state % (1 << BITS)
        symbol = next(i for i, (s, f) in enumerate(table(step)) if s <= target < s + f)
        start, freq = table(step)[symbol]
        state = freq * (state >> BITS) + target - start
        if state < 1 << 31 and words:
            state = (state << 32) | int.from_bytes(words[:4], "little")
            words = words[4:]
        symbols.append(symbol)
    assert words == b""
    return symbols, state - (1 << 8)
