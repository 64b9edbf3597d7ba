"""Settings: one frozen value, read from the environment in one place.

Every setting is a variable `RECS_` + its name in capitals, in the environment or in a file `.env`.
`settings_table` renders the table in the README, so the two cannot drift apart.
"""

from __future__ import annotations

import importlib
import json
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict, SettingsError

from stream_app.errors import ConfigError
from stream_app.events import CANONICAL_TYPES, DEFAULT_WEIGHTS
from stream_app.model.budget import Budget


class Settings(BaseSettings):
    """All settings of all roles; workers and the learner of one system get the same values."""

    model_config = SettingsConfigDict(env_prefix="RECS_", env_file=".env", extra="ignore", frozen=True)

    # Where things are
    kafka_bootstrap: str = Field("127.0.0.1:9092", description="Kafka brokers, `host:port`, comma-separated")
    kafka_security: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="Kafka security protocol"
    )
    kafka_username: str = Field("", description="Kafka user (SASL/SCRAM-SHA-512)")
    kafka_password: SecretStr = Field(SecretStr(""), description="and password")
    kafka_ca_file: Path | None = Field(None, description="CA certificate of the brokers, when not public")
    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"),
        description="Redis or Valkey; `rediss://` for TLS, may carry user and password",
    )
    state_dir: Path = Field(Path("state"), description="folder of checkpoints, releases and the ledger")
    web_host: str = Field("127.0.0.1", description="address of the health and metrics pages")
    web_port: int = Field(0, ge=0, le=65535, description="their port; 0 turns them off")

    # Names
    namespace: str = Field("rec", pattern=r"^[A-Za-z0-9_-]{1,32}$", description="prefix of all Redis keys")
    group: str = Field("recs", min_length=1, max_length=100, description="consumer group of the workers")
    instance: str = Field(
        "",
        max_length=100,
        description="name of this worker that outlives it: started again, it has its partitions back at once",
    )
    events_topic: str = Field("events", description="topic of user events, key = user_id")
    items_topic: str = Field("items", description="compacted topic of item descriptions, key = item_id")
    users_topic: str = Field("users", description="compacted topic of user descriptions, key = user_id")
    examples_topic: str = Field("examples", description="topic from workers to the learner")
    control_topic: str = Field("control", description="topic of commands: prune, rollback, erase")
    dead_letter_topic: str = Field("events.dlq", description="topic of messages that are no valid events")
    exposures_topic: str = Field(
        "exposures", description="topic of the lists that were made, kept while places are drawn"
    )
    triggers_topic: str = Field("triggers", description="topic of messages that are due, key = user_id")
    suppressed_topic: str = Field(
        "triggers.suppressed", description="topic of messages that were held back, with the reason"
    )
    partitions: int = Field(4, ge=1, le=1024, description="partitions of topics that have to be created")
    replication: int = Field(1, ge=1, le=10, description="and their replicas")

    # Recommending
    list_size: int = Field(20, ge=1, le=100, description="items per list")
    list_rules: Path | None = Field(
        None, description="file of business rules for lists (TOML), read again when it changes"
    )
    explore_places: int = Field(
        0, ge=0, le=100, description="last places of a list that may be drawn; 0: none"
    )
    explore_share: float = Field(0.1, gt=0, le=1, description="how often such a place is drawn")
    recommend_again: bool = Field(
        False, description="whether what a user has chosen may be recommended again, as in a grocery"
    )
    list_ttl_days: float = Field(
        30, gt=0, le=3650, description="how long a list stays without being made again"
    )
    state_ttl_days: float = Field(
        90, gt=0, le=3650, description="how long a user who does nothing is remembered"
    )
    neighbours: int = Field(200, ge=1, le=400, description="neighbours served per item")
    max_users_in_memory: int = Field(50_000, ge=1, description="users a worker holds; others wait in Redis")
    max_items_per_user: int = Field(512, ge=1, le=65_535, description="items remembered per user")
    event_weights: dict[str, float] = Field(
        default_factory=lambda: dict(DEFAULT_WEIGHTS),
        description="what an event of each type says for its item",
    )
    rating_threshold: float = Field(4.0, gt=0, description="ratings from here on are positive")

    # Triggers
    triggers: bool = Field(True, description="whether marketing triggers are evaluated")
    trigger_rules: Path | None = Field(
        None, description="file of trigger rules (TOML) over the built-in ones, read at the start"
    )

    # Learning
    ranker: str = Field(
        "ftrl",
        description="`ftrl`, compiled, or a linear classifier of River: `linear_model.LogisticRegression`",
    )
    ranker_params: dict[str, Any] = Field(default_factory=dict, description="its parameters, JSON")
    max_features: int = Field(1_000_000, ge=1024, description="weights the learner keeps at most")
    max_model_mb: int = Field(
        2_000,
        ge=1,
        description="memory of the model of one process at most, MB; bounds items and links, too",
    )
    checkpoint_interval_s: float = Field(30, gt=0, description="seconds between the learner's checkpoints")
    overlay_interval_s: float = Field(1, gt=0, description="seconds between overlays for the workers")

    # Pruning
    prune_interval: int = Field(10_000, ge=100, description="examples between proposals of a pruned release")
    prune_first: int = Field(2_000, ge=100, description="examples before the first one")
    prune_amount: float = Field(0.8, ge=0, lt=1, description="share of weights a release leaves out")
    guard_tolerance: float = Field(5e-3, ge=0, description="accepted rise of the pairwise log loss")
    guard_samples: int = Field(1_000, ge=2, description="examples before the guard decides")
    guard_overlap: float = Field(
        0.9, ge=0, le=1, description="least agreement of the top 10 with the dense model"
    )

    # Delivering triggers
    trigger_dead_letter_topic: str = Field(
        "triggers.dlq", description="topic of triggers that the webhook did not take"
    )
    webhook_url: SecretStr = Field(SecretStr(""), description="where `recs triggers deliver` posts triggers")
    webhook_secret: SecretStr = Field(
        SecretStr(""), description="key of their signatures: `whsec_` and base64, two while it changes"
    )
    webhook_tries: int = Field(8, ge=1, le=100, description="before a trigger becomes a dead letter")
    webhook_concurrency: int = Field(16, ge=1, le=1_000, description="requests at the same time")
    webhook_timeout_s: float = Field(10, gt=0, le=120, description="longest wait for an answer")

    # Batches
    batch_size: int = Field(2_000, ge=1, le=100_000, description="events per batch at most")
    max_event_bytes: int = Field(
        1_000_000, ge=1_000, description="larger messages are dead-lettered unparsed"
    )
    session_timeout_s: float = Field(
        30, ge=1, description="silence after which a worker's partitions go to the others"
    )
    io_timeout_s: float = Field(30, gt=0, description="longest wait for Kafka or Redis to answer")

    @field_validator("event_weights")
    @classmethod
    def _known_types(cls, weights: dict[str, float]) -> dict[str, float]:
        unknown = sorted(set(weights) - set(CANONICAL_TYPES))
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no event type; known: {', '.join(CANONICAL_TYPES)}")
        if any(not 0 <= w <= 25 for w in weights.values()):
            raise ValueError("weights lie between 0 and 25")
        return dict(DEFAULT_WEIGHTS) | weights

    @model_validator(mode="after")
    def _room_for_a_batch(self) -> Settings:
        if self.max_users_in_memory < self.batch_size:
            raise ValueError(
                f"RECS_MAX_USERS_IN_MEMORY={self.max_users_in_memory} is less than "
                f"RECS_BATCH_SIZE={self.batch_size}: every user of a batch has to be in memory"
            )
        return self

    @model_validator(mode="after")
    def _room_for_items(self) -> Settings:
        try:
            _ = self.budget
        except ValueError as error:
            raise ValueError(f"RECS_MAX_MODEL_MB={self.max_model_mb} {error}") from error
        return self

    @property
    def budget(self) -> Budget:
        """How many items, tokens and links fit into `max_model_mb`."""
        return Budget.of_megabytes(self.max_model_mb, max_features=self.max_features, width=self.neighbours)

    def make_ranker(self) -> Any:
        """The ranker that `ranker` and `ranker_params` name.

        Raises
        ------
        ConfigError
            If there is no such River classifier, it is not linear, or it does not take these parameters.
        """
        from pruning import snapshot  # compiled code, only where a model is made
        from stream_app.model.ranker import FTRLClassifier

        given = f"RECS_RANKER={self.ranker!r}"
        try:
            if self.ranker == "ftrl":
                return FTRLClassifier(**({"max_features": self.max_features} | self.ranker_params))
            module, _, name = self.ranker.removeprefix("river.").rpartition(".")
            kind = getattr(importlib.import_module(f"river.{module}" if module else "river"), name)
            model = kind(**self.ranker_params)
            if hasattr(model, "learn_one") and hasattr(model, "predict_proba_one"):
                snapshot(model)  # says when the weights are not one linear table: nothing could be released
                return model
        except (ImportError, AttributeError, TypeError, ValueError) as error:
            raise ConfigError(
                f"{given} with RECS_RANKER_PARAMS={json.dumps(self.ranker_params)}: {error}; "
                "expected 'ftrl' or a linear River classifier such as 'linear_model.LogisticRegression'"
            ) from error
        raise ConfigError(f"{given} is no River classifier: it has no predict_proba_one")


