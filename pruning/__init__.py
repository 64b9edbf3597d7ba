"""Prune, quantize, prove and promote the weights of online models.

::

    model ──snapshot──▶ Snapshot ──pruner──▶ mask ──quantizer──▶ Artefact ──guard──▶ GuardDecision ──▶ Ledger
    weights             weights     pruners         quantization  artefact    guard                     ledger
                                    └──────────────── PruningAgent (agent) drives them ────────────────┘
    tokens (features as 64-bit numbers) · optim (exact FTRL for River) · envelope (sealed bytes) · errors

Examples
--------
>>> from river import linear_model
>>> import pruning
>>> model = linear_model.LogisticRegression(pruning.FTRLProximal(alpha=.5))
>>> for i in range(200):
...     model.learn_one({"good": i % 2, "noise": i % 3 == 0}, bool(i % 2))
>>> weights = pruning.snapshot(model)
>>> release = pruning.Artefact.build(weights, pruning.SaliencyPruner(.5).compute_mask(weights))
>>> release.contributions({"good": 1, "noise": 1})
{'good': 2.92..., 'noise': 0.0}
"""

from pruning.agent import Proposal, PruneReport, PruningAgent
from pruning.artefact import Artefact, KernelArgs, lookup_one
from pruning.errors import (
    ArtefactError,
    CapacityError,
    DamagedFileError,
    EmptyModelError,
    ForeignFileError,
    LedgerError,
    NewerFormatError,
    NonFiniteError,
    ParameterError,
    PruningError,
    UnsupportedModelError,
)
from pruning.guard import Guard, GuardDecision
from pruning.ledger import DecisionRecord, Ledger
from pruning.optim import FTRLProximal
from pruning.pruners import Amount, MagnitudePruner, SaliencyPruner
from pruning.quantization import Float32, Int8, Quantized
from pruning.tokens import encode, feature_token, field_id, token
from pruning.weights import Snapshot, snapshot

__all__ = [
    "Amount",
    "Artefact",
    "ArtefactError",
    "CapacityError",
    "DamagedFileError",
    "DecisionRecord",
    "EmptyModelError",
    "FTRLProximal",
    "Float32",
    "ForeignFileError",
    "Guard",
    "GuardDecision",
    "Int8",
    "KernelArgs",
    "Ledger",
    "LedgerError",
    "MagnitudePruner",
    "NewerFormatError",
    "NonFiniteError",
    "ParameterError",
    "Proposal",
    "PruneReport",
    "PruningAgent",
    "PruningError",
    "Quantized",
    "SaliencyPruner",
    "Snapshot",
    "UnsupportedModelError",
    "encode",
    "feature_token",
    "field_id",
    "lookup_one",
    "snapshot",
    "token",
]
