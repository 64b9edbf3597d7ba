"""A release: pruned, quantized weights as one immutable, content-hashed, memory-mappable value.

The int8 layout is a fingerprint table of cache lines. A feature costs 3.5 bytes and its lookup, found
or not, reads one line in most cases::

    64-byte line:  21 fingerprints uint16 · 21 weights int8 · 8 overflow bits

A token's hash names its home line, a 16-bit fingerprint and one of the overflow bits. Where the home line
is full, the feature moves to a line named by the hash of its hash and sets that bit on the way, so that a
lookup goes on only where it may succeed. The served weight is the code times the scale of the token's field;
a token of a field without a scale is 0 without touching the table.

Two features share a fingerprint with probability about 3·10⁻⁴: then the larger weight is served for both, and
`shared` counts them. A token that was pruned reads a stranger's weight with the same probability.

Weights that are not int8 (`Float32`, `FixedPoint`) lie in an exact open-addressing table of 12 bytes a slot.
"""

from __future__ import annotations

import math
import os
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from pruning import envelope
from pruning.errors import NonFiniteError, ParameterError
from pruning.quantization import Int8, Quantizer
from pruning.simd import lowest_bit, match_line, prefetch
from pruning.tokens import encode
from pruning.weights import Snapshot

_MAGIC = b"RECSPRUN"
_FORMAT = 1
_SLOTS = 21  # fingerprints in a line
_WEIGHTS = 42  # where the weights of a line begin
_OVERFLOW = 63  # where its overflow bits are
_LOAD = 0.88  # of the slots: a miss then reads 1.13 lines; at .94 it is 1.31 for 6 % less memory
_AHEAD = 16  # tokens whose lines are on their way while one is scored
_M1 = 0x9E3779B97F4A7C15
_M2 = 0xD6E8FEB86659FD93


class KernelArgs(NamedTuple):
    """The arrays compiled kernels read: hand them to `lookup_one`.

    Exactly one of `lines` and `wide_keys` has entries.
    """

    lines: NDArray[np.uint8]  # (L, 64)
    fingerprints: NDArray[np.uint16]  # (L, 32): the same memory
    fields: NDArray[np.int32]  # (power of two,): open addressing, −1 is free
    scales: NDArray[np.float32]  # one per entry of fields
    wide_keys: NDArray[np.uint64]  # (power of two,): open addressing, 0 is free
    wide_weights: NDArray[np.float32]


