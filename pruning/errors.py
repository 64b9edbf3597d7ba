"""What can go wrong, as one small tree.

::

    PruningError
    ├── ParameterError          (ValueError)  a setting is out of range or contradicts another
    ├── UnsupportedModelError   (TypeError)   the model keeps its weights where we do not know to look
    ├── NonFiniteError          (ValueError)  NaN or infinity where a number belongs
    ├── EmptyModelError         (ValueError)  there is nothing to prune yet
    ├── CapacityError           (ValueError)  one example is larger than the whole feature table
    ├── LedgerError                           the ledger cannot be read or written
    └── ArtefactError                         a file or byte string that must not be used
        ├── ForeignFileError                  it is not ours
        ├── NewerFormatError                  it was written by a newer version of this library
        └── DamagedFileError                  it is ours, and bytes changed or are missing
"""

from __future__ import annotations


class PruningError(Exception):
    """Base class of every error this package raises on purpose.

    >>> issubclass(DamagedFileError, ArtefactError) and issubclass(ArtefactError, PruningError)
    True
    """


class ParameterError(PruningError, ValueError):
    """A setting is out of its range, or two settings contradict each other."""


class UnsupportedModelError(PruningError, TypeError):
    """The model's weights are not in a place this package knows."""


class NonFiniteError(PruningError, ValueError):
    """A weight, a value or a loss is NaN or infinite."""


class EmptyModelError(PruningError, ValueError):
    """The model has no live weight: let it learn before it is pruned."""


class CapacityError(PruningError, ValueError):
    """One example has more features than the model may hold at all."""


class LedgerError(PruningError):
    """The ledger's file cannot be read or written."""


class ArtefactError(PruningError):
    """A stored artefact cannot be used."""


class ForeignFileError(ArtefactError):
    """The bytes do not start with the expected magic: another program wrote them."""


class NewerFormatError(ArtefactError):
    """The format version is newer than this library: upgrade the reader."""


class DamagedFileError(ArtefactError):
    """The length or the checksum does not match: take the previous file or fetch this one again."""
