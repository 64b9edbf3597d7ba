"""A release: pruned, quantized weights as one immutable, content-hashed, memory-mappable value.

The table inside is `pruning.fingerprints`: int8 weights cost 3.5 bytes a feature, its key included.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning import envelope
from pruning.errors import NonFiniteError, ParameterError
from pruning.fingerprints import (
    KernelArgs,
    kernel_args,
    lookup_many,
    lookup_one,
    pack_lines,
    pack_wide,
    prefetch_one,
    score_many,
)
from pruning.quantization import Int8, Quantizer
from pruning.tokens import encode
from pruning.weights import Snapshot

_MAGIC = b"RECSPRUN"
_FORMAT = 1

__all__ = ["Artefact", "KernelArgs", "lookup_one", "prefetch_one"]


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
        self.kernel_args: KernelArgs = kernel_args(arrays)

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
        if quantized.codes.dtype == np.int8:
            codes = np.asarray(quantized.codes[order], np.int8)
            arrays, shared = pack_lines(keys[order], codes, quantized.fields, quantized.scales)
        else:
            arrays, shared = pack_wide(keys[order], served[order]), 0
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
        lookup_many(self.kernel_args, keys, out)
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
        score_many(self.kernel_args, self.intercept, keys, values, indptr, out)
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