def load_settings(**overrides: Any) -> Settings:
    """The settings of this process; `overrides` win over the environment.

    Raises
    ------
    ConfigError
        If a value is wrong; the text names the variable, the value and what was expected.

    Examples
    --------
    >>> load_settings(list_size=10).list_size
    10
    >>> load_settings(list_size=0)
    Traceback (most recent call last):
    ...
    stream_app.errors.ConfigError: RECS_LIST_SIZE=0: input should be greater than or equal to 1
    """
    try:
        return Settings(**overrides)
    except ValidationError as error:
        problems = []
        for e in error.errors():
            if not e["loc"]:  # about several settings, which the text names
                problems.append(e["msg"].removeprefix("Value error, "))
                continue
            name = "RECS_" + "_".join(map(str, e["loc"])).upper()
            secret = any(word in name for word in ("PASSWORD", "URL", "SECRET"))
            value = "" if secret else f"={e['input']!r}"
            message = e["msg"].removeprefix("Value error, ")
            problems.append(f"{name}{value}: {message[0].lower()}{message[1:]}")
        raise ConfigError("; ".join(problems)) from error
    except SettingsError as error:  # a value that should be JSON and is not
        name = next((n for n in Settings.model_fields if f'"{n}"' in str(error)), "settings")
        variable = f"RECS_{name.upper()}"
        value = f"={os.environ[variable]!r}" if variable in os.environ else ""
        raise ConfigError(f'{variable}{value}: expected JSON such as {{"key": 1}}') from error


def settings_table() -> str:
    """The settings as a Markdown table.

    >>> print(settings_table().splitlines()[0])
    | variable | default | what it is |
    """
    lines = ["| variable | default | what it is |", "|---|---|---|"]
    for name, field in Settings.model_fields.items():
        value = field.get_default(call_default_factory=True)
        if isinstance(value, SecretStr):
            value = value.get_secret_value()
        text = json.dumps(value) if isinstance(value, dict) else "" if value is None else str(value)
        lines.append(f"| `RECS_{name.upper()}` | {f'`{text}`' if text else ''} | {field.description} |")
    return "\n".join(lines)
