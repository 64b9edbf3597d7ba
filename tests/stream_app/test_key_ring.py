"""Records by key in a fixed number of places."""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from stream_app.model.key_ring import KeyRing

_steps = st.lists(
    st.tuples(st.sampled_from(["put", "put", "put", "remove"]), st.integers(1, 30)), max_size=200
)


@settings(max_examples=100, deadline=None)
@given(_steps, st.integers(1, 12))
def test_a_ring_is_a_dict_that_forgets_its_oldest(steps: list[tuple[str, int]], most: int) -> None:
    """Whatever is put in and removed, what is found is what a dict of the latest keys holds."""
    ring, oracle, places = KeyRing(most, 2), {}, OrderedDict[int, int]()  # key → value, key → place
    written = taken = 0
    for value, (what, key) in enumerate(steps):
        if what == "remove":
            ring.remove(key)
            oracle.pop(key, None)
            places.pop(key, None)
            continue
        if key not in oracle:
            if written < most:
                place, written = written, written + 1
            else:
                place, taken = taken % most, taken + 1
                for old in [k for k, p in places.items() if p == place]:
                    del oracle[old], places[old]
            places[key] = place
        oracle[key] = value
        ring.put([key, value])
    assert len(ring) == len(oracle) <= most
    for key in range(1, 31):
        assert ring.get(key) == ([key, oracle[key]] if key in oracle else None)
        assert (key in ring) == (key in oracle)
    assert sorted(ring.records().tolist()) == sorted([k, v] for k, v in oracle.items())


def test_a_million_described_users_cost_less_than_100_mb() -> None:
    """Growing by quarters, 8 numbers a record, with room to find each: below 100 bytes a user at any time."""
    ring, keys = KeyRing(1_000_000, 8), np.random.default_rng(0).integers(1, 2**63, 40_000)
    for key in keys.tolist():
        ring.put([key, 1, 2, 3])
        assert ring.nbytes <= 100 * max(len(ring), 1_000)
    assert all(ring.get(key) == [key, 1, 2, 3, 0, 0, 0, 0] for key in keys[::1000].tolist())
    assert ring.get(0) is None


def test_records_come_back_oldest_first() -> None:
    """So that another ring that is filled with them goes on forgetting in the same order."""
    ring = KeyRing(3, 1)
    for key in (1, 2, 3, 4, 5):
        ring.put([key])
    assert ring.records()[:, 0].tolist() == [3, 4, 5]
