"""``docs/benchmarks.md`` and ``docs/benchmarks.svg``, from ``build/bench.json``. Pure, but for the files."""

from __future__ import annotations

from html import escape
from pathlib import Path

import msgspec

from bench.bars import BARS
from bench.kept import Kept, read
from bench.peers.race import SAMPLE_S, Entry, Standing
from models.errors import CandlewickError

DOCS = Path(__file__).resolve().parents[2] / "docs"
MEBI = 2**20

HEAD = """\
# Benchmarks

<!-- `python -m bench --write-docs` writes this page: change bench/peers/page.py instead. -->

How fast Candlewick makes candles, what a trade costs, and how soon it is back; beside the engines that
could be used instead.
"""

MUST = """\
## What it must reach

Medians; what is behind each stands in the sections below and in [bench/](../bench/README.md).

| figure | must be | seen | |
|---|---:|---:|---|
"""

SIGNS = {">=": "≥", "<": "<"}

RACE = """\
## Beside other engines

Candles from a log of trades: one machine, one broker, one topic, the systems in turn. {source}

![Trades a second of each system](benchmarks.svg)
"""

SECTIONS = {
    "catch-up": "Catch-up, 8 products",
    "catch-up-800": "Catch-up, 800 products",
    "catch-up-live-log": "Catch-up, a log of small batches",
    "book-fold": "The fold of books alone",
    "latency": "From the exchange's wire to a candle",
    "web": "Questions while trades come in",
    "push": "Many listeners",
    "browser": "From the wire to the dashboard",
    "scaling": "Two workers",
    "trade-cost": "What a trade costs, by length of the log and number of products",
    "recovery": "Ready again after a kill -9",
    "soak": "Memory over half an hour",
    "producer-memory": "Memory of the producer, 400 products with books",
    "worker-memory": "Memory of the worker, 400 products with books",
}
"""By measurement; bench/README.md says what each one is."""

COLUMNS = (
    "| system | trades/s, median | min to max | of Candlewick | cores | CPU s a million | peak memory "
    "| state on disk | trades a run |\n|---|---:|---:|---:|---:|---:|---:|---:|---:|\n"
)

OURS = {
    True: "Candlewick's are asked for at `/stats`, and\n  must have no gaps and duplicates besides.",
    False: "Of Candlewick, this race compared less: the count, gaps and\n  duplicates of "
    "every product, and the volume of one in each partition.",
}
"""By whether every candle was compared."""

ONE = """\
Candlewick always folds three windows: it has no figure here, and the others are compared with the one above.

"""

METHOD = """\
### How it was measured

- The topic `trades`: {trades:,} trades of {products} products in {partitions} partitions, one trade a
  record as the producers write it (JSON, headers, zstd), {batch_records:,} records to a Kafka batch, a
  million to the hour of event time. Slow systems stop after a first part of it; the last column says how
  many trades.
- Work: open, high, low, close, volume, quote volume and count, by symbol, in tumbling windows of event
  time.
- Rounds: {had}, with every system once in each. Each run is a new process with a new consumer group
  and an empty state folder; the topics that it made are deleted after it. The broker (embedded, one JVM)
  runs on the same cores.
- Timed from the first trade to the moment when the candles of the last one can be seen. Candlewick: from
  tables ready until `/stats` has the last trade of every partition, asked every 10 ms. Kafka Streams:
  until the last `aggregate`, then its stores are queried. Quix Streams and Faust: until the last update.
  Bytewax: until the last candle is emitted. Start and stop are not timed, a JVM's warming up is; nobody
  waits for a commit at the end, so what is visible then may not be durable yet.
- A run counts only when its candles are right: every one of every window is compared with the log,
  exactly, or to 1e-9 where sums are floats. {ours}
  A run that is wrong is shown as wrong, and gives no figure.
- Cores: processor time of the process and its children, over the time measured. Memory: resident, the
  highest of samples {sample_ms:.0f} ms apart or less, from the start of the process; a JVM takes what
  its default heap lets it. State: what its folder takes on disk after a stop; changelogs in Kafka are
  not in it.
- Settings are each system's defaults but where the table above says otherwise. One process, and one
  thread or worker that folds, each.
- Kafka Streams, Bytewax, Quix Streams and Faust compute anything; Candlewick computes candles and book
  statistics.
"""

