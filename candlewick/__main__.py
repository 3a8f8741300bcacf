"""``python -m candlewick``: the same as ``candlewick``."""

from candlewick.cli import main

main()
