"""Our recommender and its rivals, judged on one stream: what `recs evaluate` runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from stream_app.errors import ConfigError
from stream_app.evaluation.baselines import BASELINES
from stream_app.evaluation.evaluator import EvaluationReport, evaluate
from stream_app.evaluation.plan import Record
from stream_app.evaluation.protocols import Recommender
from stream_app.online import OnlineRecommender

MODELS: Mapping[str, Callable[[], Recommender]] = {
    "ours": lambda: OnlineRecommender(compress=False),
    "ours_compressed": OnlineRecommender,
    **BASELINES,
}


def evaluate_file(
    records: Iterable[Record],
    names: Sequence[str] | None = None,
    *,
    k: int = 10,
    repeat: bool = False,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> EvaluationReport:
    """Judge models by name, all of `MODELS` without names; see `evaluation.evaluate`.

    Raises
    ------
    ConfigError
        If a name is none of `MODELS`.
    """
    names = list(MODELS) if names is None else names
    for name in names:
        if name not in MODELS:
            raise ConfigError(f"--models: {name!r} is unknown; the models are {', '.join(MODELS)}")
    models = {name: MODELS[name]() for name in names}
    return evaluate(records, models, k=k, exclude_seen=not repeat, seed=seed, progress=progress)