AGAIN = """\
## Run it again

    make bench ARGS='--only latency'              # one measurement of the first table, by its name
    make bench ARGS='--only peers'                # some 13 minutes on two quiet cores
    make bench ARGS='--only peers --quick'        # does it work
    .venv/bin/python -m bench --write-docs        # this page, from build/bench.json

The Python peers are installed into `build/peers/venv` from `bench/peers/requirements.txt`, and Kafka
Streams is built with Maven where there is one; neither is a dependency of Candlewick. What cannot be had
is left out by name. The programs are in [bench/peers/](../bench/peers/).
"""


class NothingKept(CandlewickError):
    """There is no outcome to write about."""


def write(results: Path) -> list[Path]:
    """Write page and picture; return their paths.

    Raises:
        NothingKept: no race of peers was kept.
    """
    kept = read(results)
    if kept.peers is None:
        raise NothingKept(f"{results.name} has no peers: run `python -m bench --only peers` first")
    page, picture = DOCS / "benchmarks.md", DOCS / "benchmarks.svg"
    page.write_text(markdown(kept, kept.peers), encoding="utf-8")
    picture.write_text(svg(kept.peers), encoding="utf-8")
    return [page, picture]


def markdown(kept: Kept, standing: Standing) -> str:
    """Return the page."""
    parts = [HEAD, _must_reach(kept), RACE.format(source=_source(kept, "peers"))]
    for windows in dict.fromkeys(entry.windows for entry in standing.entries):
        entries = [entry for entry in standing.entries if entry.windows == windows]
        rows = "".join(_row(entry) for entry in entries)
        note = "" if entries[0].name == standing.ours.name else ONE
        parts.append(f"### {_spoken(windows)}\n\n{note}{COLUMNS}{rows}")
    parts.append(_promises(standing))
    facts = msgspec.structs.asdict(standing)
    ours = OURS[standing.every_candle]
    parts.append(METHOD.format(**facts, had=_rounds(standing), ours=ours, sample_ms=SAMPLE_S * 1000))
    parts += [_section(kept, title, name) for name, title in SECTIONS.items()]
    parts.append(AGAIN)
    parts.append(_machine(kept, standing))
    return "\n".join(part for part in parts if part)


def _must_reach(kept: Kept) -> str:
    """Return the table of all that must be reached, then a line for each that is not, or not known."""
    rows = ""
    failed = [
        f"- Failed: `{name}`, {_cell(failure.why)}. {_source(kept, name)}\n"
        for name, failure in kept.failed.items()
    ]
    missed: list[str] = []
    partly: list[str] = []
    unknown: dict[str, None] = {}
    for bar in BARS:
        value = bar.see(kept)
        limit = f"{SIGNS[bar.need.sign]} {number(bar.need.limit)} {bar.unit}"
        if isinstance(value, str) and (failure := kept.failed.get(bar.only)):
            seen, verdict = "", f"failed: {_cell(failure.why)}"
        elif isinstance(value, str):
            seen, verdict = "", "not measured"
            if value:
                partly.append(f"- Not measured in full: {bar.what} ({value}).\n")
            else:
                unknown[bar.only] = None
        elif bar.need.is_met(value):
            seen, verdict = number(value), "met"
        else:
            seen, verdict = number(value), "**not met**"
            note = bar.note(kept)
            missed.append(f"- Not met: {bar.what} is {seen}, must be {limit}{note and f' ({note})'}.\n")
        rows += f"| {bar.what} | {limit} | {seen} | {verdict} |\n"
    names = ", ".join(f"`{name}`" for name in unknown)
    left = f"Without figures so far: {names}.\n" if unknown else ""
    after = "\n".join(filter(None, ("".join(failed + missed + partly), left)))
    return f"{MUST}{rows}" + (after and f"\n{after}")


