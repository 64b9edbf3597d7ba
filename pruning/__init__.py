"""Prune, quantize, prove and promote the weights of online models.

::

    model ──snapshot──▶ Snapshot ──pruner──▶ mask ──quantizer──▶ Artefact ──guard──▶ GuardDecision ──▶ Ledger
                        weights     pruners         quantization  artefact    guard                     ledger
                                    └──────────────── agent: PruningAgent drives them ─────────────────┘

    which weights              pruners · importance (fields) · fisher (curvature, rank) · schedules
    River models               tables (where weights live) · inplace (prune_model) · online (wrappers)
    while training             optim (FTRL) · admission (which features enter)
                               · proximal (L1, group lasso, dropout) · binning
    is it good                 examples · evaluation · curves (size/quality) · guard
                               · sequential (anytime-valid)
    bytes                      tokens, texts (features as numbers) · fingerprints (the served table) · simd
                               · envelope · transport

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

from pruning.admission import AdmissionFilter
from pruning.agent import Proposal, PruneReport, PruningAgent
from pruning.artefact import Artefact, KernelArgs, lookup_one, prefetch_one
from pruning.binning import QuantileBins
from pruning.curves import Curve, CurvePoint, curve, plot, plot_history
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
from pruning.evaluation import Quality, auc, evaluate, quality, top_k_overlap
from pruning.examples import EncodedLearner, Examples, progressive
from pruning.fisher import FisherTracker, RankPruner
from pruning.guard import Guard, GuardDecision, Shadow
from pruning.importance import FieldImportance, FieldSelection, field_contributions, log_loss, select_fields
from pruning.inplace import compressed, prune_model, quantize_model
from pruning.ledger import DecisionRecord, Ledger
from pruning.online import PrunedClassifier, PrunedRegressor
from pruning.optim import FTRLProximal
from pruning.proximal import FeatureDropout, TruncatedGradient
from pruning.pruners import (
    Amount,
    CountPruner,
    DualThresholdPruner,
    FieldPruner,
    MagnitudePruner,
    SaliencyPruner,
    StalenessPruner,
    refit_intercept,
)
from pruning.quantization import FixedPoint, Float32, Int8, PackedRows, Quantized, RowwiseInt
from pruning.schedules import Cubic, Exponential, OneShot
from pruning.sequential import CircuitBreaker, ConfidenceSequence, Cusum
from pruning.tables import reading_only, weight_tables
from pruning.texts import encode_names
from pruning.tokens import encode, feature_token, field_id, token
from pruning.transport import from_wire, to_wire
from pruning.weights import Snapshot, snapshot

__all__ = [
    "AdmissionFilter",
    "Amount",
    "Artefact",
    "ArtefactError",
    "CapacityError",
    "CircuitBreaker",
    "ConfidenceSequence",
    "CountPruner",
    "Cubic",
    "Curve",
    "CurvePoint",
    "Cusum",
    "DamagedFileError",
    "DecisionRecord",
    "DualThresholdPruner",
    "EmptyModelError",
    "EncodedLearner",
    "Examples",
    "Exponential",
    "FTRLProximal",
    "FeatureDropout",
    "FieldImportance",
    "FieldPruner",
    "FieldSelection",
    "FisherTracker",
    "FixedPoint",
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
    "OneShot",
    "PackedRows",
    "ParameterError",
    "Proposal",
    "PruneReport",
    "PrunedClassifier",
    "PrunedRegressor",
    "PruningAgent",
    "PruningError",
    "Quality",
    "QuantileBins",
    "Quantized",
    "RankPruner",
    "RowwiseInt",
    "SaliencyPruner",
    "Shadow",
    "Snapshot",
    "StalenessPruner",
    "TruncatedGradient",
    "UnsupportedModelError",
    "auc",
    "compressed",
    "curve",
    "encode",
    "encode_names",
    "evaluate",
    "feature_token",
    "field_contributions",
    "field_id",
    "from_wire",
    "log_loss",
    "lookup_one",
    "plot",
    "plot_history",
    "prefetch_one",
    "progressive",
    "prune_model",
    "quality",
    "quantize_model",
    "reading_only",
    "refit_intercept",
    "select_fields",
    "snapshot",
    "to_wire",
    "token",
    "top_k_overlap",
    "weight_tables",
]
