"""Artefacts on the wire: entropy-coded, and restored to the same bytes, hence to the same version.

Fingerprints are hashes and cannot shrink; the weights beside them can: pruned, rounded weights have about 6
bits of entropy in 8. The two are separated and each is Huffman-coded where that helps.
"""

from __future__ import annotations

import zlib

import numpy as np

from pruning.artefact import Artefact
from pruning.envelope import LINE, checksum, seal, unseal
from pruning.errors import DamagedFileError

_MAGIC = b"RECSWIRE"
_FORMAT = 1
_FINGERPRINTS = 42  # bytes of a line


def to_wire(artefact: Artefact) -> bytes:
    """Entropy-code an artefact.

    Examples
    --------
    >>> from pruning.weights import Snapshot
    >>> rng = np.random.default_rng(0)
    >>> keys = np.sort(rng.integers(1 << 48, 1 << 52, 20_000).astype(np.uint64))
    >>> release = Artefact.build(Snapshot(keys, rng.normal(size=20_000) ** 3, np.ones(20_000)))
    >>> wire = to_wire(release)
    >>> len(wire) < 0.9 * release.nbytes, from_wire(wire).version == release.version
    (True, True)
    """
    raw = np.frombuffer(artefact.to_bytes(), np.uint8)
    lines = artefact.kernel_args.lines
    # The lines are the first array of the payload; what is before and after them stays together.
    start = LINE + int(raw[12:16].view("<u4")[0]) if len(lines) else len(raw)
    rest = np.concatenate([raw[:start], raw[start + lines.nbytes :]])
    planes = {
        "rest": rest.tobytes(),
        "fingerprints": np.ascontiguousarray(lines[:, :_FINGERPRINTS]).tobytes(),
        "weights": np.ascontiguousarray(lines[:, _FINGERPRINTS:].T).tobytes(),
    }
    packed = {name: _huffman(data) for name, data in planes.items()}
    sections = {name: np.frombuffer(data, np.uint8) for name, data in packed.items()}
    meta = {"version": artefact.version, "start": start, "lines": len(lines)}
    return seal(_MAGIC, _FORMAT, meta, sections)


def from_wire(data: bytes) -> Artefact:
    """Restore an artefact from `to_wire`.

    Raises
    ------
    ArtefactError
        `ForeignFileError`, `NewerFormatError` or `DamagedFileError`.

    Examples
    --------
    >>> from pruning.weights import Snapshot
    >>> release = Artefact.build(Snapshot(np.array([1], np.uint64), np.array([.5]), np.ones(1)))
    >>> wire = to_wire(release)
    >>> from_wire(wire).to_bytes() == release.to_bytes()
    True
    >>> from_wire(wire[:-1])
    Traceback (most recent call last):
        ...
    pruning.errors.DamagedFileError: expected ... bytes, got ...: the file is cut or grown
    """
    meta, sections = unseal(data, _MAGIC, _FORMAT)
    try:
        rest, fingerprints, weights = (
            np.frombuffer(zlib.decompress(sections[name].tobytes()), np.uint8)
            for name in ("rest", "fingerprints", "weights")
        )
        n, start = meta["lines"], meta["start"]
        lines = np.concatenate(
            [fingerprints.reshape(n, _FINGERPRINTS), weights.reshape(LINE - _FINGERPRINTS, n).T], axis=1
        )
        whole = np.concatenate([rest[:start], lines.ravel(), rest[start:]])
    except (zlib.error, ValueError, KeyError) as error:
        raise DamagedFileError(f"the wire format cannot be read: {error}") from error
    artefact = Artefact.from_bytes(whole.tobytes())
    if artefact.version != meta["version"] or checksum(whole)[:16] != meta["version"]:
        raise DamagedFileError("the restored artefact has another version than the one that was sent")
    return artefact


def _huffman(data: bytes) -> bytes:
    coder = zlib.compressobj(9, strategy=zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()
