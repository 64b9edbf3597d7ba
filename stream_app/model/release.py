"""A release and the overlays that keep it fresh: what the learner hands to workers.

A release holds a pruned and quantized ranker, the neighbour rows of all items and their counters as of
one step. An overlay holds what was learned since: weights of touched tokens, rows and counters of touched
items. Both are immutable bytes; a release is named by the hash of its content.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.artefact import Artefact
from pruning.envelope import seal, unseal
from pruning.errors import PruningError
from stream_app.errors import EventError, ReleaseError
from stream_app.model.features import widened

_RELEASE, _OVERLAY, _FORMAT = b"RECSRELE", b"RECSOVER", 1


@dataclass(frozen=True)
class Tables:
    """Items by number, and rows for some of them.

    Attributes
    ----------
    step
        Events that the learner had learned.
    ids, keys
        The items mentioned, texts ("" where only the key is known) and uint64 (k,).
    rows
        Which of them have a row below, int32 (r,).
    count, first, last, trend, rate, by_length
        `retrieval.ItemStats` of the rows.
    neighbours, scores, scale
        `retrieval.Neighbours` of the rows, int32 and uint8 (r, M), float32 (r,).
    pool
        What every user is offered, int32 (p,).
    mean, inv_std
        Moments of the ranker's numbers, float32 (N_NUMBERS,).
    """

    step: int
    ids: list[str]
    keys: NDArray[np.uint64]
    rows: NDArray[np.int32]
    count: NDArray[np.float32]
    first: NDArray[np.int64]
    last: NDArray[np.int64]
    trend: NDArray[np.float32]
    rate: NDArray[np.float32]
    by_length: NDArray[np.float32]
    neighbours: NDArray[np.int32]
    scores: NDArray[np.uint8]
    scale: NDArray[np.float32]
    pool: NDArray[np.int32]
    mean: NDArray[np.float32]
    inv_std: NDArray[np.float32]

    def _meta(self) -> dict[str, Any]:
        return {"step": self.step, "ids": self.ids}

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {name: value for name, value in vars(self).items() if isinstance(value, np.ndarray)}

    @classmethod
    def _of(cls, meta: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Tables:
        names = [name for name in cls.__dataclass_fields__ if name not in ("step", "ids")]
        try:
            arrays |= {name: widened(arrays[name], fill) for name, fill in (("mean", 0.0), ("inv_std", 1.0))}
        except EventError as error:
            raise ReleaseError(f"the tables cannot be read: {error}") from error
        return cls(step=meta["step"], ids=meta["ids"], **{name: arrays[name] for name in names})


@dataclass(frozen=True)
class Release:
    """A ranker and the tables it was exported with.

    Attributes
    ----------
    ranker
        Pruned, quantized weights.
    ranker_step
        Learn steps of the ranker at the export; the overlay over this release holds what came later.
    """

    ranker: Artefact
    ranker_step: int
    tables: Tables

    @property
    def nbytes(self) -> int:
        """Bytes of ranker and tables in memory."""
        return self.ranker.nbytes + sum(a.nbytes for a in self.tables._arrays().values())

    def to_bytes(self) -> bytes:
        """The release as checksummed bytes."""
        ranker = np.frombuffer(self.ranker.to_bytes(), np.uint8)
        meta = self.tables._meta() | {"ranker_step": self.ranker_step}
        return seal(_RELEASE, _FORMAT, meta, self.tables._arrays() | {"ranker": ranker})

    @classmethod
    def from_bytes(cls, data: bytes) -> Release:
        """Read `to_bytes`.

        Raises
        ------
        ReleaseError
            If the bytes are damaged, foreign or of a newer version.
        """
        meta, arrays = _unseal(data, _RELEASE, "release")
        try:
            ranker = Artefact.from_bytes(arrays.pop("ranker").tobytes())
        except PruningError as error:
            raise ReleaseError(f"the release's ranker cannot be read: {error}") from error
        return cls(ranker, meta["ranker_step"], Tables._of(meta, arrays))


@dataclass(frozen=True)
class Overlay:
    """What was learned after a release, or after the previous overlay over it.

    Attributes
    ----------
    weights_keys, weights
        Touched tokens and their weights now, uint64 and float32 (w,).
    """

    weights_keys: NDArray[np.uint64]
    weights: NDArray[np.float32]
    tables: Tables

    def to_bytes(self) -> bytes:
        """The overlay as checksummed bytes."""
        arrays = self.tables._arrays() | {"weights_keys": self.weights_keys, "weights": self.weights}
        return seal(_OVERLAY, _FORMAT, self.tables._meta(), arrays)

    @classmethod
    def from_bytes(cls, data: bytes) -> Overlay:
        """Read `to_bytes`; raises `ReleaseError` like `Release.from_bytes`."""
        meta, arrays = _unseal(data, _OVERLAY, "overlay")
        return cls(arrays["weights_keys"], arrays["weights"], Tables._of(meta, arrays))


def version_of(data: bytes) -> str:
    """The name of a release: 16 hex digits of the SHA-256 of its bytes.

    >>> version_of(b"")
    'e3b0c44298fc1c14'
    """
    return hashlib.sha256(data).hexdigest()[:16]


def _unseal(data: bytes, magic: bytes, what: str) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    try:
        return unseal(data, magic, _FORMAT)
    except PruningError as error:
        raise ReleaseError(f"the {what} cannot be read: {error}") from error
