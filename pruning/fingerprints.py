"""The table of a served artefact: fingerprints and 8-bit weights in cache lines, with its kernels.

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
from collections.abc import Mapping
from typing import Any, NamedTuple

import numba as nb
import numpy as np
from numpy.typing import NDArray

from pruning.simd import lowest_bit, match_line, prefetch

_SLOTS = 21  # fingerprints in a line
_WEIGHTS = 42  # where the weights of a line begin
_OVERFLOW = 63  # where its overflow bits are
_LOAD = 0.88  # of the slots: a miss then reads 1.13 lines; at .94 it is 1.31 for 6 % less memory
_AHEAD = 16  # tokens whose lines are on their way while one is scored
_M1 = 0x9E3779B97F4A7C15
_M2 = 0xD6E8FEB86659FD93


class KernelArgs(NamedTuple):
    """The arrays that compiled code reads: hand them to `lookup_one`.

    Exactly one of `lines` and `wide_keys` has entries.

    Examples
    --------
    >>> from pruning import Artefact, Snapshot
    >>> keys = np.array([(7 << 48) + 1, (7 << 48) + 2], np.uint64)
    >>> release = Artefact.build(Snapshot(keys, np.array([.5, -1.]), np.ones(2)))
    >>> args = release.kernel_args
    >>> args.lines.shape, len(args.wide_keys), args.lines.flags.writeable
    ((1, 64), 0, False)
    >>> float(lookup_one(args, keys[1]))
    -1.0
    """

    lines: NDArray[np.uint8]  # (L, 64)
    fingerprints: NDArray[np.uint16]  # (L, 32): the same memory
    fields: NDArray[np.int32]  # (power of two,): open addressing, −1 is free
    scales: NDArray[np.float32]  # one per entry of fields
    wide_keys: NDArray[np.uint64]  # (power of two,): open addressing, 0 is free
    wide_weights: NDArray[np.float32]


def kernel_args(arrays: Mapping[str, NDArray[Any]]) -> KernelArgs:
    """The arrays of a table in the order that kernels expect."""
    lines = arrays["lines"]
    rest = (arrays[name] for name in ("fields", "scales", "wide_keys", "wide_weights"))
    return KernelArgs(lines, lines.view(np.uint16), *rest)


def pack_lines(
    keys: NDArray[np.uint64],
    codes: NDArray[np.int8],
    fields: NDArray[np.uint16],
    scales: NDArray[np.float32],
) -> tuple[dict[str, NDArray[Any]], int]:
    """Lay out int8 weights, the earliest key first where two share a fingerprint.

    Parameters
    ----------
    keys, codes
        Tokens and their codes, (n,), the most important first.
    fields, scales
        The scale of every field, (F,); one scale and no field where one serves all.

    Returns
    -------
    The arrays of `KernelArgs`, and how many keys share a fingerprint with an earlier one.
    """
    lines = np.zeros((max(1, math.ceil(len(keys) / (_SLOTS * _LOAD))), 64), np.uint8)
    shared = int(_fill(lines, lines.view(np.uint16), keys, codes))
    present = np.unique((keys >> np.uint64(48)).astype(np.uint16))
    size = 16
    while size < 8 * len(present):  # sparse, so that the search never branches wrongly
        size *= 2
    field_table, scale_table = np.full(size, -1, np.int32), np.zeros(size, np.float32)
    own = scales[np.searchsorted(fields, present)] if len(fields) else np.full(len(present), scales[0])
    for number, scale in zip(present.tolist(), own, strict=True):
        slot = number & (size - 1)
        while field_table[slot] >= 0:
            slot = (slot + 1) & (size - 1)
        field_table[slot], scale_table[slot] = number, scale
    return _arrays(lines=lines, fields=field_table, scales=scale_table), shared


def pack_wide(keys: NDArray[np.uint64], weights: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Lay out float weights in the exact table."""
    size = 16
    while size * 3 < len(keys) * 4:
        size *= 2
    wide_keys, wide_weights = np.zeros(size, np.uint64), np.zeros(size, np.float32)
    _fill_wide(wide_keys, wide_weights, keys, weights)
    return _arrays(wide_keys=wide_keys, wide_weights=wide_weights)


def _arrays(**given: NDArray[Any]) -> dict[str, NDArray[Any]]:
    empty: dict[str, NDArray[Any]] = {
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
    """The served weight of a token, float32; for compiled code, `args` is `Artefact.kernel_args`.

    >>> from pruning import Artefact, Snapshot
    >>> keys = np.array([(7 << 48) + 1, (7 << 48) + 2], np.uint64)
    >>> release = Artefact.build(Snapshot(keys, np.array([.5, -1.]), np.ones(2)))
    >>> @nb.njit
    ... def total(args, keys):
    ...     logit = 0.0
    ...     for key in keys:
    ...         logit += lookup_one(args, key)
    ...     return logit
    >>> round(total(release.kernel_args, keys), 2)
    -0.5
    """
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
    """Ask for the memory that `lookup_one` will read: call it some tokens ahead.

    >>> from pruning import Artefact, Snapshot
    >>> keys = np.array([(7 << 48) + 1, (7 << 48) + 2], np.uint64)
    >>> release = Artefact.build(Snapshot(keys, np.array([.5, -1.]), np.ones(2)))
    >>> @nb.njit
    ... def total(args, keys):
    ...     logit = 0.0
    ...     for i in range(len(keys)):
    ...         prefetch_one(args, keys[min(i + 8, len(keys) - 1)])
    ...         logit += lookup_one(args, keys[i])
    ...     return logit
    >>> round(total(release.kernel_args, keys), 2)
    -0.5
    """
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
def lookup_many(args, keys, out):  # type: ignore[no-untyped-def]
    """Write the served weights of tokens to `out`, float32 (n,)."""
    for i in range(len(keys)):
        out[i] = lookup_one(args, keys[i])


@nb.njit(cache=True, nogil=True)
def score_many(args, intercept, keys, values, indptr, out):  # type: ignore[no-untyped-def]
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


def reference_lookup(args: KernelArgs, key: int) -> float:
    """The int8 lookup in plain Python, to read and to check the kernel against.

    >>> key = (7 << 48) + 1
    >>> keys, codes, fields = np.array([key], np.uint64), np.array([50], np.int8), np.array([7], np.uint16)
    >>> arrays, _ = pack_lines(keys, codes, fields, np.array([.01], np.float32))
    >>> round(reference_lookup(kernel_args(arrays), key), 6)
    0.5
    """
    word = (1 << 64) - 1

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
