"""The reader of fences itself."""

from __future__ import annotations

import pytest
from docs.fences import Step, is_like, steps

PAGE = """
# A page

```bash
curl -s localhost
```

```json
{"a": 1}
```

Words between.

<!-- until Ctrl-C -->
```bash
make up
```
```text
ready
```

1. in a list

   ```python title="listen.py"
   if True:
       print(1)
   ```

<!-- not run: needs Docker -->
```bash
docker compose up
```

```
$ one
two
$ three
```

<!-- until Ctrl-C -->
```
$ four
five
```

```yaml
a: 1
```
"""


def test_a_page_is_its_steps() -> None:
    assert [step._replace(line=0) for step in steps(PAGE)] == [
        Step(0, "run", "curl -s localhost", shown='{"a": 1}'),
        Step(0, "stay", "make up", shown="ready"),
        Step(0, "save", "if True:\n    print(1)", "listen.py"),
        Step(0, "skip", "docker compose up", "needs Docker"),
        Step(0, "run", "one", shown="two"),
        Step(0, "run", "three"),
        Step(0, "stay", "four", shown="five"),
    ]


def test_output_beyond_words_is_no_output() -> None:
    [step] = steps("```bash\nls\n```\nwords\n```text\nelse\n```\n")
    assert step.shown is None


@pytest.mark.parametrize(
    ("shown", "seen"),
    [
        ("ready http://127.0.0.1:6066", "ready http://127.0.0.1:41234\n"),
        ('{"price":"83423.23",\n "n":1}', '{"price": "1.5", "n": -22}'),
        ('{"a":…,"z":true}', '{"a":{"b":[1,2]},"z":true}'),
        ("at 2026-11-21T12:37:00Z, …", "at 2025-01-02T03:04:05.678Z, anything\nat all"),
        ("5 frames  in x", "1,234 frames in x"),
        ("[[1,2.5],\n…]", "[[9,8.5],[1,1]]"),
    ],
)
def test_shapes_that_are_the_same(shown: str, seen: str) -> None:
    assert is_like(shown, seen)


@pytest.mark.parametrize(
    ("shown", "seen"),
    [
        ("ready", "ready now"),
        ('{"a":1}', '{"a":1,"b":2}'),
        ('{"state":"open"}', '{"state":"closed"}'),
        ("", "candlewick: no broker"),
        ("5 frames", "frames"),
    ],
)
def test_shapes_that_are_not(shown: str, seen: str) -> None:
    assert not is_like(shown, seen)


def test_a_beginning_is_enough_of_what_goes_on() -> None:
    assert is_like("ready", "ready\nand more", beginning=True)
    assert not is_like("more", "ready\nand more", beginning=True)
