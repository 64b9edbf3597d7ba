"""How weights are rounded for serving: small configuration objects with one method.

A quantizer maps float weights to codes and a scale per group; `code · scale` is what is served.
"""

from __future__ import annotations

import dataclasses
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from pruning.errors import NonFiniteError, ParameterError


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

    Examples
    --------
    >>> field = np.array([1, 1, 2], np.uint16)
    >>> quantized = Int8().quantize(np.array([1.27, -.5, 10.]), field)
    >>> quantized.codes.tolist(), quantized.fields.tolist()
    ([127, -50, 127], [1, 2])
    >>> quantized.dequantize(field)
    array([ 1.27, -0.5 , 10.  ], dtype=float32)
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


def _round_as_one_field(quantizer: Quantizer, rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Round a matrix (n, k) as one table without fields."""
    field = np.zeros(rows.size, np.uint16)
    return quantizer.quantize(rows.ravel(), field).dequantize(field).astype(np.float64).reshape(rows.shape)


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

    def round_rows(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows (n, k) in single precision."""
        return rows.astype(np.float32).astype(np.float64)


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

    def round_rows(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows (n, k) with one scale for all of them."""
        return _round_as_one_field(self, rows)


@dataclasses.dataclass(frozen=True)
class FixedPoint:
    """Signed fixed point, `integer_bits` before and `fraction_bits` after the point: q2.13 and the like.

    The error of a weight is at most 2^−(fraction_bits+1) to the nearest and 2^−fraction_bits at random,
    inside the range ±2^integer_bits; a weight outside of it is an error, never clipped.

    Parameters
    ----------
    integer_bits, fraction_bits
        Together at most 15.
    rounding
        `nearest` for export; `stochastic` is unbiased, E[q(w)] = w, for repeated rounding while training.
    seed
        Of the stochastic rounding.

    Examples
    --------
    >>> FixedPoint(2, 3).round_rows(np.array([[.1, -3.]]))
    array([[ 0.125, -3.   ]])

    References
    ----------
    Golovin, D., Sculley, D., McMahan, H.B., Young, M., 2013. Large-scale learning with less RAM via
    randomization. ICML.
    """

    integer_bits: int = 2
    fraction_bits: int = 13
    rounding: Literal["nearest", "stochastic"] = "nearest"
    seed: int = 0

    def __post_init__(self) -> None:
        if (
            self.integer_bits < 0
            or self.fraction_bits < 0
            or not 1 <= self.integer_bits + self.fraction_bits <= 15
        ):
            raise ParameterError("integer_bits and fraction_bits are at least 0 and together 1 to 15")
        if self.rounding not in ("nearest", "stochastic"):
            raise ParameterError(f"rounding is {self.rounding!r}: expected 'nearest' or 'stochastic'")

    def quantize(self, weights: NDArray[np.float64], field: NDArray[np.uint16]) -> Quantized:
        """Round to the grid; int16 codes with one scale."""
        grid = weights * 2.0**self.fraction_bits
        if self.rounding == "nearest":
            codes = np.rint(grid)
        else:
            codes = np.floor(grid + np.random.default_rng(self.seed).random(grid.shape))
        top = 2.0 ** (self.integer_bits + self.fraction_bits)
        if (np.abs(codes) > top).any():
            raise ParameterError(
                f"the largest weight is {np.abs(weights).max():.3g}, the grid ends at "
                f"{2.0**self.integer_bits:g}: give more integer bits"
            )
        codes = np.clip(codes, -top, top - 1).astype(np.int16)
        return Quantized(codes, np.empty(0, np.uint16), np.array([2.0**-self.fraction_bits], np.float32))

    def round_rows(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """Rows (n, k) on the grid."""
        return _round_as_one_field(self, rows)


@dataclasses.dataclass(frozen=True)
class RowwiseInt:
    """Latent rows in 8 or 4 bits: each row has its minimum and its step, in half precision.

    w ≈ minimum + code · step, step = (max − min) / (2^bits − 1), so the error of an entry is at most step / 2
    plus the rounding of minimum and step to half precision, 2⁻¹¹ · (|min| + (max − min)).

    Parameters
    ----------
    bits
        8, or 4 with two codes in a byte.

    Examples
    --------
    >>> rows = np.array([[0., .5, 1.], [3., 3., 3.]])
    >>> packed = RowwiseInt(8).pack(rows)
    >>> packed.nbytes, bool(np.abs(packed.unpack() - rows).max() <= 1 / 510 + 2**-10)
    (14, True)

    References
    ----------
    Guan, H. et al., 2019. Post-training 4-bit quantization on embedding tables. arXiv:1911.02079.
    """

    bits: Literal[8, 4] = 8

    def __post_init__(self) -> None:
        if self.bits not in (8, 4):
            raise ParameterError(f"bits is {self.bits!r}: expected 8 or 4")

    def pack(self, rows: NDArray[np.float64]) -> PackedRows:
        """Pack rows (n, k)."""
        if not np.isfinite(rows).all() or (np.abs(rows) > 60_000).any():
            raise NonFiniteError("a row holds NaN, infinity or a value beyond half precision")
        top = 2**self.bits - 1
        low = rows.min(axis=1, initial=np.inf, keepdims=True)
        # Both are rounded away from the row, so that every value lies on the grid: nothing is clipped.
        bias = low.astype(np.float16)
        bias = np.where(bias > low, np.nextafter(bias, np.float16(-np.inf)), bias)
        width = (rows.max(axis=1, initial=-np.inf, keepdims=True) - bias) / top
        scale = width.astype(np.float16)
        scale = np.where(scale < width, np.nextafter(scale, np.float16(np.inf)), scale)
        step = np.where(scale > 0, scale.astype(np.float64), 1.0)
        codes = np.rint((rows - bias) / step).clip(0, top).astype(np.uint8)
        if self.bits == 4:
            codes = np.pad(codes, ((0, 0), (0, codes.shape[1] % 2)))
            codes = codes[:, ::2] | codes[:, 1::2] << 4
        return PackedRows(codes, scale[:, 0], bias[:, 0], self.bits, rows.shape[1])

    def round_rows(self, rows: NDArray[np.float64]) -> NDArray[np.float64]:
        """The values that would be served, (n, k); zero entries stay zero, they are pruned."""
        if rows.shape[1] == 1:
            return Int8("table").round_rows(rows)  # a table of scalars has no rows worth a scale each
        return np.where(rows == 0.0, 0.0, self.pack(rows).unpack())


@dataclasses.dataclass(frozen=True, eq=False)
class PackedRows:
    """Rows in 8 or 4 bits: w = bias + code · scale.

    Parameters
    ----------
    codes
        uint8 (n, k), or (n, ⌈k/2⌉) with two codes in a byte.
    scale, bias
        Step and minimum of every row, float16 (n,).
    bits
        8 or 4.
    width
        k.

    Examples
    --------
    >>> packed = RowwiseInt(4).pack(np.array([[0., .5, 1., 1.5], [3., 3., 3., 3.]]))
    >>> packed.codes.tolist(), packed.nbytes                             # two codes in a byte
    ([[80, 250], [0, 0]], 12)
    >>> packed.unpack()[1].tolist()
    [3.0, 3.0, 3.0, 3.0]
    """

    codes: NDArray[np.uint8]
    scale: NDArray[np.float16]
    bias: NDArray[np.float16]
    bits: int
    width: int

    @property
    def nbytes(self) -> int:
        """Bytes of codes, scales and biases."""
        return self.codes.nbytes + self.scale.nbytes + self.bias.nbytes

    def unpack(self) -> NDArray[np.float64]:
        """The rows that are served, (n, k)."""
        codes = self.codes
        if self.bits == 4:
            codes = np.stack([codes & 15, codes >> 4], axis=2).reshape(len(codes), -1)[:, : self.width]
        return self.bias[:, None].astype(np.float64) + codes * self.scale[:, None].astype(np.float64)


def entropy_bits(codes: NDArray[np.integer]) -> float:
    """Shannon entropy of codes in bits each: the floor of any entropy-coded transport.

    >>> entropy_bits(np.array([0, 0, 1, 1]))
    1.0
    """
    _, counts = np.unique(codes, return_counts=True)
    p = counts / counts.sum()
    return float(-(p * np.log2(p)).sum())
