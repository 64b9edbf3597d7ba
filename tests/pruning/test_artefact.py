"""Artefacts: small, exact to their codes, and refused when a bit is wrong."""

from pathlib import Path

import numba as nb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pruning import (
    Artefact,
    ArtefactError,
    DamagedFileError,
    EmptyModelError,
    Float32,
    ForeignFileError,
    Int8,
    KernelArgs,
    NewerFormatError,
    NonFiniteError,
    Snapshot,
    lookup_one,
    prefetch_one,
)
from pruning.fingerprints import reference_lookup
from pruning.transport import from_wire, to_wire


def make(n: int, seed: int = 0, fields: int = 9) -> Snapshot:
    rng = np.random.default_rng(seed)
    keys = np.unique(
        (rng.integers(1, fields + 1, n).astype(np.uint64) * np.uint64(977) << np.uint64(48))
        | rng.integers(1, 1 << 48, n).astype(np.uint64)
    )
    return Snapshot(keys, rng.normal(size=len(keys)), rng.random(len(keys)), intercept=-1.5, step=n)


@pytest.mark.parametrize("quantizer", [Int8(), Int8("table"), Float32()])
def test_lookup_serves_the_quantized_weights(quantizer: Int8 | Float32) -> None:
    """Every kept feature reads its rounded weight; all but the features that share a fingerprint."""
    s = make(20_000)
    release = Artefact.build(s, quantizer=quantizer)
    expected = quantizer.quantize(s.weights, s.field).dequantize(s.field)
    wrong = int(((release.lookup(s.keys) != expected) & (expected != 0)).sum())
    assert wrong <= release.shared < 2e-3 * len(s)
    assert release.shared == 0 or not isinstance(quantizer, Float32)


def test_the_kernel_equals_the_reference() -> None:
    """The compiled lookup and the plain Python one agree on present and absent tokens."""
    s = make(3_000)
    release = Artefact.build(s, np.arange(len(s)) % 2 == 0)
    served = release.lookup(s.keys)
    assert [reference_lookup(release.kernel_args, int(k)) for k in s.keys] == served.tolist()


def test_pruned_tokens_read_zero() -> None:
    """A pruned token reads 0: always if its field is dropped, else in all but few of a thousand lookups."""
    s = make(40_000)
    dropped = s.field == s.field[0]
    release = Artefact.build(s, (np.arange(len(s)) % 10 == 0) & ~dropped)
    gone = release.lookup(s.keys[np.arange(len(s)) % 10 != 0])
    assert (gone != 0).mean() < 2e-3
    assert not release.lookup(s.keys[dropped]).any()


def test_scores_are_sums_of_contributions() -> None:
    """A logit is the intercept plus the contributions of its features."""
    s = make(500)
    release = Artefact.build(s)
    keys, values = s.keys[:7], np.linspace(-1, 1, 7).astype(np.float32)
    parts = release.contributions({int(k): float(v) for k, v in zip(keys, values, strict=True)})
    logit = release.score_many(keys, values, np.array([0, 7, 7]))
    assert logit[0] == pytest.approx(-1.5 + sum(parts.values()), abs=1e-5)
    assert logit[1] == -1.5


def test_a_million_features_cost_less_than_three_and_a_half_bytes_each() -> None:
    """The table, the header and the scales together stay below 3.5 bytes per kept feature."""
    release = Artefact.build(make(200_000))
    assert release.nbytes / len(release) < 3.5


def test_files_round_trip_and_equal_content_has_one_version(tmp_path: Path) -> None:
    """A saved artefact loads as the same bytes; the version follows from the content alone."""
    release = Artefact.build(make(1000), metadata={"parent": "x"})
    release.save(tmp_path / "a.bin")
    loaded = Artefact.load(tmp_path / "a.bin")
    assert loaded.to_bytes() == release.to_bytes()
    assert loaded.version == release.version == Artefact.build(make(1000), metadata={"parent": "x"}).version
    assert loaded.version != Artefact.build(make(1000), metadata={"parent": "y"}).version
    assert loaded.metadata == {"parent": "x"}
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_any_flipped_bit_or_cut_is_refused(data: st.DataObject) -> None:
    """No damaged byte string is ever parsed into an artefact."""
    good = bytearray(Artefact.build(make(100)).to_bytes())
    if data.draw(st.booleans()):
        good[data.draw(st.integers(0, len(good) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del good[data.draw(st.integers(0, len(good) - 1)) :]
    with pytest.raises(ArtefactError):
        Artefact.from_bytes(bytes(good))


def test_foreign_newer_and_damaged_files_have_their_own_errors() -> None:
    """The error says whether to look for another file, upgrade, or fetch it again."""
    good = Artefact.build(make(100)).to_bytes()
    with pytest.raises(ForeignFileError):
        Artefact.from_bytes(b"PK\x03\x04" + good)
    with pytest.raises(NewerFormatError):
        Artefact.from_bytes(good[:8] + b"\x09" + good[9:])
    with pytest.raises(DamagedFileError):
        Artefact.from_bytes(good[:-1])


def test_models_that_cannot_be_exported_are_refused() -> None:
    """NaN weights and models without a live weight raise named errors."""
    s = make(10)
    bad = Snapshot(s.keys, np.full(len(s), np.nan), s.curvature)
    with pytest.raises(NonFiniteError):
        Artefact.build(bad)
    with pytest.raises(EmptyModelError):
        Artefact.build(Snapshot(s.keys, np.zeros(len(s)), s.curvature))


@pytest.mark.parametrize("quantizer", [Int8(), Float32()])
def test_the_wire_restores_the_same_bytes(quantizer: Int8 | Float32) -> None:
    """Entropy coding is lossless, smaller for int8, and damage is found."""
    release = Artefact.build(make(5000), quantizer=quantizer, metadata={"a": 1})
    wire = to_wire(release)
    assert from_wire(wire).to_bytes() == release.to_bytes()
    assert len(wire) < release.nbytes
    with pytest.raises(ArtefactError):
        from_wire(wire[:-1])
    with pytest.raises(ForeignFileError):
        from_wire(release.to_bytes())


@nb.njit
def dot(args: KernelArgs, keys: np.ndarray) -> float:
    total = 0.0
    for i in range(len(keys)):
        prefetch_one(args, keys[min(i + 4, len(keys) - 1)])
        total += lookup_one(args, keys[i])
    return total


@pytest.mark.parametrize("quantizer", [Int8(), Float32()])
def test_other_compiled_code_reads_the_table(quantizer: Int8 | Float32) -> None:
    """`lookup_one` inside a foreign kernel gives what `lookup` gives, from memory and from a mapped file."""
    s = make(300)
    release = Artefact.build(s, quantizer=quantizer)
    again = Artefact.from_bytes(release.to_bytes())
    for artefact in (release, again):
        assert dot(artefact.kernel_args, s.keys) == pytest.approx(
            float(release.lookup(s.keys).sum()), abs=1e-4
        )
