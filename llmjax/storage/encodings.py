"""What the first bytes of a text say of its encoding."""

BOM = b"\xef\xbb\xbf"
"""The byte order mark in UTF-8: a sign of the encoding, and no part of the text."""

# The longer ones first: that of UTF-32 begins like that of UTF-16.
_MARKS = {
    b"\xff\xfe\0\0": "UTF-32",
    b"\0\0\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


def other_encoding(start: bytes) -> str | None:
    """The encoding that a byte order mark names where it is not UTF-8, in a few words.

    Args:
      start: at least the first four bytes of a text, where it has as many.
    """
    for mark, name in _MARKS.items():
        if start.startswith(mark):
            return f"{name}, not UTF-8 (it begins with the byte order mark {mark.hex(' ')})"
    return None
