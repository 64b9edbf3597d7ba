"""Places where a test can make the process die or stand still.

`FAILPOINT=worker.after_send:kill` in the environment, or `worker.after_send:kill:3` the third time; with
`stop` the process is suspended until somebody sends SIGCONT.
"""

from __future__ import annotations

import os
import signal
from collections import Counter

_passed: Counter[str] = Counter()


def failpoint(name: str) -> None:
    """Die here by SIGKILL, or stop by SIGSTOP, if the environment asks for it; otherwise do nothing."""
    wanted = os.environ.get("FAILPOINT")
    if not wanted:
        return
    place, _, rest = wanted.partition(":")
    action, _, turn = rest.partition(":")
    if place == name and action in ("kill", "stop"):
        _passed[name] += 1
        if action == "kill" and _passed[name] >= int(turn or 1):
            os.kill(os.getpid(), signal.SIGKILL)
        if action == "stop" and _passed[name] == int(turn or 1):
            os.kill(os.getpid(), signal.SIGSTOP)