def _section(kept: Kept, title: str, name: str) -> str:
    """Return the table of one measurement, nothing if it was not made."""
    own = [figure for figure in kept.figures if figure.measurement == name]
    if not own:
        return ""
    rows = "".join(
        f"| {figure.name} | {number(figure.median)} | {number(figure.min)} to {number(figure.max)} "
        f"| {figure.unit} | {figure.needs or ''} |\n"
        for figure in own
    )
    head = "| | median | min to max | | must be |\n|---|---:|---:|---|---|\n"
    runs = len(own[0].runs)
    spoken = f", {runs} run{'s' if runs > 1 else ''}" if runs else ""
    return f"## {title}\n\n{head}{rows}\n`{name}`{spoken}. {_source(kept, name)}\n"


def _source(kept: Kept, name: str) -> str:
    """Say when and of which commit a measurement is, and what was not as in the race (see Machine)."""
    start, race = kept.start_of(name), kept.start_of("peers")
    if start is None:
        return f"Measured {_minute(kept.began(name))}; machine and commit were not kept."
    commit = f"commit {start.commit}" if start.commit else "its commit was not kept"
    differs = start.differs(race) if name != "peers" else {}
    others = "".join(f"; {what} {value}" for what, value in differs.items() if what != "commit")
    return f"Measured {_minute(start.began)}, {commit}{others}."


def _minute(began: str) -> str:
    return f"{began[:10]} {began[11:16]} UTC" if began else "at a time that was not kept"


def _rounds(standing: Standing) -> str:
    done, asked = standing.done, standing.rounds
    return f"{asked}" if done >= asked else f"{done} whole ones of {asked}, then it was broken off"


def _machine(kept: Kept, standing: Standing) -> str:
    """Return what the race was run on."""
    start = kept.start_of("peers")
    if start is None:
        return "## Machine\n\nOn what the race was run was not kept.\n"
    facts = {
        "Measured": _minute(start.began),
        **start.facts(),
        "Java of Kafka Streams": standing.java,
    }
    rows = "".join(f"| {name} | {value} |\n" for name, value in facts.items())
    return f"## Machine\n\nOf the race; other sections say where theirs differs.\n\n| | |\n|---|---|\n{rows}"


def number(value: float) -> str:
    """Write three significant digits, or all before the point."""
    if value >= 1e6:
        return f"{value / 1e6:.1f} M"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _spoken(windows: tuple[str, ...]) -> str:
    return f"{', '.join(windows[:-1])} and {windows[-1]}" if len(windows) > 1 else f"{windows[0]} alone"


def _cell(text: str) -> str:
    """Return text that breaks no table."""
    return escape(text.replace("|", "/"), quote=False)


def _row(entry: Entry) -> str:
    wrong = f"; {len(entry.wrong)} wrong" if entry.wrong else ""
    if not entry.runs:
        why = (
            f"left out: {entry.absent}"
            if entry.absent
            else f"wrong: {entry.wrong[-1] if entry.wrong else ''}"
        )
        return f"| {entry.title} | {_cell(why)} | | | | | | | {entry.trades:,} |\n"
    cells = (
        entry.title,
        f"**{entry.middle('trades_s'):,.0f}**",
        f"{min(entry.speeds):,.0f} to {max(entry.speeds):,.0f}{wrong}",
        share(entry.ratio),
        f"{entry.middle('cores'):.2f}",
        f"{entry.middle('cpu_s_million'):,.1f}",
        f"{entry.middle('peak_rss') / MEBI:,.0f} MiB",
        _on_disk(entry.middle("state_bytes")),
        f"{entry.trades:,}",
    )
    return f"| {' | '.join(cells)} |\n"


def _on_disk(size: float) -> str:
    """Return bytes in MiB, or in KiB where they are few."""
    if not size:
        return "none"
    return f"{size / MEBI:,.1f} MiB" if size >= MEBI / 10 else f"{size / 1024:.0f} KiB"


def share(ratio: float | None) -> str:
    """Return a ratio in per cent, with two digits where it is small."""
    percent = 100 * (ratio or 0)
    return f"{percent:.0f} %" if percent >= 10 else f"{percent:.2g} %"


def _promises(standing: Standing) -> str:
    by_name = {entry.name: entry for entry in standing.entries}
    rows = "".join(
        f"| {entry.title} | {entry.how} | {entry.promise} | {entry.loses} |\n" for entry in by_name.values()
    )
    return (
        "### What each promises\n\nSpeed is worth what the numbers are worth after a crash. With the "
        "settings measured here:\n\n"
        "| system | computes with, keeps state | a trade counts | a kill -9 loses |\n"
        f"|---|---|---|---|\n{rows}"
    )


