"""Decodes an archive from standard input and keeps nothing: `python -m llmjax.compress.verify RUN`.

Exit code 0 where all of it comes out with the original's SHA-256; else 2, and a line on stdout.
"""

import sys
from collections.abc import Sequence

from llmjax.compress.decompressing import decode_archive
from llmjax.compress.members import spooled_input
from llmjax.compress.progress import end_line, line_progress, no_progress
from llmjax.errors import UserError


def main(words: Sequence[str]) -> int:
    """Args:
    words: the run folder, and --show for progress on stderr.
    """
    progress = line_progress() if "--show" in words else no_progress

    def shown(stage: str, done: float, total: int, written: float) -> None:
        progress("Verifying", done, total, written)

    with spooled_input() as (spool, _):
        try:
            decode_archive(words[0], spool, lambda data: None, shown)
        except UserError as error:
            print(error)
            return 2
        finally:
            end_line()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
