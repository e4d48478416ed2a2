"""`python -m llmjax` is `llmjax`."""

import sys

from llmjax.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
