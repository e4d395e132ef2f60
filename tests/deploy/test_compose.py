"""compose.yaml and Dockerfile, without a container engine: the specification's schema, rules, and every command of ours, run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import redis
import yaml

from stream.adapters.airflow_connections import kafka_connection
from stream.cli.showing import read_status
from stream.local.airflow import AIRFLOW_PYTHON
from stream.local.airflow_client import AirflowClient
from stream.local.postgres import PostgresServer
from stream.local.prerequisites import redis_binary
from stream.local.process import Child, Reaper, end_session, wait_until
from stream.local.servers import JVM, KafkaServer, free_port
from stream.settings import Settings, load_settings
from tests.conftest import KAFKA_CACHE

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
GUIDE = (ROOT / "docs" / "deploying.md").read_text()
SERVICES: dict[str, Any] = COMPOSE["services"]
OURS = {name for name, its in SERVICES.items() if its.get("build", {}).get("target") == "worker"}
AIRFLOW = {name for name, its in SERVICES.items() if its.get("build", {}).get("target") == "airflow"}
ONCE = {"topics", "producer", "airflow-init"}


def test_the_schema_of_the_specification():
    schema = json.loads(Path(__file__).with_name("compose-spec.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(COMPOSE)
    with pytest.raises(jsonschema.ValidationError):  # it does look
        jsonschema.Draft7Validator(schema).validate({**COMPOSE, "services": {"a": {"imagee": "b"}}})


@pytest.mark.parametrize("name", SERVICES)
def test_rules_for_every_service(name: str):
    its = SERVICES[name]
    image, _, tag = its["image"].rpartition(":")
    assert image, "a tag is named"
    assert re.match(r"v?\d+\.\d+", tag), "an exact version"
    assert its["cap_drop"] == ["ALL"]
    assert its["security_opt"] == ["no-new-privileges:true"]
    assert its.get("read_only") or name == "kafka"  # its start script writes its properties
    assert "privileged" not in its
    for port in its.get("ports", []):
        assert port.startswith("127.0.0.1:")
        assert "front" in its["networks"]  # an internal network publishes nothing
    assert name in ONCE or its["healthcheck"]["test"]
    assert (its["restart"] == "unless-stopped") == (name not in ONCE)
    for other, condition in its.get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other in ONCE else "service_healthy"
        assert condition == {"condition": wanted}
        assert other in SERVICES
        assert "profiles" not in SERVICES[other]
    assert set(its.get("secrets", [])) <= set(COMPOSE["secrets"])
    assert set(its["networks"]) <= set(COMPOSE["networks"])
    for volume in its.get("volumes", []):
        source = volume.split(":")[0]
        if source.startswith("."):
            assert (ROOT / source).is_dir()
            assert volume.endswith(":ro")
        else:
            assert source in COMPOSE["volumes"]
    for variable, value in its.get("environment", {}).items():
        assert isinstance(value, str), f"{variable} is quoted"
        secret = re.search(r"PASSWORD|SECRET|FERNET|SIGNING|TOKEN|CONN$", variable)
        assert not secret or "/run/secrets" in value or variable.endswith("PASSWORDS_FILE"), variable


def test_what_starts_with_the_demo_and_what_with_profiles():
    profiles = {name: its["profiles"] for name, its in SERVICES.items() if "profiles" in its}
    assert profiles == {"label-studio": ["label-studio"], "mlflow": ["mlflow"]}
    assert OURS == {"topics", "learn", "score", "producer"}
    assert len(AIRFLOW) == 5
    text = (ROOT / "pom.xml").read_text()
    assert f"<version>{SERVICES['kafka']['image'].partition(':')[2]}</version>" in text  # the Kafka that the tests run
    version = re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert version is not None
    assert {SERVICES[name]["image"].rpartition(":")[2] for name in OURS | AIRFLOW} == {version[1]}


def test_what_no_test_runs_is_said():
    """docs/deploying.md counts our images, and names the services that are checked by schema and rules only."""
    said = re.search(r"^- \*\*What is checked, and what is not\.\*\*.*?(?=\n\n|\n- )", GUIDE, re.DOTALL | re.MULTILINE)
    assert said is not None
    built = {its["build"]["target"] for its in SERVICES.values() if "build" in its}
    assert len(built) == 3 and "our three images" in said[0]
    assert all(f"`{target}`" in said[0] for target in built)
    run_as_servers = {"kafka", "redis", "postgres"}  # `Here`, below
    unrun = {name for name, its in SERVICES.items() if "build" not in its} - run_as_servers
    listed = re.search(r"([A-Z][^.]*)\s+are\s+checked\s+by\s+schema and rules only", said[0])
    assert listed is not None
    assert {name.lower().replace(" ", "-") for name in re.split(r", | and ", listed[1])} == unrun


def test_every_variable_of_ours_is_a_setting():
    known = {f"DRIFTLOOP_{field.upper()}" for field in Settings.model_fields} | {"DRIFTLOOP_SECRETS_DIR"}
    named = {v for n in OURS | AIRFLOW for v in SERVICES[n]["environment"] if v.startswith("DRIFTLOOP_")}
    assert named <= known
    variable, value = kafka_connection(load_settings(brokers="kafka:9092").kafka(), "payments")
    assert json.loads(SERVICES["airflow-triggerer"]["environment"][variable]) == json.loads(value)


def test_the_dockerfile_is_pinned_and_copies_what_is_there():
    text = (ROOT / "Dockerfile").read_text()
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)[1:]
    names = {stage.split()[2]: stage for stage in stages}
    assert set(names) == {"base", "worker", "airflow", "mlflow"}
    assert re.match(r"python:3\.1[123]\.\d+-slim-\w+ ", names["base"])
    for name in ("worker", "airflow", "mlflow"):
        assert names[name].startswith("base ")
        assert re.search(r"^USER driftloop$", names[name], re.MULTILINE)
        assert names[name].index("requirements") < names[name].index("USER")
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for source in re.findall(r"^COPY (.*) \S+$", text, re.MULTILINE):
        for path in source.split():
            assert (ROOT / path).exists(), path
            assert f"!{path}" in ignored or ("!requirements/*.txt" in ignored and path.startswith("requirements/")), (
                path
            )
    for path in re.findall(r"--requirement (\S+)", text):
        lines = [line for line in (ROOT / path).read_text().splitlines() if line.strip() and not line.startswith("#")]
        assert all("==" in line for line in lines), path
    tested = dict(
        line.split("==", 1) for line in (ROOT / "requirements" / "dev.txt").read_text().splitlines() if "==" in line
    )
    for line in (ROOT / "requirements" / "deploy.txt").read_text().splitlines():
        name, _, version = line.partition("==")
        if ";" not in line:
            assert tested.get(name, version).split(" ")[0] == version, f"{name}: the tests run with another version"


def test_secrets_are_made_once(tmp_path: Path):
    directory = tmp_path / "secrets"
    make_secrets(directory)
    assert {path.name for path in directory.iterdir()} == set(COMPOSE["secrets"])
    assert directory.stat().st_mode & 0o077 == 0
    before = {path.name: path.read_text() for path in directory.iterdir()}
    make_secrets(directory)
    assert {path.name: path.read_text() for path in directory.iterdir()} == before
    assert "deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    for name, its in COMPOSE["secrets"].items():
        assert its == {"file": f"./deploy/secrets/{name}"}


def test_the_token_of_label_studio_may_come_later(tmp_path: Path):
    token, name = tmp_path / "driftloop_label_studio_token", "DRIFTLOOP_LABEL_STUDIO_TOKEN"
    make_secrets(tmp_path)
    assert token.read_text() == "\n"
    make_secrets(tmp_path, **{name: "t0k"})
    assert (token.read_text(), token.stat().st_mode & 0o777) == ("t0k\n", 0o644)
    make_secrets(tmp_path)
    make_secrets(tmp_path, **{name: "another"})
    assert token.read_text() == "t0k\n"  # one that is there stays


def make_secrets(directory: Path, **environment: str) -> None:
    command = ["sh", str(ROOT / "deploy" / "secrets.sh"), str(directory)]
    subprocess.run(command, check=True, timeout=30, env={**os.environ, **environment})


# -- every command of ours, here -------------------------------------------------------------------------------------------


class Here:
    """The services of compose.yaml as processes of this machine: same commands, same variables, other addresses."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.reaper = Reaper()
        self.children: list[Child] = []
        self.secrets = directory / "secrets"
        make_secrets(self.secrets)
        (directory / "data").mkdir()
        (directory / "airflow").mkdir()
        self.ports = {name: free_port() for name in ("kafka", "controller", "host", "redis", "airflow")}
        self.replaced = {
            "kafka:9092": f"127.0.0.1:{self.ports['kafka']}",
            "0.0.0.0:9092": f"127.0.0.1:{self.ports['kafka']}",
            "localhost:9092": f"127.0.0.1:{self.ports['kafka']}",
            "localhost:9093": f"127.0.0.1:{self.ports['controller']}",
            "0.0.0.0:9094": f"127.0.0.1:{self.ports['host']}",
            "localhost:9094": f"127.0.0.1:{self.ports['host']}",
            "/var/lib/kafka/data": str(directory / "kafka"),
            "airflow-api-server:8081": f"127.0.0.1:{self.ports['airflow']}",
            "8081": str(self.ports["airflow"]),
            "/run/secrets": str(self.secrets),
            "/opt/driftloop": str(ROOT),
            "/opt/airflow": str(directory / "airflow"),
            "/tmp/pipelines": str(directory / "pipelines"),
            "/data": str(directory / "data"),
            "0.0.0.0": "127.0.0.1",
        }
        url = self.secrets / "driftloop_redis_url"
        url.write_text(url.read_text().replace("redis:6379", f"127.0.0.1:{self.ports['redis']}"))

    def close(self) -> None:
        for child in self.children:
            if child.running():
                child.signal(15)
        for child in self.children:
            child.stop(20)
            if child.process is not None:
                end_session(child.pid)
        self.reaper.close()

    def localised(self, text: str) -> str:
        text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)  # variables that nobody has set
        for there, here in self.replaced.items():
            before = r"(?<![\w/.-])" if there.startswith("/") else r"(?<![\w.-])"
            text = re.sub(rf"{before}{re.escape(there)}(?![\w-])", lambda _, here=here: here, text)
        return text

    def environment(self, service: str, **more: str) -> dict[str, str]:
        outside = {name: value for name, value in os.environ.items() if not name.startswith(("DRIFTLOOP_", "AIRFLOW_"))}
        own = {name: self.localised(value) for name, value in SERVICES[service]["environment"].items()}
        return {**outside, **own, "PYTHONPATH": str(ROOT), **more}

    def command(self, service: str, *start: str) -> list[str]:
        return [*start, *(self.localised(part) for part in SERVICES[service]["command"])]

    def start(self, service: str, command: list[str], environment: dict[str, str]) -> Child:
        child = Child(service, command, self.directory / f"{service}.log", self.reaper, environment)
        child.start()
        self.children.append(child)
        return child

    def run(self, service: str, command: list[str], environment: dict[str, str]) -> str:
        answer = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=150, check=False
        )
        assert answer.returncode == 0, f"{service}: {answer.stdout[-2_000:]}{answer.stderr[-3_000:]}"
        return answer.stdout

    def start_redis(self) -> None:
        command = [*self.command("redis"), "--port", str(self.ports["redis"]), "--bind", "127.0.0.1"]
        assert command[0] == "redis-server"
        self.start("redis", [str(redis_binary()), *command[1:]], dict(os.environ))
        client = redis.Redis(port=self.ports["redis"])  # as `redis-cli ping` of its health check: without a user

        def answers() -> bool:
            try:
                return bool(client.ping())
            except redis.ConnectionError:
                return False

        wait_until(answers, 20, "Redis to answer")
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get("x")
        client.close()

    def start_kafka(self) -> None:
        """Its image makes properties of the variables KAFKA_...; so do we."""
        properties = self.directory / "server.properties"
        lines = [
            f"{name.removeprefix('KAFKA_').lower().replace('_', '.')}={self.localised(value)}"
            for name, value in SERVICES["kafka"]["environment"].items()
        ]
        properties.write_text("\n".join(lines) + "\n")
        classpath = ["-cp", f"{(KAFKA_CACHE / 'libs').resolve()}/*"]
        cluster_id = ["-t", "driftloop-local-cluste", "-c", str(properties)]
        self.run("kafka", ["java", *classpath, "kafka.tools.StorageTool", "format", *cluster_id], dict(os.environ))
        self.start("kafka", ["java", *JVM, *classpath, "kafka.Kafka", str(properties)], dict(os.environ))
        for listener in ("kafka", "host"):
            server = KafkaServer.__new__(KafkaServer)
            server.brokers = f"127.0.0.1:{self.ports[listener]}"
            wait_until(server.ready, 60, f"Kafka to answer at its listener {listener}")


