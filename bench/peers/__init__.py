"""Side by side: the same log of trades, on the same broker and cores, folded into candles by others.

`race` runs them in turn, `truth` knows the right candles, `systems` says who takes part and what each
promises, `environment` installs them, and `page` writes ``docs/benchmarks.md``. What runs is in
``programs/`` and ``streams/``.
"""
