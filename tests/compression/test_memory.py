"""Memory does not grow with the input, neither in coding nor in comparing."""

import subprocess
import sys
import tracemalloc

import pytest
from compress_runs import TEXTS

from llmjax.compression.inputs import open_input
from llmjax.compression.results import compare_compressors
from llmjax.evaluation.baselines import Compressor

PEAK = """
import resource, sys
from llmjax.compression.compress import compress
compress(*sys.argv[1:], streams=64, context=8, verify=False, compare=False)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """Frames -> a file of as many: zeros, which zstd has, and a little text for the model."""
    folder, made = tmp_path_factory.mktemp("inputs"), {}
    for frames in (10, 40):
        made[frames] = folder / str(frames)
        made[frames].write_bytes((bytes(1 << 16) + TEXTS[1].encode() * 4) * (frames * 15))
    return made


@pytest.mark.once
def test_forty_frames_take_the_memory_of_ten(run, inputs, tmp_path):
    """The peak of a process, in KiB; thirty frames held would be 29,000 more."""
    peaks = []
    for frames, source in inputs.items():
        words = [sys.executable, "-c", PEAK, run, source, tmp_path / f"{frames}"]
        done = subprocess.run(list(map(str, words)), capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        peaks.append(int(done.stdout))
    assert peaks[1] - peaks[0] < 12_000


def test_comparing_holds_a_block(inputs):
    """Of what Python holds; the compressors' own windows are bounded by their settings."""

    class Counting:
        def compress(self, data):
            return data[:1]

        def flush(self):
            return b""

    compressors = [Compressor("none", lambda size: Counting(), bytes)]
    with open_input(str(inputs[10])) as source:
        tracemalloc.start()
        (baseline,) = compare_compressors(source, compressors).baselines
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert baseline.original_bytes == source.size > 9 << 20
    assert baseline.compressed_bytes == 10
    assert peak < 7 << 20
