"""The server by itself: without Redis and Kafka, on a port that is taken, when the worker hangs."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator

import pytest

from stream.adapters.kafka_tails import KafkaTails
from stream.adapters.redis_connections import redis_client
from stream.adapters.redis_models import RedisControl, RedisModelStore
from stream.adapters.redis_telemetry import RedisTelemetry
from stream.local.process import wait_until
from stream.local.servers import free_port
from stream.topics import TopicNames
from stream.worker.telemetry import PartitionLook, Telemetry
from stream.worker.web.gathering import Gatherer
from stream.worker.web.hosts import AllowedHosts
from stream.worker.web.metrics import WorkerMetrics, registry
from stream.worker.web.serving import ALIVE_S, Server, WebThread, live, ready
from tests.support.cards import pipeline

NOWHERE = {"bootstrap.servers": f"127.0.0.1:{free_port()}", "log_level": 0}
REDIS_NOWHERE = f"redis://127.0.0.1:{free_port()}"


def telemetry() -> Telemetry:
    async def no_status() -> None:
        return None

    store = RedisTelemetry(redis_client(REDIS_NOWHERE, 1.0), pipeline.name)
    return Telemetry(store, "score", dict, no_status)


def thread_of(telemetry: Telemetry, port: int, host: str = "127.0.0.1", names: str = "") -> WebThread:
    def make() -> tuple[Server, Gatherer]:
        client = redis_client(REDIS_NOWHERE, 1.0)
        stores = [kind(client, pipeline.name) for kind in (RedisModelStore, RedisTelemetry, RedisControl)]
        gatherer = Gatherer(pipeline, *stores, KafkaTails(NOWHERE, TopicNames.of(pipeline)))
        return Server(
            AllowedHosts(host, names), gatherer, telemetry, registry(WorkerMetrics("cards", "binary", telemetry))
        ), gatherer

    return WebThread("127.0.0.1", port, make)  # tests listen on loopback, whatever the names are made of


@pytest.fixture
def port() -> Iterator[int]:
    its = free_port()
    thread = thread_of(telemetry(), its)
    thread.start()
    wait_until(lambda: status_of(its, "/live") == 200, 10.0, "the page")
    yield its
    asyncio.run(thread.close())


def status_of(port: int, path: str, host: str | None = None) -> int:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return int(error.code)
    except OSError:
        return 0


def test_without_servers_the_page_says_what_is_missing(port: int):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/state", timeout=10) as answer:
        state = json.load(answer)
    trouble = " ".join(state["trouble"])
    assert "Redis" in trouble and "Kafka" in trouble
    assert state["predictions"] == [] and state["learner"] is None
    assert status_of(port, "/metrics") == 200
    assert status_of(port, "/ready") == 503  # it owns nothing


def test_state_is_gathered_once_a_second_however_many_look(port: int):
    status_of(port, "/state")
    began_s = time.monotonic()
    bodies = set()
    for _ in range(20):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/state", timeout=10) as answer:
            bodies.add(answer.read())
    assert len(bodies) <= 1 + 2 * (time.monotonic() - began_s)


@pytest.mark.parametrize(
    "host",
    ["x:99999", "x:-1", "x:port", "localhost:99999", "[zz]:80", "a b", "x/y", "", "\xff", ":80", "a@b:c@d"],
)
def test_a_host_header_that_is_none_is_refused_and_no_error_of_ours(port: int, host: str):
    with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
        client.sendall(f"GET /live HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode("latin-1"))
        status = client.makefile("rb").readline().split()[1]
    assert status in (b"400", b"403")
    assert status_of(port, "/live") == 200


@pytest.mark.parametrize("path", ["/", "/state", "/metrics", "/ready"])
def test_bound_to_all_interfaces_it_answers_to_no_name_of_elsewhere(path: str):
    its = free_port()
    thread = thread_of(telemetry(), its, host="0.0.0.0", names="page.example.com, learn")
    thread.start()
    try:
        wait_until(lambda: status_of(its, "/live") == 200, 10.0, "the page")
        assert status_of(its, path, f"evil.example:{its}") == 403
        for name in (
            "localhost",
            f"10.1.2.3:{its}",
            "[fd00::1]",
            socket.gethostname(),
            "Page.example.com",
            f"learn:{its}",
        ):
            assert status_of(its, path, name) in (200, 503), name
    finally:
        asyncio.run(thread.close())


@pytest.mark.parametrize(
    ("bound", "declared", "allowed", "refused"),
    [
        (
            "127.0.0.1",
            "",
            ["localhost", "LOCALHOST.", "127.0.0.1", "127.1.2.3", "[::1]"],
            ["10.0.0.1", "me.example", ""],
        ),
        ("10.0.0.1", "", ["10.0.0.1", "localhost"], ["10.0.0.2", "10.0.0.1.evil.example", "evil.example"]),
        ("node.example", "", ["node.example"], ["evil.example", "10.0.0.1"]),
        ("::", "", ["[fd00::1]", "192.168.0.1"], ["evil.example", "localhost.evil.example", ""]),
        ("0.0.0.0", "*", ["any.example", "10.0.0.1"], []),
        ("127.0.0.1", " a.example , 10.0.0.9", ["a.example", "10.0.0.9"], ["b.example", "10.0.0.8"]),
    ],
)
def test_names_that_are_allowed(bound: str, declared: str, allowed: list[str], refused: list[str]):
    hosts = AllowedHosts(bound, declared)
    assert [name for name in allowed if not hosts.allow(name)] == []
    assert [name for name in refused if hosts.allow(name)] == []


def test_a_port_that_is_taken_is_an_error_in_the_log_and_nothing_else(caplog: pytest.LogCaptureFixture):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        thread = thread_of(telemetry(), taken.getsockname()[1])
        with caplog.at_level(logging.ERROR):
            thread.start()
            wait_until(lambda: bool(caplog.records), 10.0, "the error")
        asyncio.run(thread.close())
    (record,) = caplog.records
    assert record.code == "web_failed"
    assert "DRIFTLOOP_WEB_PORT" in record.getMessage()


def test_a_worker_that_hangs_is_not_alive_and_one_without_partitions_not_ready():
    its = telemetry()
    assert live(its).fine and not ready(its).fine
    its.latest = {3: PartitionLook({}, {}, {}, 0)}
    assert ready(its).fine
    its.looked_s -= ALIVE_S + 1
    assert not live(its).fine and not ready(its).fine
