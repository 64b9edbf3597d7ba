"""Workers come and go under load; every event has its effect once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stream_app.events import encode_event, encode_item
from stream_app.simulator import Shop
from tests.integration.harness import SMALL, Deployment
from tests.integration.verifier import check_examples, check_users, recompute


@contextmanager
def load(system: Deployment, shop: Shop) -> Iterator[None]:
    """Send about a thousand events per second, in a thread, until the context ends."""
    stop, failed = threading.Event(), []

    def send() -> None:
        events = shop.events(1_000_000)
        try:
            while not stop.wait(0.1):
                chunk = [next(events) for _ in range(100)]
                system.send_events((e.user_id.encode(), encode_event(e)) for e in chunk)
        except Exception as error:
            failed.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    assert not failed, failed


def test_second_worker_joins_and_leaves_under_load(deploy: Callable[..., Deployment]) -> None:
    """A worker takes partitions under load and gives them back; SIGTERM ends both in order and in time."""
    shop = Shop(5, n_items=200, n_users=200)
    system = deploy(**(SMALL | {"partitions": 4}))
    system.send(system.settings.items_topic, ((i.item_id.encode(), encode_item(i)) for i in shop.items()))
    first, second = system.start("worker", wait=False), None
    with load(system, shop):
        system.until(lambda: first.ready and first.metric("events") > 500, "the first works")
        second = system.start("worker", wait=False)
        system.until(lambda: second.ready and second.metric("events") > 500, "the second has its share")
        before = first.metric("events")
        system.until(lambda: first.metric("events") > before + 200, "the first goes on")
        assert second.terminate() == 0
        before = first.metric("events")
        system.until(lambda: first.metric("events") > before + 500, "the first goes on alone")
        assert first.terminate() == 0
    third = system.start("worker", wait=False)
    system.until_consumed()
    assert third.metric("events_skipped") == 0, "who ends in order has committed everything"
    expected = recompute(system.ledger, system.settings)
    check_users(system, expected)
    check_examples(system, expected)
