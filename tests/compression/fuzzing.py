"""Opens archives with random headers, in a process of limited memory.

Each must be refused by a `UserError`, or decode correctly. Prints the number of each outcome.
"""

import json
import resource
import tempfile
from collections import Counter
from pathlib import Path

from crafted import crafted, header_of
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from llmjax.compression import decoder
from llmjax.compression.decompress import decompress, inspect
from llmjax.errors import UserError
from llmjax.inference.language_model import load

MEMORY = 3 << 30

WORDS = st.sampled_from(
    ["", ".", "..", "/", "a", "a/b", "a/../b", "\0", "\ud800", "\udcff", "x" * 99]
)
NUMBERS = st.one_of(
    st.integers(-3, 70),
    st.integers(),
    st.sampled_from([2**16, 2**31, 2**56, 2**63 - 1, 2**63, -(2**63), 10**300, 1.5, 1e308]),
)
PLAIN = st.one_of(st.none(), st.booleans(), NUMBERS, WORDS, st.text(max_size=5))
MEMBERS = st.lists(st.tuples(WORDS, NUMBERS, NUMBERS, NUMBERS).map(list), max_size=3)
VALUES = st.recursive(
    PLAIN | MEMBERS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=4),
    max_leaves=8,
)


def main(run: str, archive: str) -> None:
    """Tries random headers for an archive, whose original is the file "in" beside it."""
    original = Path(archive).read_bytes()
    header, rest = header_of(original)
    lm, counts = load(run, dtype="float32"), Counter()
    decoder.load = lambda *args, **rest: lm
    expected = (Path(archive).parent / "in").read_bytes()
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))

    @settings(
        max_examples=30,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(
        st.dictionaries(st.sampled_from([*header, "mode", "time", "other"]), VALUES, max_size=2),
        st.sets(st.sampled_from(list(header)), max_size=1),
    )
    def try_header(changes, missing):
        made = {name: value for name, value in (header | changes).items() if name not in missing}
        with tempfile.TemporaryDirectory() as folder:
            bad, out = Path(folder, "bad"), Path(folder, "out")
            bad.write_bytes(crafted(json.dumps(made).encode(), rest))
            try:
                inspect(bad)
                counts["shown"] += 1
                decompress(run, bad, out)
                counts["right"] += 1
                assert out.read_bytes() == expected
            except UserError:
                counts["refused"] += 1
                assert {path.name for path in Path(folder).iterdir()} == {"bad"}

    try_header()
    print(json.dumps(counts))
