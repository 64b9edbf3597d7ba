"""Releases and overlays as bytes."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning import Artefact, Int8, SaliencyPruner, snapshot
from stream_app.errors import ReleaseError
from stream_app.model.learning import ranker_step
from stream_app.model.release import Overlay, Release, Tables, version_of
from tests.stream_app.worlds import Pair, random_events


@pytest.fixture(scope="module")
def pair() -> Pair:
    """A learner of 400 events."""
    return Pair().run(random_events(400))


@pytest.fixture(scope="module")
def release(pair: Pair) -> Release:
    """A pruned release of that learner."""
    learner = pair.learner
    frozen = snapshot(learner.ranker)
    ranker = Artefact.build(frozen, SaliencyPruner(0.5).compute_mask(frozen), Int8())
    return Release(ranker, ranker_step(learner.ranker), learner.tables(learner.all_rows(), 15))


def assert_same(a: Tables, b: Tables) -> None:
    """Bit-equal tables."""
    for field in fields(Tables):
        x, y = getattr(a, field.name), getattr(b, field.name)
        assert (x.dtype == y.dtype and (x == y).all()) if isinstance(x, np.ndarray) else x == y


def test_a_release_survives_its_bytes(release: Release) -> None:
    """Ranker, steps and tables come back, and the same release has the same name."""
    data = release.to_bytes()
    again = Release.from_bytes(data)
    assert again.ranker.version == release.ranker.version and again.ranker_step == release.ranker_step
    assert_same(again.tables, release.tables)
    assert again.to_bytes() == data and len(version_of(data)) == 16


def test_an_overlay_survives_its_bytes(pair: Pair) -> None:
    """Weights and tables come back."""
    overlay = pair.learner.overlay(100, 500, 15)
    again = Overlay.from_bytes(overlay.to_bytes())
    assert (again.weights_keys == overlay.weights_keys).all() and (again.weights == overlay.weights).all()
    assert_same(again.tables, overlay.tables)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**9), st.integers(1, 255))
def test_damage_is_noticed(release: Release, place: int, flip: int) -> None:
    """Whichever byte changes, nothing is served from it, and the name no longer fits."""
    data = release.to_bytes()
    bad = bytearray(data)
    bad[place % len(bad)] ^= flip
    with pytest.raises(ReleaseError, match="the release cannot be read"):
        Release.from_bytes(bytes(bad))
    assert version_of(bytes(bad)) != version_of(data)


def test_a_release_is_no_overlay(release: Release, pair: Pair) -> None:
    """Each is refused in the other's place, and so are cut bytes."""
    with pytest.raises(ReleaseError, match="the overlay cannot be read"):
        Overlay.from_bytes(release.to_bytes())
    overlay = pair.learner.overlay(0, 0, 15).to_bytes()
    for bad in (overlay, overlay[:-1], b""):
        with pytest.raises(ReleaseError, match="the release cannot be read"):
            Release.from_bytes(bad)