@pytest.fixture(scope="module")
def here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Here]:
    made = Here(tmp_path_factory.mktemp("compose"))
    try:
        made.start_redis()
        made.start_kafka()
        yield made
    finally:
        made.close()


@pytest.mark.integration
@pytest.mark.timeout(240)
def test_the_commands_of_the_worker_image(here: Here):
    ours = (sys.executable, "-m", "stream.cli")  # the image's entry point
    assert 'ENTRYPOINT ["python", "-m", "stream.cli"]' in (ROOT / "Dockerfile").read_text()
    made = here.run("topics", here.command("topics", *ours), here.environment("topics"))
    assert "created: events" in made
    web = {name: str(free_port()) for name in ("learn", "score")}
    for name in ("learn", "score"):
        environment = here.environment(name, DRIFTLOOP_WEB_PORT=web[name])
        here.start(name, _absolute(here.command(name, *ours)), environment)
    limit = ["400" if part == "100000" else part for part in here.command("producer", *ours)]
    said = here.run("producer", limit, here.environment("producer"))
    assert "produced 400 events" in said
    with pytest.MonkeyPatch.context() as patch:
        for name, value in here.environment("score").items():
            if name.startswith("DRIFTLOOP_"):
                patch.setenv(name, value)
        settings = load_settings()
    workers = [child for child in here.children if child.name in ("learn", "score")]

    def done() -> bool:
        for worker in workers:
            assert worker.running(), worker.tail(30)
        status = read_status(settings, "payments")
        return status.learner is not None and not any(status.lag(t) for t in ("events", "labels", "examples"))

    wait_until(done, 120, "the demo's first events to be answered", 0.5)
    counts = read_status(settings, "payments").counts()
    assert counts["predictions"] == counts["events"] == 400
    assert list((here.directory / "data" / "artifacts" / "payments" / "bases").iterdir())
    if "web_port" in Settings.model_fields:
        for name in ("learn", "score"):
            test = [part.replace("8080", web[name]) for part in SERVICES[name]["healthcheck"]["test"]]
            assert test[:2] == ["CMD", "python"]
            here.run(f"{name}'s health check", [sys.executable, *test[2:]], dict(os.environ))
    for worker in workers:
        worker.signal(15)
        assert worker.stop(40) == 0, worker.tail(20)


