"""Formats numbers and texts for the page."""

import math
import unicodedata

_SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
_SCALES = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k"))
_SECONDS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def count(value: float) -> str:
    """Formats an integer: 1234567 -> 1,234,567."""
    return f"{value:,.0f}"


def short(value: float) -> str:
    """Formats three digits and a scale: 4915200 -> 4.92M; small numbers without scale."""
    for scale, letter in _SCALES:
        if abs(value) >= 0.9995 * scale:
            return f"{_digits(value / scale)}{letter}"
    return _digits(value)


def _digits(value: float) -> str:
    """Formats three significant digits; integers without decimals."""
    if value == round(value) or abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:#.3g}".rstrip(".")


def size(value: float) -> str:
    """Formats bytes in decimal units: 2200000 -> 2.20 MB."""
    for scale, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if value >= 0.9995 * scale:
            return f"{_digits(value / scale)} {unit}"
    return f"{value:.0f} byte{'' if value == 1 else 's'}"


def flops(value: float) -> str:
    """Formats operations per second: 6.6e11 -> 660 GFLOP/s."""
    for scale, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M")):
        if value >= 0.9995 * scale:
            return f"{_digits(value / scale)} {unit}FLOP/s"
    return f"{value:.0f} FLOP/s"


def power(value: float, places: int = 2) -> str:
    """Formats scientific notation with a superscript exponent, such as 3 x 10^-4."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    mantissa, exponent = f"{value:.{places}e}".split("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    factor = "10" + str(int(exponent)).translate(_SUPERSCRIPTS)
    return factor if mantissa == "1" else f"{mantissa}\N{MULTIPLICATION SIGN}{factor}"


def tick(value: float) -> str:
    """Formats a label on an axis: 0.002, 1.5, 20k, 2M."""
    if value == 0:
        return "0"
    if abs(value) >= 1e15 or abs(value) < 1e-3:
        return power(value)
    for scale, letter in _SCALES:
        if abs(value) >= scale:
            return f"{value / scale:.6g}{letter}"
    return f"{value:.6g}"


def duration(seconds: float) -> str:
    """Formats the two largest units: 232 -> 3 min 52 s."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    remaining = round(seconds)
    parts: list[str] = []
    for unit, length in _SECONDS:
        if remaining >= length or parts:
            parts.append(f"{remaining // length} {unit}")
            remaining %= length
    return " ".join(part for part in parts[:2] if not part.startswith("0 "))


def percent(share: float, places: int = 1, *, signed: bool = False) -> str:
    """Formats a fraction in percent, with a typographic minus sign; none before a rounded 0."""
    if round(100 * share, places) == 0:
        return f"{0:.{places}f} %"
    return f"{100 * share:{'+' if signed else ''}.{places}f} %".replace("-", "\N{MINUS SIGN}")


def show_controls(text: str) -> str:
    """Makes control characters visible, and replaces unpaired surrogates."""
    pictures = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\n\t"}
    valid = text.encode("utf-8", "replace").decode("utf-8").translate(pictures)
    return "".join(c if c in "\n\t" or unicodedata.category(c) != "Cc" else "\ufffd" for c in valid)