WIDTH, LEFT, RIGHT, TOP, GAP, BAR = 760, 200, 80, 66, 14, 16
LEAST_LINE = 3
"""Pixels: a shorter line would be a blot."""
STYLE = """\
  text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
  .title { font-weight: 600; font-size: 15px; }
  .small { font-size: 11px; fill: #59636e; }
  .all { fill: #0969da; } .one { fill: #80b3ea; } .paper { fill: #ffffff; }
  .halo { stroke: #ffffff; stroke-width: 4; } .span { stroke: #1f2328; stroke-width: 1.5; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3; } .small { fill: #9198a1; } .paper { fill: #0d1117; }
    .all { fill: #4493f8; } .one { fill: #27528a; } .halo { stroke: #0d1117; } .span { stroke: #e6edf3; }
  }
"""


def svg(standing: Standing) -> str:
    """Return a bar for each median, with a line from the slowest run to the fastest."""
    sets = list(dict.fromkeys(entry.windows for entry in standing.entries))
    kinds = dict(zip(sets, ("all", "one"), strict=False))
    titles = list(dict.fromkeys(entry.title for entry in standing.entries))
    fastest = max((max(entry.speeds) for entry in standing.entries if entry.runs), default=1.0)
    scale = (WIDTH - LEFT - RIGHT) / fastest
    shapes = [f'<text class="title" x="{LEFT}" y="24">Trades a second, median of {standing.done} runs</text>']
    for index, (windows, kind) in enumerate(kinds.items()):
        x = LEFT + index * 130
        shapes.append(f'<rect class="{kind}" x="{x}" y="36" width="12" height="12" rx="2"/>')
        shapes.append(f'<text class="small" x="{x + 18}" y="46">{_spoken(windows)}</text>')
    x = LEFT + len(kinds) * 130
    shapes += _line(x, x + 24, 42)
    shapes.append(f'<text class="small" x="{x + 32}" y="46">slowest to fastest run</text>')
    y = TOP
    for title in titles:
        entries = [entry for entry in standing.entries if entry.title == title]
        height = len(entries) * (BAR + 2) - 2
        shapes.append(
            f'<text x="{LEFT - 10}" y="{y + height / 2 + 4.5}" text-anchor="end">{escape(title)}</text>'
        )
        for place, entry in enumerate(entries):
            shapes += _bar(entry, y + place * (BAR + 2), kinds[entry.windows], scale)
        y += height + GAP
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {y}" width="{WIDTH}" '
            f'height="{y}" role="img" aria-label="Trades a second of each system">',
            f"<style>\n{STYLE}</style>",
            f'<rect class="paper" width="{WIDTH}" height="{y}"/>',
            *shapes,
            "</svg>\n",
        ]
    )


def _bar(entry: Entry, y: int, kind: str, scale: float) -> list[str]:
    bottom = y + BAR - 4
    if not entry.runs:
        word = "left out" if entry.absent else "wrong"
        return [f'<text class="small" x="{LEFT + 4}" y="{bottom}">{word}</text>']
    median = entry.middle("trades_s")
    width = max(1.0, median * scale)
    low, high = (LEFT + speed * scale for speed in (min(entry.speeds), max(entry.speeds)))
    return [
        f'<rect class="{kind}" x="{LEFT}" y="{y}" width="{width:.1f}" height="{BAR}" rx="2"/>',
        *(_line(low, high, y + BAR / 2) if high - low >= LEAST_LINE else ()),
        f'<text class="small" x="{max(high, LEFT + width) + 8:.1f}" y="{bottom}">{median:,.0f}</text>',
    ]


def _line(low: float, high: float, y: float) -> list[str]:
    """Return a line with an end mark at each side, on a lighter one that sets it off from the bar."""
    path = f"M{low:.1f} {y - 4}V{y + 4}M{low:.1f} {y}H{high:.1f}M{high:.1f} {y - 4}V{y + 4}"
    return [f'<path class="{kind}" d="{path}" fill="none"/>' for kind in ("halo", "span")]
