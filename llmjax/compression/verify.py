"""Decodes an archive from standard input and keeps nothing.

Run as `python -m llmjax.compression.verify RUN`.

Exit code 0 where all of it comes out with the original's SHA-256; else 2, and a line on stdout.
"""

import sys
from collections.abc import Sequence

from llmjax.compression.archive import Archive
from llmjax.compression.engine import Engine
from llmjax.compression.progress import end_line, line_progress, no_progress
from llmjax.compression.sources import STREAM, opened
from llmjax.compression.visible import visible
from llmjax.errors import UserError


def main(words: Sequence[str]) -> int:
    """Args:
    words: the run folder, and --show for progress on stderr.
    """
    progress = line_progress() if "--show" in words else no_progress
    try:
        with opened(STREAM) as spool:
            engine = Engine(words[0], Archive.open(spool))
            engine.decode(lambda data: None, "Verifying", progress)
    except UserError as error:
        print(visible(str(error)))
        return 2
    finally:
        end_line()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
