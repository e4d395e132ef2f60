"""Where and with which credentials things run. The only reader of the environment.

Every setting is an environment variable `DRIFTLOOP_<NAME>`, or a line of the file named by `DRIFTLOOP_ENV_FILE`, or the
content of a file `driftloop_<name>` in the directory named by `DRIFTLOOP_SECRETS_DIR` (such as /run/secrets), in this order;
an empty variable or line is as good as none.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from stream.errors import ConfigurationError

__all__ = ["Settings", "load_settings", "seen_by_pipelines"]

PREFIX = "DRIFTLOOP_"


class Settings(BaseSettings):
    """All settings. Times are in seconds where the name says `_s`, else in milliseconds (`_ms`)."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, extra="ignore", frozen=True)

    brokers: str = Field("127.0.0.1:9092", description="Kafka bootstrap servers, comma-separated")
    kafka_security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="SSL is TLS; SASL is with a user"
    )
    kafka_sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512", "OAUTHBEARER"] = Field(
        "SCRAM-SHA-512", description="how the user is proved, where the protocol is a SASL one"
    )
    kafka_sasl_username: str | None = Field(None, description="the user, where the protocol is a SASL one")
    kafka_sasl_password: SecretStr | None = Field(None, description="its password")
    kafka_ssl_ca_location: Path | None = Field(None, description="PEM file of the certificate authority")
    kafka_ssl_certificate_location: Path | None = Field(
        None, description="PEM file of our own certificate, where brokers ask for one"
    )
    kafka_ssl_key_location: Path | None = Field(None, description="PEM file of its key")
    replication_factor: int = Field(1, ge=1, description="of the topics that driftloop creates")
    partitions: int = Field(4, ge=1, le=10_000, description="of events and labels, when driftloop creates them")

    redis_url: SecretStr = Field(
        SecretStr("redis://127.0.0.1:6379/0"), description="redis://, rediss:// (TLS) or unix://"
    )
    redis_timeout_s: float = Field(5.0, gt=0, description="how long an answer may take; then the call is in doubt")

    signing_key: SecretStr | None = Field(None, description="signs model snapshots; at least 32 characters")
    signing_keys_old: SecretStr | None = Field(None, description="still accepted, comma-separated, for rotation")

    artifact_url: str = Field(
        ".driftloop/artifacts",
        description="where model bases and retraining runs are kept: a directory or an fsspec URL",
    )

    pipelines: str = Field("", description="Airflow: files and directories of pipelines, comma-separated")
    pipelines_cache: Path = Field(
        Path.home() / ".cache" / "driftloop" / "pipelines", description="Airflow: what was last seen in those files"
    )
    archive_cron: str = Field("*/5 * * * *", description="Airflow: when examples are archived, UTC")
    drift_check_cron: str = Field(
        "*/10 * * * *", description="Airflow: when a lost wake-up or a due follow-up is looked for, UTC"
    )
    drift_gap_s: float = Field(20.0, ge=0, description="Airflow: time between two runs woken up by drifts, at least")
    label_check_cron: str = Field("*/10 * * * *", description="Airflow: when open label requests are looked for, UTC")
    label_gap_s: float = Field(
        60.0, ge=0, description="Airflow: time between two runs woken by label requests, at least"
    )
    label_studio_url: str | None = Field(None, description="Label Studio, where label requests become tasks")
    label_studio_token: SecretStr | None = Field(None, description="its personal access token, or legacy token")
    label_studio_connection: str | None = Field(
        None,
        description="Airflow: id of a connection with Label Studio's host and, as password, token, instead of these two",
    )
    alert_email: str | None = Field(None, description="Airflow: recipients; sent over the connection smtp_default")
    alert_slack_connection: str | None = Field(None, description="Airflow: id of a Slack Incoming Webhook connection")
    alert_webhook_url: SecretStr | None = Field(None, description="Airflow: alerts are POSTed there as JSON")

    mlflow_tracking_uri: str | None = Field(
        None, description="of an MLflow server that retraining runs are logged to, too; needs driftloop[mlflow]"
    )
    mlflow_experiment: str | None = Field(None, description="there; driftloop.<pipeline> if not set")
    mlflow_timeout_s: float = Field(60.0, gt=0, description="how long a step waits for MLflow, at most")

    airflow_url: str | None = Field(None, description="where `driftloop doctor` asks whether Airflow is well")

    session_timeout_ms: int = Field(10_000, ge=1_000, description="a silent worker is replaced after this")
    batch_records_max: int = Field(1_000, ge=1, le=5_000, description="records per micro-batch")
    fetch_wait_ms: int = Field(5, ge=1, description="how long the broker may hold a fetch back to fill it")
    fetch_min_bytes: int = Field(
        512, ge=1, description="how much a fetch waits for; more costs less CPU and more latency"
    )
    linger_ms: float = Field(0.0, ge=0, description="how long the producer waits to fill a request")
    dead_share_max: float = Field(
        0.9,
        gt=0,
        le=1,
        description="a larger share of dead letters among a partition's newest stops the worker; 1: never",
    )
    entities_max: int = Field(200_000, ge=1, description="entities cached in memory per partition")
    snapshot_interval_ms: int = Field(250, ge=10, description="shortest time between two model snapshots")
    model_poll_ms: int = Field(50, ge=5, description="how often a score worker looks for a new model")
    watchdog_s: float = Field(60.0, gt=0, description="a worker with lag but no progress for this long stops")
    model_wait_s: float = Field(120.0, gt=0, description="how long a score worker waits for the first model")
    metrics_window: int = Field(1_000, ge=10, description="labels in the sliding window of the metrics")

    archive_url: str = Field(
        ".driftloop/archive",
        description="where examples are archived: a directory, s3://, gs:// or abfss:// (credentials as AWS_..., GOOGLE_... or "
        "AZURE_... variables)",
    )

    web_port: int = Field(0, ge=0, le=65_535, description="of the live page and the metrics of a worker; 0: neither")
    web_host: str = Field("127.0.0.1", description="the address that they are served at; there is no login")
    web_allowed_hosts: str = Field(
        "",
        description="names that they answer to, comma-separated, beside localhost and what they are served at: of a proxy, of a "
        "service that Prometheus scrapes; at all interfaces addresses and the machine's name are allowed, too; *: any name",
    )
    log_format: Literal["text", "json"] = Field("text", description="of a worker's log, one line each")

    crash_at: str | None = Field(None, description="tests only: kill this process at a named point, point[:nth]")

    @field_validator("web_allowed_hosts")
    @classmethod
    def _bare_names(cls, value: str) -> str:
        for name in filter(None, map(str.strip, value.split(","))):
            if "/" in name or name.count(":") == 1 or "]:" in name:
                raise ValueError(f"{name!r}: give names without scheme, port and path, such as page.example.com")
        return value

    def redis(self) -> dict[str, Any]:
        """What `adapters.redis_connections.redis_client` takes."""
        return {"url": self.redis_url.get_secret_value(), "timeout_s": self.redis_timeout_s}

    def kafka(self) -> dict[str, str | int | float | bool]:
        """librdkafka's connection settings, for every client we make."""
        config: dict[str, str | int | float | bool] = {
            "bootstrap.servers": self.brokers,
            "security.protocol": self.kafka_security_protocol,
            "reconnect.backoff.max.ms": 1_000,  # by default a broker that came back may wait ten seconds for us
            "log_level": 0,  # failures reach the caller as exceptions; librdkafka would repeat them on the terminal
        }
        if self.kafka_security_protocol.startswith("SASL"):
            config["sasl.mechanism"] = self.kafka_sasl_mechanism
            config["sasl.username"] = self.kafka_sasl_username or ""
            config["sasl.password"] = self.kafka_sasl_password.get_secret_value() if self.kafka_sasl_password else ""
        if self.kafka_security_protocol.endswith("SSL"):
            for key in ("ca", "certificate", "key"):
                location = getattr(self, f"kafka_ssl_{key}_location")
                if location is not None:
                    config[f"ssl.{key}.location"] = str(location)
        return config

    def label_studio(self) -> dict[str, str]:
        """Its `url` and `token`. Raises ConfigurationError when one of them is missing."""
        for key in ("label_studio_url", "label_studio_token"):
            if not getattr(self, key):
                remedy = "set DRIFTLOOP_LABEL_STUDIO_URL and DRIFTLOOP_LABEL_STUDIO_TOKEN"
                raise ConfigurationError(f"{PREFIX}{key.upper()}", None, remedy)
        assert self.label_studio_url and self.label_studio_token
        return {"url": self.label_studio_url, "token": self.label_studio_token.get_secret_value()}

    def signing(self) -> list[bytes]:
        """The keys that verify snapshots; the first one signs. Raises ConfigurationError when there is none."""
        if self.signing_key is None:
            raise ConfigurationError(
                f"{PREFIX}SIGNING_KEY", None, "set it to a secret of at least 32 characters (openssl rand -hex 32)"
            )
        old = self.signing_keys_old.get_secret_value().split(",") if self.signing_keys_old else []
        keys = [key.strip().encode() for key in [self.signing_key.get_secret_value(), *old] if key.strip()]
        if any(len(key) < 32 for key in keys):
            raise ConfigurationError(
                f"{PREFIX}SIGNING_KEY", "(secret)", "use at least 32 characters, such as `openssl rand -hex 32` prints"
            )
        return keys


def load_settings(**overrides: object) -> Settings:
    """Read the environment. Raises ConfigurationError naming every variable that is wrong."""
    env_file = os.environ.get(f"{PREFIX}ENV_FILE")
    if env_file and not Path(env_file).is_file():
        raise ConfigurationError(f"{PREFIX}ENV_FILE", env_file, "no such file")
    secrets = os.environ.get(f"{PREFIX}SECRETS_DIR")
    if secrets and not Path(secrets).is_dir():
        raise ConfigurationError(f"{PREFIX}SECRETS_DIR", secrets, "no such directory")
    try:
        return Settings(_env_file=env_file, _secrets_dir=secrets, **overrides)  # type: ignore[call-arg, arg-type]
    except ValidationError as error:
        wrong = [
            f"{PREFIX}{'_'.join(map(str, e['loc'])).upper()} = {e.get('input')!r}: {e['msg']}" for e in error.errors()
        ]
        raise ConfigurationError("environment", f"{len(wrong)} wrong", "\n  ".join(["mend", *wrong])) from None


def seen_by_pipelines() -> dict[str, str]:
    """Our variables, which a pipeline file may look at, too."""
    return {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
