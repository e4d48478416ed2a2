"""Numbers as text."""

import pytest

from llmjax.reporting.format import count, duration, flops, percent, power, short, size, tick


@pytest.mark.parametrize(
    ("form", "value", "text"),
    [
        (count, 1234567, "1,234,567"),
        (short, 0, "0"),
        (short, 12, "12"),
        (short, 4_915_200, "4.92M"),
        (short, 999_900, "1.00M"),
        (short, 4_860_000_000, "4.86B"),
        (short, 0.01234, "0.0123"),
        (size, 1, "1 byte"),
        (size, 999, "999 bytes"),
        (size, 2_083_112, "2.08 MB"),
        (size, 8e9, "8 GB"),
        (flops, 6.6e11, "660 GFLOP/s"),
        (flops, 3.95e14, "395 TFLOP/s"),
        (power, 3e-4, "3\N{MULTIPLICATION SIGN}10⁻⁴"),
        (power, 1e14, "10¹⁴"),
        (power, 0, "0"),
        (tick, 0, "0"),
        (tick, 0.002, "0.002"),
        (tick, 1500, "1.5k"),
        (tick, 20_000, "20k"),
        (tick, -2e6, "-2M"),
        (tick, 1e-7, "10⁻⁷"),
        (duration, 0.25, "0.2 s"),
        (duration, 59.6, "1 min"),
        (duration, 232, "3 min 52 s"),
        (duration, 3600, "1 h"),
        (duration, 90_061, "1 d 1 h"),
        (percent, 0.2583, "25.8 %"),
        (percent, -0.0002, "0.0 %"),
        (percent, -0.05, "\N{MINUS SIGN}5.0 %"),
    ],
)
def test_form(form, value, text):
    assert form(value) == text


def test_signed_percent():
    assert percent(0.05, signed=True) == "+5.0 %"
    assert percent(0.0, signed=True) == "0.0 %"
