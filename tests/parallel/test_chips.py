"""The table of accelerators."""

from llmjax.parallel.chips import CHIPS, GIB, chip_of


def test_devices_are_found_by_their_whole_names():
    found = chip_of("NVIDIA H100 80GB HBM3")
    assert found is not None
    assert found.flops == 989e12
    assert chip_of("NVIDIA H100") is None  # half a name is no name
    kinds = [kind for chip in CHIPS.values() for kind in chip.kinds]
    assert len(set(kinds)) == len(kinds)


def test_every_number_has_a_source_and_is_plausible():
    for chip in CHIPS.values():
        assert chip.source.startswith("https://"), chip.name
        assert 1e13 < chip.flops < 1e16, chip.name
        assert 4 * GIB < chip.memory < 300 * GIB, chip.name
        assert 1e11 < chip.bandwidth < 1e13, chip.name
        assert 1e9 < chip.network <= chip.link < 2e12, chip.name
        # 16 and 4 are the widths at which slices of these tori close.
        assert chip.platform == "gpu" or chip.wraps(16), chip.name


def test_products_of_eight_bits_are_twice_as_fast():
    for chip in CHIPS.values():
        for dtype in ("int8", "fp8"):
            peak = chip.narrow_flops(dtype)
            assert peak is None or abs(peak / chip.flops / 2 - 1) < 0.02, chip.name


def test_clocks_agree_with_the_peaks():
    """Four matrix units of 128 x 128 (v4, v5p: eight; v6e: four of 256 x 256), two FLOPs each."""
    for name, units, width in (("v4", 8, 128), ("v5e", 4, 128), ("v5p", 8, 128), ("v6e", 4, 256)):
        chip = CHIPS[name]
        assert chip.clock is not None
        assert abs(units * width**2 * 2 * chip.clock / chip.flops - 1) < 0.03
