"""One sealed byte layout for everything that is stored: verified before anything is parsed.

::

    0   magic           8 bytes   which kind of file
    8   format          uint32    version of the layout of this kind
    12  header length   uint32    bytes of JSON, padded with spaces to a multiple of 64
    16  payload length  uint64    bytes of arrays
    24  SHA-256         32 bytes  of bytes 0..24 and of everything after byte 64
    56  zeros           8 bytes
    64  header          JSON: {"meta": {...}, "sections": [[name, dtype, shape, offset], ...]}
    ..  payload         arrays, little-endian, each on a 64-byte boundary (a cache line; mmap-able)

The same content gives the same bytes: keys are sorted, nothing of the clock or the machine goes in.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pruning.errors import ArtefactError, DamagedFileError, ForeignFileError, NewerFormatError

LINE = 64
_PREAMBLE = struct.Struct("<8sIIQ")
_DTYPES = frozenset({"|u1", "|i1", "<u2", "<i2", "<f2", "<u4", "<i4", "<f4", "<u8", "<i8", "<f8"})

Arrays = dict[str, NDArray[Any]]


def aligned(data: bytes | bytearray | memoryview) -> NDArray[np.uint8]:
    """Copy bytes into memory that starts on a cache line.

    >>> aligned(b"abc").ctypes.data % 64
    0
    """
    room = np.empty(len(data) + LINE, np.uint8)
    start = -room.ctypes.data % LINE
    view = room[start : start + len(data)]
    view[:] = np.frombuffer(data, np.uint8)
    return view


def seal(magic: bytes, version: int, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Put metadata and arrays into one checksummed byte string.

    Parameters
    ----------
    magic
        Eight bytes that name the kind of content.
    version
        Format version of that kind.
    meta
        Anything JSON can hold; NaN and infinity are refused.
    arrays
        Named arrays of plain numbers.

    Examples
    --------
    >>> data = seal(b"EXAMPLE1", 1, {"step": 3}, {"w": np.arange(3.0)})
    >>> meta, arrays = unseal(data, b"EXAMPLE1", 1)
    >>> meta["step"], arrays["w"].tolist()
    (3, [0.0, 1.0, 2.0])
    """
    sections, chunks, offset = [], [], 0
    for name, array in arrays.items():
        flat = np.ascontiguousarray(array)
        flat = flat.astype(flat.dtype.newbyteorder("<"), copy=False)
        raw = flat.tobytes()
        sections.append([name, flat.dtype.str, list(flat.shape), offset])
        chunks += [raw, bytes(-len(raw) % LINE)]
        offset += len(raw) + (-len(raw) % LINE)
    header = json.dumps(
        {"meta": meta, "sections": sections}, sort_keys=True, separators=(",", ":"), allow_nan=False
    ).encode()
    header += b" " * (-len(header) % LINE)
    preamble = _PREAMBLE.pack(magic, version, len(header), offset)
    body = b"".join([header, *chunks])
    digest = hashlib.sha256(preamble)
    digest.update(body)
    return b"".join([preamble, digest.digest(), bytes(8), body])


def checksum(data: bytes | memoryview | NDArray[np.uint8]) -> str:
    """The hexadecimal SHA-256 that a sealed byte string carries."""
    return bytes(data[24:56]).hex()


def unseal(
    data: bytes | bytearray | memoryview | NDArray[np.uint8], magic: bytes, version: int
) -> tuple[dict[str, Any], Arrays]:
    """Verify a sealed byte string and return its metadata and read-only views of its arrays.

    Raises
    ------
    ForeignFileError
        If the magic is another one.
    NewerFormatError
        If the format version is above `version`.
    DamagedFileError
        If a length or the checksum does not match.
    """
    buffer = data if isinstance(data, np.ndarray) else aligned(data)
    if len(buffer) < LINE or bytes(buffer[:8]) != magic:
        raise ForeignFileError(
            f"expected a file that starts with {magic!r}, got {bytes(buffer[:8])!r}: "
            "check that the path names the right kind of file"
        )
    _, found, header_length, payload_length = _PREAMBLE.unpack(bytes(buffer[: _PREAMBLE.size]))
    if found > version:
        raise NewerFormatError(f"format {found} is newer than the newest one known here, {version}: upgrade")
    if len(buffer) != LINE + header_length + payload_length:
        length = LINE + header_length + payload_length
        raise DamagedFileError(f"expected {length} bytes, got {len(buffer)}: the file is cut or grown")
    digest = hashlib.sha256(buffer[: _PREAMBLE.size].tobytes())
    digest.update(buffer[LINE:].data)
    if digest.digest() != bytes(buffer[24:56]) or buffer[56:LINE].any():
        raise DamagedFileError("the checksum does not match the content: do not use this file")
    try:
        header = json.loads(bytes(buffer[LINE : LINE + header_length]))
        payload = buffer[LINE + header_length :]
        arrays = {name: _section(payload, *spec) for name, *spec in header["sections"]}
        meta = header["meta"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"the header cannot be read: {error}") from error
    return meta, arrays


def _section(payload: NDArray[np.uint8], dtype: str, shape: list[int], offset: int) -> NDArray[Any]:
    if dtype not in _DTYPES or offset < 0 or min(shape, default=0) < 0:
        raise ValueError(f"section of type {dtype!r}, shape {shape}, offset {offset}")
    kind = np.dtype(dtype)
    size = kind.itemsize * int(np.prod(shape, dtype=np.int64))
    if offset + size > len(payload):
        raise ValueError("a section reaches past the end of the file")
    view = payload[offset : offset + size].view(kind).reshape(shape)
    view.flags.writeable = False
    return view


def write_atomically(path: str | os.PathLike[str], data: bytes) -> None:
    """Write a file so that a crash leaves the old content or the new one, never a mixture.

    The bytes go to a temporary file beside `path`, are flushed to the disk, and take the name in one step.
    """
    target = Path(path)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    directory = os.open(target.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def map_file(path: str | os.PathLike[str]) -> NDArray[np.uint8]:
    """Map a file into memory, read-only, so that processes on one machine share its pages."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size == 0:
                raise ForeignFileError(f"{os.fspath(path)} is empty")
            return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), np.uint8)
    except OSError as error:
        raise ArtefactError(f"cannot read {os.fspath(path)}: {error.strerror}") from error