def _absolute(command: list[str]) -> list[str]:
    """The image works in /opt/driftloop."""
    return [str(ROOT / part) if part.startswith("examples/") else part for part in command]


@pytest.mark.airflow
@pytest.mark.timeout(400)
def test_the_commands_of_the_airflow_image(here: Here):
    """Airflow's own entry point, with secrets from files, on a PostgreSQL."""
    folder = here.directory / "postgres"
    folder.mkdir()
    postgres = PostgresServer(folder, AIRFLOW_PYTHON, here.reaper)
    postgres.start()
    try:
        postgres.wait_ready()
        (here.secrets / "airflow_database").write_text(postgres.sqlalchemy_url + "\n")
        start = (str(AIRFLOW_PYTHON), "-m", "airflow")
        bare = str(AIRFLOW_PYTHON.parent) + os.pathsep + os.environ["PATH"]
        first = here.environment("airflow-init", PATH=bare)
        here.run("airflow-init", here.command("airflow-init", *start), first)
        for section, option, secret in (
            ("core", "fernet_key", "airflow_fernet_key"),
            ("api", "secret_key", "airflow_secret_key"),
            ("api_auth", "jwt_secret", "airflow_jwt_secret"),
        ):
            answer = here.run("config", [*start, "config", "get-value", section, option], first)
            assert answer.strip().splitlines()[-1] == (here.secrets / secret).read_text().strip(), option
        topics = (sys.executable, "-m", "stream.cli")
        here.run("topics", here.command("topics", *topics), here.environment("topics"))
        for name in sorted(AIRFLOW - {"airflow-init"}):
            here.start(name, here.command(name, *start), here.environment(name, PATH=bare))
        password_file = here.directory / "airflow" / "passwords.json"
        client: AirflowClient | None = None
        wanted: set[str] = {"archive_examples__payments"}

        def up() -> bool:
            nonlocal client
            for child in here.children:
                if child.name.startswith("airflow-"):
                    assert child.running(), child.tail(30)
            if client is None and password_file.exists() and password_file.read_text().strip():
                password = json.loads(password_file.read_text())["admin"]
                client = AirflowClient(f"http://127.0.0.1:{here.ports['airflow']}", "admin", password)
            if client is None:
                return False
            try:
                health = client.health()
                return set(health.values()) == {"healthy"} and wanted <= set(client.dags())
            except Exception:  # noqa: BLE001 - it is not up yet
                return False

        wait_until(up, 240, "Airflow to be well and to know the DAGs", 1.0)
        assert client is not None
        assert not client.import_errors()
        for name in ("airflow-api-server", "airflow-scheduler", "airflow-dag-processor", "airflow-triggerer"):
            test = SERVICES[name]["healthcheck"]["test"]
            command = ["sh", "-c", test[1]] if test[0] == "CMD-SHELL" else [here.localised(part) for part in test[1:]]
            deadline_s = time.monotonic() + 60
            while True:  # its health check may come before its first heartbeat
                try:
                    here.run(f"{name}'s health check", command, here.environment(name, PATH=bare))
                    break
                except AssertionError:
                    if time.monotonic() > deadline_s:
                        raise
    finally:
        for child in here.children:
            if child.name.startswith("airflow-"):
                child.signal(15)
        for child in here.children:
            if child.name.startswith("airflow-"):
                child.stop(30)
                end_session(child.pid)
        postgres.stop()