class Artefact:
    """An immutable export of a linear model.

    Build one with `Artefact.build`, read one with `Artefact.load` or `Artefact.from_bytes`.

    Examples
    --------
    >>> keys = np.array([(7 << 48) + 1, (7 << 48) + 2, (8 << 48) + 1], np.uint64)
    >>> snapshot = Snapshot(keys, np.array([.5, -1., .25]), np.ones(3), intercept=-2.)
    >>> release = Artefact.build(snapshot, np.array([True, True, False]), metadata={"parent": None})
    >>> len(release), release.lookup(keys).round(2).tolist()
    (2, [0.5, -1.0, 0.0])
    >>> release.score_many(keys, np.ones(3, np.float32), np.array([0, 3])).round(2).tolist()
    [-2.5]
    >>> Artefact.from_bytes(release.to_bytes()).version == release.version
    True
    """

    def __init__(self, data: NDArray[np.uint8]):
        meta, arrays = envelope.unseal(data, _MAGIC, _FORMAT)
        self._data = data
        self.version: str = envelope.checksum(data)[:16]
        self.metadata: dict[str, Any] = meta["metadata"]
        self.quantizer: str = meta["quantizer"]
        self.intercept: float = meta["intercept"]
        self.step: int = meta["step"]
        self.shared: int = meta["shared"]
        self._n: int = meta["n"]
        self.kernel_args = KernelArgs(
            arrays["lines"],
            arrays["lines"].view(np.uint16),
            arrays["fields"],
            arrays["scales"],
            arrays["wide_keys"],
            arrays["wide_weights"],
        )

    @classmethod
    def build(
        cls,
        snapshot: Snapshot,
        mask: NDArray[np.bool_] | None = None,
        quantizer: Quantizer | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Artefact:
        """Export the weights a mask keeps.

        Parameters
        ----------
        snapshot
            The frozen weights.
        mask
            True where a weight stays, bool (n,); None keeps every live weight.
        quantizer
            `Int8()` unless told otherwise. Weights whose code is 0 are not stored.
        metadata
            What else readers should know; JSON.

        Raises
        ------
        NonFiniteError, EmptyModelError
            If the weights cannot be exported.
        """
        snapshot.check()
        keep = snapshot.live if mask is None else np.asarray(mask, np.bool_) & snapshot.live
        if keep.shape != snapshot.keys.shape:
            raise ParameterError(f"the mask has shape {keep.shape}, the snapshot {snapshot.keys.shape}")
        quantizer = Int8() if quantizer is None else quantizer
        keys, field = snapshot.keys[keep], snapshot.field[keep]
        quantized = quantizer.quantize(snapshot.weights[keep], field)
        served = quantized.dequantize(field)
        if not np.isfinite(served).all():
            raise NonFiniteError("a weight is too large for single precision")
        order = np.lexsort((keys, -np.abs(served)))
        order = order[served[order] != 0]
        arrays, shared = (
            _pack_lines(keys[order], field[order], np.asarray(quantized.codes[order], np.int8), quantized)
            if quantized.codes.dtype == np.int8
            else _pack_wide(keys[order], served[order])
        )
        meta = {
            "metadata": dict(metadata or {}),
            "quantizer": repr(quantizer),
            "intercept": float(snapshot.intercept),
            "step": int(snapshot.step),
            "n": len(order),
            "shared": shared,
        }
        return cls(envelope.aligned(envelope.seal(_MAGIC, _FORMAT, meta, arrays)))

    def to_bytes(self) -> bytes:
        """The artefact as checksummed bytes."""
        return self._data.tobytes()

    @classmethod
    def from_bytes(cls, data: bytes | bytearray | memoryview) -> Artefact:
        """Read `to_bytes`; raises `ForeignFileError`, `NewerFormatError` or `DamagedFileError`."""
        return cls(envelope.aligned(data))

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the file so that a crash leaves the old one or the new one."""
        envelope.write_atomically(path, self.to_bytes())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Artefact:
        """Map a file; processes that load the same one share its memory."""
        return cls(envelope.map_file(path))

    def lookup(self, keys: NDArray[np.uint64]) -> NDArray[np.float32]:
        """The served weights of tokens, float32 (n,); 0 for a token that was pruned or never seen."""
        keys = np.ascontiguousarray(keys, np.uint64)
        out = np.empty(len(keys), np.float32)
        _lookup_many(self.kernel_args, keys, out)
        return out

    def score_many(
        self, keys: NDArray[np.uint64], values: NDArray[np.float32], indptr: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """The logits of encoded candidates, float64 (n,).

        Candidate i owns entries indptr[i] to indptr[i+1] of `keys` and `values`.
        """
        keys = np.ascontiguousarray(keys, np.uint64)
        values = np.ascontiguousarray(values, np.float32)
        indptr = np.ascontiguousarray(indptr, np.int64)
        if len(indptr) == 0 or indptr[0] != 0 or indptr[-1] != len(keys) or len(values) != len(keys):
            raise ParameterError(
                f"indptr does not cut {len(keys)} keys and {len(values)} values into candidates"
            )
        out = np.empty(len(indptr) - 1, np.float64)
        _score_many(self.kernel_args, self.intercept, keys, values, indptr, out)
        return out

    def contributions(self, x: Mapping[Hashable, Any]) -> dict[Hashable, float]:
        """What each feature of a River feature dict adds to the logit, the largest effect first."""
        keys, values = encode(x)
        parts = self.lookup(keys).astype(np.float64) * values
        order = np.argsort(-np.abs(parts), kind="stable")
        names = list(x)
        return {names[i]: float(parts[i]) for i in order}

    @property
    def nbytes(self) -> int:
        """Resident bytes: what the file has, header included."""
        return self._data.nbytes

    def __len__(self) -> int:
        return self._n

    def __repr__(self) -> str:
        return f"<Artefact {self.version}: {self._n:,} features, {self.nbytes:,} bytes, {self.quantizer}>"


# Building


def _pack_lines(
    keys: NDArray[np.uint64], field: NDArray[np.uint16], codes: NDArray[np.int8], quantized: Any
) -> tuple[envelope.Arrays, int]:
    lines = np.zeros((max(1, math.ceil(len(keys) / (_SLOTS * _LOAD))), 64), np.uint8)
    shared = int(_fill(lines, lines.view(np.uint16), keys, codes))
    present = np.unique(field)
    size = 16
    while size < 8 * len(present):  # sparse, so that the search never branches wrongly
        size *= 2
    fields = np.full(size, -1, np.int32)
    scales = np.zeros(size, np.float32)
    own = quantized.scales[np.searchsorted(quantized.fields, present)] if len(quantized.fields) else None
    for i, number in enumerate(present.tolist()):
        slot = number & (size - 1)
        while fields[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        fields[slot] = number
        scales[slot] = quantized.scales[0] if own is None else own[i]
    return _arrays(lines=lines, fields=fields, scales=scales), shared


def _pack_wide(keys: NDArray[np.uint64], weights: NDArray[np.float32]) -> tuple[envelope.Arrays, int]:
    size = 16
    while size * 3 < len(keys) * 4:
        size *= 2
    wide_keys, wide_weights = np.zeros(size, np.uint64), np.zeros(size, np.float32)
    _fill_wide(wide_keys, wide_weights, keys, weights)
    return _arrays(wide_keys=wide_keys, wide_weights=wide_weights), 0


def _arrays(**given: NDArray[Any]) -> envelope.Arrays:
    empty: envelope.Arrays = {
        "lines": np.empty((0, 64), np.uint8),
        "fields": np.empty(0, np.int32),
        "scales": np.empty(0, np.float32),
        "wide_keys": np.empty(0, np.uint64),
        "wide_weights": np.empty(0, np.float32),
    }
    return empty | given


# Kernels


@nb.njit(cache=True, nogil=True, inline="always")
def _hash(key):  # type: ignore[no-untyped-def]
    h = key * np.uint64(_M1)
    h = (h ^ (h >> np.uint64(32))) * np.uint64(_M2)
    return h ^ (h >> np.uint64(32))


@nb.njit(cache=True, nogil=True, inline="always")
def _home(h, n):  # type: ignore[no-untyped-def]
    return ((h >> np.uint64(32)) * np.uint64(n)) >> np.uint64(32)


@nb.njit(cache=True, nogil=True, inline="always")
def _overflow_bit(h):  # type: ignore[no-untyped-def]
    return np.uint8(np.uint64(1) << ((h >> np.uint64(16)) & np.uint64(7)))


@nb.njit(cache=True, nogil=True, inline="always")
def _fingerprint(h):  # type: ignore[no-untyped-def]
    f = h & np.uint64(0xFFFF)
    return np.uint16(f | np.uint64(f == np.uint64(0)))


@nb.njit(cache=True, nogil=True)
def _fill(lines, fingerprints, keys, codes):  # type: ignore[no-untyped-def]
    """Place features in order; count those whose fingerprint an earlier one has on their way."""
    shared = 0
    for k in range(len(keys)):
        h = _hash(keys[k])
        wanted = _fingerprint(h)
        while True:
            line = _home(h, len(lines))
            if match_line(fingerprints, line, wanted):
                shared += 1
                break
            free = match_line(fingerprints, line, np.uint16(0))
            if free:
                slot = lowest_bit(free)
                fingerprints[line, slot] = wanted
                lines[line, _WEIGHTS + slot] = np.uint8(codes[k])
                break
            lines[line, _OVERFLOW] |= _overflow_bit(h)
            h = _hash(h)
    return shared


@nb.njit(cache=True, nogil=True)
def _fill_wide(table, weights, keys, new):  # type: ignore[no-untyped-def]
    mask = np.uint64(len(table) - 1)
    for k in range(len(keys)):
        slot = _hash(keys[k]) & mask
        while table[slot] != 0:
            slot = (slot + np.uint64(1)) & mask
        table[slot] = keys[k]
        weights[slot] = new[k]


@nb.njit(cache=True, nogil=True, inline="always")
def lookup_one(args, key):  # type: ignore[no-untyped-def]
    """The served weight of a token, float32; for compiled code, `args` is `Artefact.kernel_args`."""
    if len(args.wide_keys):
        mask = np.uint64(len(args.wide_keys) - 1)
        slot = _hash(key) & mask
        while args.wide_keys[slot] != 0:
            if args.wide_keys[slot] == key:
                return args.wide_weights[slot]
            slot = (slot + np.uint64(1)) & mask
        return np.float32(0.0)
    at = _scale_of(args, key)
    return _lookup_hashed(args, _hash(key), at) if at >= 0 else np.float32(0.0)


@nb.njit(cache=True, nogil=True, inline="always")
def prefetch_one(args, key):  # type: ignore[no-untyped-def]
    """Ask for the memory that `lookup_one` will read: call it some tokens ahead."""
    if len(args.lines):
        prefetch(args.lines, _home(_hash(key), len(args.lines)))


@nb.njit(cache=True, nogil=True, inline="always")
def _scale_of(args, key):  # type: ignore[no-untyped-def]
    """Where the scale of the token's field is, or −1 when no feature of the field is left."""
    field = np.int32(key >> np.uint64(48))
    few = np.int32(len(args.fields) - 1)
    at = field & few
    while args.fields[at] != field:
        if args.fields[at] < 0:
            return np.int32(-1)
        at = (at + np.int32(1)) & few
    return at


@nb.njit(cache=True, nogil=True, inline="always")
def _lookup_hashed(args, h, at):  # type: ignore[no-untyped-def]
    """Found or not is a multiplication, not a branch: which tokens were pruned cannot be foreseen."""
    wanted = _fingerprint(h)
    while True:
        line = _home(h, len(args.lines))
        found = match_line(args.fingerprints, line, wanted)
        slot = lowest_bit(found | np.int32(1 << _SLOTS))  # one past the weights where nothing was found
        code = np.int32(np.int8(args.lines[line, _WEIGHTS + slot])) * np.int32(found != 0)
        # "Not found, and the overflow bit is set" as one comparison: the compiler would split an `and`.
        if np.int32(args.lines[line, _OVERFLOW] & _overflow_bit(h)) <= found << np.int32(8):
            return np.float32(code) * args.scales[at]
        h = _hash(h)


@nb.njit(cache=True, nogil=True)
def _lookup_many(args, keys, out):  # type: ignore[no-untyped-def]
    for i in range(len(keys)):
        out[i] = lookup_one(args, keys[i])


@nb.njit(cache=True, nogil=True)
def _score_many(args, intercept, keys, values, indptr, out):  # type: ignore[no-untyped-def]
    """Ask for the line of a token sixteen tokens before it is read: the memory works in parallel."""
    n_lines, n = len(args.lines), len(keys)
    ring = np.empty(_AHEAD, np.uint64)  # hashes of the next tokens
    if n_lines:
        for j in range(min(_AHEAD, n)):
            ring[j] = h = _hash(keys[j])
            prefetch(args.lines, _home(h, n_lines))
    for i in range(len(out)):
        logit = intercept
        for j in range(indptr[i], indptr[i + 1]):
            if n_lines:
                h = ring[j % _AHEAD]
                if j + _AHEAD < n:
                    ring[j % _AHEAD] = ahead = _hash(keys[j + _AHEAD])
                    prefetch(args.lines, _home(ahead, n_lines))
                at = _scale_of(args, keys[j])
                if at >= 0:
                    logit += _lookup_hashed(args, h, at) * values[j]
            else:
                logit += lookup_one(args, keys[j]) * values[j]
        out[i] = logit


def reference_lookup(artefact: Artefact, key: int) -> float:
    """The int8 lookup in plain Python, to read and to check the kernel against.

    >>> snapshot = Snapshot(np.array([(7 << 48) + 1], np.uint64), np.array([.5]), np.ones(1))
    >>> round(reference_lookup(Artefact.build(snapshot), (7 << 48) + 1), 6)
    0.5
    """
    args, word = artefact.kernel_args, (1 << 64) - 1

    def scramble(h: int) -> int:
        h = h * _M1 & word
        h = (h ^ h >> 32) * _M2 & word
        return h ^ h >> 32

    scales = {int(f): float(s) for f, s in zip(args.fields, args.scales, strict=True) if f >= 0}
    if key >> 48 not in scales:
        return 0.0
    h = scramble(key)
    wanted = h & 0xFFFF or 1
    while True:
        line = (h >> 32) * len(args.lines) >> 32
        held = args.fingerprints[line, :_SLOTS].tolist()
        if wanted in held:
            code = args.lines[line, _WEIGHTS + held.index(wanted)].astype(np.int8)
            return float(np.float32(code) * np.float32(scales[key >> 48]))
        if not args.lines[line, _OVERFLOW] >> (h >> 16 & 7) & 1:
            return 0.0
        h = scramble(h)
