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
    """A setting is out of its range, or two settings contradict each other.

    >>> import pruning
    >>> pruning.Amount(remove=1.5)
    Traceback (most recent call last):
        ...
    pruning.errors.ParameterError: remove is 1.5: a share is below 1 (an int counts weights)
    """


class UnsupportedModelError(PruningError, TypeError):
    """The model's weights are not in a place this package knows.

    >>> import pruning
    >>> from river import naive_bayes
    >>> pruning.weight_tables(naive_bayes.BernoulliNB())
    Traceback (most recent call last):
        ...
    pruning.errors.UnsupportedModelError: BernoulliNB keeps its weights where they are not known; ...
    """


class NonFiniteError(PruningError, ValueError):
    """A weight, a value or a loss is NaN or infinite.

    >>> import pruning
    >>> pruning.encode({"price": float("nan")})
    Traceback (most recent call last):
        ...
    pruning.errors.NonFiniteError: feature 'price' is nan: give a finite number, a bool or a text
    """


class EmptyModelError(PruningError, ValueError):
    """The model has no live weight: let it learn before it is pruned.

    >>> import pruning
    >>> from river import linear_model
    >>> pruning.prune_model(linear_model.LogisticRegression())
    Traceback (most recent call last):
        ...
    pruning.errors.EmptyModelError: the model has no live weight yet: let it learn first
    """


class CapacityError(PruningError, ValueError):
    """One example has more features than the model may hold at all.

    A model with a bounded feature table raises it before it learns anything of the batch.

    >>> def check_room(x, max_features):
    ...     if len(x) > max_features:
    ...         raise CapacityError(f"an example has {len(x)} features, max_features is {max_features}")
    >>> check_room({"genre=drama": 1, "year=1999": 1, "new": 1}, max_features=2)
    Traceback (most recent call last):
        ...
    pruning.errors.CapacityError: an example has 3 features, max_features is 2
    """


class LedgerError(PruningError):
    """The ledger's file cannot be read or written.

    >>> import pruning
    >>> pruning.Ledger("/").read()                                       # a directory is no ledger
    Traceback (most recent call last):
        ...
    pruning.errors.LedgerError: cannot read /: ...
    """


class ArtefactError(PruningError):
    """A stored artefact cannot be used.

    >>> import pruning
    >>> pruning.Artefact.load("no/such/file.prn")
    Traceback (most recent call last):
        ...
    pruning.errors.ArtefactError: cannot read no/such/file.prn: No such file or directory
    """


class ForeignFileError(ArtefactError):
    """The bytes do not start with the expected magic: another program wrote them.

    >>> import pruning
    >>> pruning.Artefact.from_bytes(b"PK\\x03\\x04" + bytes(60))
    Traceback (most recent call last):
        ...
    pruning.errors.ForeignFileError: expected a file that starts with b'RECSPRUN', got ...
    """


class NewerFormatError(ArtefactError):
    """The format version is newer than this library: upgrade the reader.

    >>> import numpy as np
    >>> import pruning
    >>> weights = pruning.Snapshot(np.array([1], np.uint64), np.array([.5]), np.ones(1))
    >>> data = bytearray(pruning.Artefact.build(weights).to_bytes())
    >>> data[8] = 2                                                      # where the format version is
    >>> pruning.Artefact.from_bytes(data)
    Traceback (most recent call last):
        ...
    pruning.errors.NewerFormatError: format 2 is newer than the newest one known here, 1: upgrade
    """


class DamagedFileError(ArtefactError):
    """The length or the checksum does not match: take the previous file or fetch this one again.

    >>> import numpy as np
    >>> import pruning
    >>> weights = pruning.Snapshot(np.array([1], np.uint64), np.array([.5]), np.ones(1))
    >>> data = bytearray(pruning.Artefact.build(weights).to_bytes())
    >>> data[-1] ^= 1                                                    # one bit on its way
    >>> pruning.Artefact.from_bytes(data)
    Traceback (most recent call last):
        ...
    pruning.errors.DamagedFileError: the checksum does not match the content: do not use this file
    """
