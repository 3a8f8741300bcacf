"""Make a command end with the process that started it, even one killed by SIGKILL.

`guarded(argv)` gives the argument list to start instead of `argv`: this file,
run by a bare Python. Standard library only, because that Python imports nothing
of ours and should be gone (Linux) or small (elsewhere) after some milliseconds.

On Linux the kernel does the work (prctl, PR_SET_PDEATHSIG) and the guard becomes
the command through exec: no process is left in between, the pid is the command's.
Elsewhere the guard stays, passes signals on, and kills the command when its
own parent is gone.

The kernel's notion of "parent" is the *thread* that started the process: call
from the main thread, or the command ends when the starting thread does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType

_PR_SET_PDEATHSIG = 1
"""Source: prctl(2)."""
_POLL_S = 0.5
"""How often the watcher (not Linux) looks for its parent."""
_NOT_STARTED = 127
"""What a shell answers for a command that cannot be run."""


def guarded(argv: Sequence[str]) -> list[str]:
    """Return the argument list that runs `argv` for as long as this process lives."""
    return [
        sys.executable,
        "-I",
        "-S",
        os.path.abspath(__file__),
        str(os.getpid()),
        "--",
        *argv,
    ]


def become(parent: int, argv: Sequence[str]) -> None:
    """Ask the kernel for SIGKILL at the parent's death, then turn into `argv` (Linux)."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    # The parent may have died before the call above; no signal comes for that.
    if os.getppid() == parent:
        _hear_signals()
        os.execvp(argv[0], list(argv))


def _hear_signals() -> None:
    """Take back what a parent that is about to end has ignored: the command would not even know."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)


def watch(parent: int, argv: Sequence[str]) -> int:
    """Run `argv` below this process, and kill it once `parent` is gone.

    Returns the command's exit code, 128 + N when signal N ended it.
    """
    # close_fds=False: descriptors handed to the guard (a lock) are for the command.
    _hear_signals()
    command = subprocess.Popen(list(argv), close_fds=False)

    def pass_on(number: int, _frame: FrameType | None) -> None:
        command.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, pass_on)
    while True:
        try:
            code = command.wait(timeout=_POLL_S)
        except subprocess.TimeoutExpired:
            if os.getppid() != parent:
                command.kill()
        else:
            return code if code >= 0 else 128 - code


def main(arguments: Sequence[str]) -> int:
    """Run `PARENT-PID -- COMMAND ...`; return an exit code (on Linux, only failures)."""
    if len(arguments) < 3 or arguments[1] != "--" or not arguments[0].isdecimal():
        print("usage: guard.py PARENT-PID -- COMMAND [ARGUMENT ...]", file=sys.stderr)
        return 2
    parent, argv = int(arguments[0]), arguments[2:]
    try:
        if sys.platform != "linux":
            return watch(parent, argv)
        become(parent, argv)
    except OSError as error:
        print(f"cannot start {argv[0]}: {error.strerror}", file=sys.stderr)
        return _NOT_STARTED
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
