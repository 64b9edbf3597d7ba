"""Settings: an error names variable, value and expectation, and never a secret."""

from __future__ import annotations

import re
from typing import Any

import pytest
from river import linear_model

from stream_app.config import Settings, load_settings, settings_table
from stream_app.errors import ConfigError
from stream_app.events import DEFAULT_WEIGHTS
from stream_app.model.ranker import FTRLClassifier


@pytest.fixture(autouse=True)
def no_settings_around(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Neither the environment nor a file `.env` of the machine takes part."""
    monkeypatch.chdir(tmp_path_factory.mktemp("nowhere"))
    for name in Settings.model_fields:
        monkeypatch.delenv(f"RECS_{name.upper()}", raising=False)


def test_overrides_win_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Argument, then environment, then file, then default."""
    with open(".env", "w") as file:
        file.write("RECS_LIST_SIZE=7\nRECS_NEIGHBOURS=17\nRECS_NO_SUCH=1\n")
    assert (load_settings().list_size, load_settings().neighbours) == (7, 17)
    monkeypatch.setenv("RECS_LIST_SIZE", "8")
    assert load_settings().list_size == 8 and load_settings(list_size=9).list_size == 9
    assert load_settings().group == "recs"


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        ("LIST_SIZE", "0", "RECS_LIST_SIZE='0': input should be greater than or equal to 1"),
        ("LIST_SIZE", "many", "RECS_LIST_SIZE='many': input should be a valid integer"),
        ("LIST_TTL_DAYS", "inf", "RECS_LIST_TTL_DAYS='inf': input should be less than or equal to 3650"),
        ("PRUNE_AMOUNT", "1", "RECS_PRUNE_AMOUNT='1': input should be less than 1"),
        ("PRUNE_AMOUNT", "nan", "RECS_PRUNE_AMOUNT='nan': input should be"),
        ("NAMESPACE", "a:b", "RECS_NAMESPACE='a:b': string should match pattern"),
        ("KAFKA_SECURITY", "TLS", "RECS_KAFKA_SECURITY='TLS': input should be 'PLAINTEXT', 'SSL'"),
        ("EVENT_WEIGHTS", '{"stare": 1}', "'stare' is no event type; known: view_item_list"),
        ("EVENT_WEIGHTS", '{"purchase": -1}', "weights lie between 0 and 25"),
        ("EVENT_WEIGHTS", '{"purchase": NaN}', "weights lie between 0 and 25"),
        ("EVENT_WEIGHTS", "purchase=5", "RECS_EVENT_WEIGHTS='purchase=5': expected JSON"),
        ("RANKER_PARAMS", "[1]", "RECS_RANKER_PARAMS=[1]: input should be a valid dictionary"),
        ("MAX_USERS_IN_MEMORY", "10", "RECS_MAX_USERS_IN_MEMORY=10 is less than RECS_BATCH_SIZE=2000"),
        ("WEB_PORT", "70000", "RECS_WEB_PORT='70000': input should be less than or equal to 65535"),
    ],
)
def test_a_wrong_value_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, text: str) -> None:
    """Variable, value and expectation stand in one line."""
    monkeypatch.setenv(f"RECS_{name}", value)
    with pytest.raises(ConfigError) as error:
        load_settings()
    assert text in str(error.value) and f"RECS_{name}" in str(error.value) and "\n" not in str(error.value)


def test_all_wrong_values_are_named_at_once() -> None:
    """Two mistakes make one error with both."""
    with pytest.raises(ConfigError, match=r"RECS_PARTITIONS=0: .*; RECS_LIST_SIZE=0: "):
        load_settings(list_size=0, partitions=0)


def test_secrets_are_never_shown() -> None:
    """Neither the settings as text nor an error about them reveals a password."""
    url, password = "redis://recs:hunter2@db:6379/0", "swordfish"
    settings = load_settings(redis_url=url, kafka_password=password)
    assert settings.redis_url.get_secret_value() == url
    for text in (repr(settings), str(settings), str(settings.model_dump())):
        assert "hunter2" not in text and "swordfish" not in text
    with pytest.raises(ConfigError) as error:
        load_settings(redis_url=["hunter2"], kafka_password={"p": "swordfish"})
    assert "hunter2" not in str(error.value) and "swordfish" not in str(error.value)
    assert "RECS_REDIS_URL" in str(error.value) and "RECS_KAFKA_PASSWORD" in str(error.value)


def test_event_weights_complete_the_defaults() -> None:
    """Who changes one weight keeps the others."""
    weights = load_settings(event_weights={"purchase": 9}).event_weights
    assert weights == DEFAULT_WEIGHTS | {"purchase": 9.0}


def test_settings_cannot_be_changed() -> None:
    """One value for the life of a process."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings().list_size = 3


def test_the_ranker_is_the_compiled_one_or_rivers() -> None:
    """`ftrl` takes its parameters and the bound; a linear classifier of River is made as named."""
    ours = load_settings(ranker_params={"alpha": 0.2}, max_features=5_000).make_ranker()
    assert isinstance(ours, FTRLClassifier) and (ours.alpha, ours.max_features) == (0.2, 5_000)
    for name in ("linear_model.LogisticRegression", "river.linear_model.LogisticRegression"):
        model = load_settings(ranker=name, ranker_params={"l2": 0.1}).make_ranker()
        assert isinstance(model, linear_model.LogisticRegression) and model.l2 == 0.1
    assert isinstance(
        load_settings(ranker="linear_model.PAClassifier").make_ranker(), linear_model.PAClassifier
    )


@pytest.mark.parametrize(
    ("ranker", "params", "reason"),
    [
        ("ftrl", {"alpha": -1}, "alpha is -1"),
        ("ftrl", {"speed": 3}, "unexpected keyword argument 'speed'"),
        ("linear_model.Logistic", {}, "no attribute 'Logistic'"),
        ("os.system", {}, "No module named 'river.os'"),
        ("linear_model", {}, "not callable"),
        ("", {}, "RECS_RANKER=''"),
        ("linear_model.LogisticRegression", {"alpha": 1}, "unexpected keyword argument 'alpha'"),
        ("linear_model.LinearRegression", {}, "no River classifier: it has no predict_proba_one"),
        ("cluster.KMeans", {}, "no River classifier: it has no predict_proba_one"),
        ("tree.HoeffdingTreeClassifier", {}, "keeps its weights where they are not known"),
        ("facto.FMClassifier", {}, "an artefact holds one linear table"),
    ],
)
def test_nonsense_is_refused_as_ranker(ranker: str, params: dict[str, Any], reason: str) -> None:
    """What does not exist, does not take its parameters, or could not be released, is an early error."""
    with pytest.raises(ConfigError, match=re.escape(reason)) as error:
        load_settings(ranker=ranker, ranker_params=params).make_ranker()
    assert f"RECS_RANKER={ranker!r}" in str(error.value)


def test_the_table_has_every_setting() -> None:
    """One line each, with default and meaning."""
    lines = settings_table().splitlines()
    assert len(lines) == 2 + len(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        (line,) = (x for x in lines if x.startswith(f"| `RECS_{name.upper()}` |"))
        assert field.description and line.endswith(f"{field.description} |")
    assert "| `RECS_LIST_SIZE` | `20` | items per list |" in lines
