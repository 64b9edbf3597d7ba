"""How weights are rounded for serving: small configuration objects with one method.

A quantizer maps float weights to codes and a scale per group; `code · scale` is what is served.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pruning.errors import ParameterError


@dataclasses.dataclass(frozen=True, eq=False)
class Quantized:
    """Codes and what they mean: weight = code · scale of its field.

    Parameters
    ----------
    codes
        int8 or int16 or float32 (n,).
    fields
        The fields that have a scale, sorted, uint16 (F,); empty when one scale serves all.
    scales
        float32 (F,), or (1,) when one scale serves all.
    """

    codes: NDArray[np.int8] | NDArray[np.int16] | NDArray[np.float32]
    fields: NDArray[np.uint16]
    scales: NDArray[np.float32]

    def dequantize(self, field: NDArray[np.uint16]) -> NDArray[np.float32]:
        """The weights that are served, float32 (n,)."""
        scale = self.scales[np.searchsorted(self.fields, field)] if len(self.fields) else self.scales[0]
        served: NDArray[np.float32] = self.codes.astype(np.float32) * scale
        return served


class Quantizer(Protocol):
    """What an artefact asks of a quantizer."""

    def quantize(self, weights: NDArray[np.float64], field: NDArray[np.uint16]) -> Quantized:
        """Round weights (n,) whose fields are `field` (n,)."""
        ...


@dataclasses.dataclass(frozen=True)
class Float32:
    """No quantization: the dense export that the guard compares with.

    The relative error of a weight is at most 2⁻²⁴.

    >>> Float32().quantize(np.array([.5]), np.array([7], np.uint16)).codes
    array([0.5], dtype=float32)
    """

    def quantize(self, weights: NDArray[np.float64], field: NDArray[np.uint16]) -> Quantized:
        """Round to single precision."""
        return Quantized(weights.astype(np.float32), np.empty(0, np.uint16), np.ones(1, np.float32))


@dataclasses.dataclass(frozen=True)
class Int8:
    """Eight bits, symmetric: codes −127…127, scale max|w| / 127, never clipped.

    The error of a weight is at most scale / 2, to the nearest, ties to even.

    Parameters
    ----------
    granularity
        `"field"`: a scale per field; `"table"`: one scale.

    Examples
    --------
    >>> q = Int8().quantize(np.array([1.27, -.5, 10.]), np.array([1, 1, 2], np.uint16))
    >>> q.codes.tolist(), [f"{scale:.4f}" for scale in q.scales]
    ([127, -50, 127], ['0.0100', '0.0787'])
    """

    granularity: Literal["field", "table"] = "field"

    def __post_init__(self) -> None:
        if self.granularity not in ("field", "table"):
            raise ParameterError(f"granularity is {self.granularity!r}: expected 'field' or 'table'")

    def quantize(self, weights: NDArray[np.float64], field: NDArray[np.uint16]) -> Quantized:
        """Round to the grid of the field, or of the table."""
        if self.granularity == "table":
            fields, group = np.empty(0, np.uint16), np.zeros(len(weights), np.intp)
        else:
            fields, group = np.unique(field, return_inverse=True)
        largest = np.zeros(max(len(fields), 1))
        np.maximum.at(largest, group, np.abs(weights))
        scales = np.maximum(largest / 127, np.finfo(np.float32).tiny).astype(np.float32)
        codes = np.clip(np.rint(weights / scales.astype(np.float64)[group]), -127, 127).astype(np.int8)
        return Quantized(codes, fields.astype(np.uint16), scales)
