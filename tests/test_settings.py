"""Settings come from the environment, and every wrong one is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from stream.errors import ConfigurationError
from stream.settings import load_settings


def test_wrong_settings_are_named_together(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("DRIFTLOOP_PARTITIONS", "none")
    monkeypatch.setenv("DRIFTLOOP_SESSION_TIMEOUT_MS", "5")
    with pytest.raises(ConfigurationError) as caught:
        load_settings()
    assert "DRIFTLOOP_PARTITIONS = 'none'" in str(caught.value)
    assert "DRIFTLOOP_SESSION_TIMEOUT_MS = '5'" in str(caught.value)


@pytest.mark.parametrize("name", ["http://page", "page:8080", "page/x", "[::1]:8080"])
def test_allowed_hosts_are_bare_names(name: str):
    with pytest.raises(ConfigurationError, match="DRIFTLOOP_WEB_ALLOWED_HOSTS"):
        load_settings(web_allowed_hosts=f"a.example, {name}")
    assert (
        load_settings(web_allowed_hosts="a.example, ::1, 10.0.0.1,*").web_allowed_hosts == "a.example, ::1, 10.0.0.1,*"
    )


def test_a_file_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "env"
    file.write_text("DRIFTLOOP_BROKERS=kafka:9092\n")
    monkeypatch.setenv("DRIFTLOOP_ENV_FILE", str(file))
    assert load_settings().brokers == "kafka:9092"
    monkeypatch.setenv("DRIFTLOOP_ENV_FILE", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="no such file"):
        load_settings()


def test_a_directory_of_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "driftloop_signing_key").write_text("s" * 40 + "\n")
    (tmp_path / "of_something_else").write_text("x")
    monkeypatch.setenv("DRIFTLOOP_SECRETS_DIR", str(tmp_path))
    assert load_settings().signing() == [b"s" * 40]
    monkeypatch.setenv("DRIFTLOOP_SIGNING_KEY", "e" * 40)
    assert load_settings().signing() == [b"e" * 40]
    monkeypatch.setenv("DRIFTLOOP_SIGNING_KEY", "")
    assert load_settings().signing() == [b"s" * 40]
    monkeypatch.setenv("DRIFTLOOP_SECRETS_DIR", str(tmp_path / "none"))
    with pytest.raises(ConfigurationError, match="no such directory"):
        load_settings()


def test_an_empty_variable_is_not_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    file = tmp_path / "env"
    file.write_text("DRIFTLOOP_BROKERS=\nDRIFTLOOP_LABEL_STUDIO_URL=http://labels\n")
    monkeypatch.setenv("DRIFTLOOP_ENV_FILE", str(file))
    monkeypatch.setenv("DRIFTLOOP_LABEL_STUDIO_URL", "")
    monkeypatch.setenv("DRIFTLOOP_PARTITIONS", "")
    settings = load_settings()
    assert settings.brokers == "127.0.0.1:9092"
    assert settings.label_studio_url == "http://labels"
    assert settings.partitions == 4


def test_an_empty_secret_file_is_no_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "driftloop_label_studio_token").write_text("\n")  # as deploy/secrets.sh makes it
    monkeypatch.setenv("DRIFTLOOP_SECRETS_DIR", str(tmp_path))
    with pytest.raises(ConfigurationError, match="DRIFTLOOP_LABEL_STUDIO_TOKEN"):
        load_settings(label_studio_url="http://labels").label_studio()
    (tmp_path / "driftloop_label_studio_token").write_text("t0ken\n")
    assert load_settings(label_studio_url="http://labels").label_studio()["token"] == "t0ken"


def test_secrets_are_not_shown():
    settings = load_settings(signing_key="k" * 40, redis_url="redis://:password@h/0", kafka_sasl_password="pw-secret")
    assert "kkkk" not in repr(settings)
    assert "password@" not in repr(settings)
    assert "pw-secret" not in repr(settings)


@pytest.mark.parametrize("key", [None, "short"])
def test_a_missing_or_short_signing_key_is_refused_without_showing_it(key: str | None):
    with pytest.raises(ConfigurationError, match="DRIFTLOOP_SIGNING_KEY") as caught:
        load_settings(signing_key=key).signing()
    assert "short" not in str(caught.value)


def test_security_settings_reach_librdkafka():
    settings = load_settings(
        kafka_security_protocol="SASL_SSL", kafka_sasl_username="u", kafka_sasl_password="p",
        kafka_ssl_ca_location="/ca.pem",
    )  # fmt: skip
    config = settings.kafka()
    assert config["security.protocol"] == "SASL_SSL"
    assert (config["sasl.username"], config["sasl.password"]) == ("u", "p")
    assert config["ssl.ca.location"] == "/ca.pem"
