"""Where the time of an event goes: a `recs` role with a sampler beside it, that sorts what it sees by step.

    RECS_STEPS_FILE=… python -m benchmarks.steps worker

A thread looks at the stacks of the others every 2 ms. The innermost function that the table below knows names
the step; a thread that waits counts for nothing. Compiled code shows as the function that called it. When the
role ends, the shares are written as JSON. The process is slower for it, so what is measured runs without.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections import Counter
from pathlib import Path
from types import FrameType

PERIOD_S = 0.002
WAITING = {("selectors.py", "select"), ("threading.py", "wait"), ("thread.py", "_worker"),
           ("threading.py", "join"), ("socketserver.py", "serve_forever")}  # fmt: skip
STEPS = {
    "worker": {
        "poll": ("aiokafka/consumer", "transport.py:poll", "aiokafka/record"),
        "decode": ("worker.py:_decode", "events/"),
        "users": ("user_table.py:load", "worker.py:_load", "recommender.py:missing", "user_table.py:advance"),
        "states": ("user_table.py:pack_all",),
        "apply": ("recommender.py:apply", "recommender.py:_observe", "recommender.py:_judged"),
        "examples": ("recommender.py:_examples", "examples.py:"),
        "refresh": ("recommender.py:_top",),
        "lists": ("recommender.py:lists",),
        "encode": ("store.py:lists_json",),
        "redis": ("store.py:", "redis/", "hiredis"),
        "send": ("aiokafka/producer", "transport.py:send"),
        "commit": ("transport.py:commit",),
        "model": ("served_model.py:", "release.py:", "worker.py:_sync"),
        "kafka client": ("aiokafka/",),
    },
    "learner": {
        "poll": ("aiokafka/consumer", "transport.py:poll", "aiokafka/record"),
        "decode": ("examples.py:from_bytes", "examples.py:"),
        "numbers": ("learning.py:_numbers", "item_index.py:"),
        "drift": ("learning.py:_watch", "drift.py:"),
        "ranker": ("ranker.py:", "learning.py:learn_pairs"),
        "counts and links": ("learning.py:_learn_chunk", "learning.py:learn"),
        "guard": ("releasing.py:_replay", "releasing.py:_decide", "releasing.py:_watch", "guard.py:"),
        "release": ("releasing.py:", "agent.py:", "artefact.py:", "pruners.py:"),
        "overlay": ("learning.py:overlay", "learning.py:tables", "learner.py:_push_overlay", "release.py:"),
        "shared lists": ("shared.py:", "learner.py:_publish_shared"),
        "checkpoint": ("learner.py:_checkpoint", "learning.py:to_bytes", "checkpoints.py:"),
        "redis": ("store.py:", "redis/"),
        "kafka client": ("aiokafka/",),
    },
}  # fmt: skip


def step_of(frame: FrameType | None, role: str) -> str | None:
    """The step that a stack is in, None when the thread waits."""
    if frame is None or (os.path.basename(frame.f_code.co_filename), frame.f_code.co_name) in WAITING:
        return None
    while frame is not None:
        place = f"{frame.f_code.co_filename}:{frame.f_code.co_name}"
        for step, marks in STEPS[role].items():
            if any(mark in place for mark in marks):
                return step
        frame = frame.f_back
    return "other"


class Sampler:
    """Counts what the other threads are doing."""

    def __init__(self, role: str) -> None:
        self.role = role
        self.counts: Counter[str] = Counter()
        self._has_begun = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="sampler", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def _watch(self) -> None:
        own = threading.get_ident()
        while not self._stop.is_set():
            time.sleep(PERIOD_S)
            for thread, frame in sys._current_frames().items():
                step = None if thread == own else step_of(frame, self.role)
                if step is not None:
                    self.counts[step] += 1
                if step == "decode" and not self._has_begun:  # what came before was the start
                    self._has_begun = True
                    self.counts.clear()

    def shares(self) -> dict[str, float]:
        """Share of each step in all that was seen working, the largest first; ends the sampler."""
        self._stop.set()
        self._thread.join()
        total = sum(self.counts.values())
        return {step: count / total for step, count in self.counts.most_common()}


def main() -> None:
    """Run a role like `recs`, and write down where its time went."""
    from stream_app.cli import main as recs  # noqa: PLC0415  after the sampler's own imports

    sampler = Sampler(sys.argv[1])
    sampler.start()
    try:
        recs()
    finally:
        Path(os.environ["RECS_STEPS_FILE"]).write_text(json.dumps(sampler.shares()))


if __name__ == "__main__":
    main()
