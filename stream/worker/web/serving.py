"""The HTTP server of a worker: the page, its state, the metrics, `/live` and `/ready`. Read-only, no login, loopback by default.

It has a thread and an event loop of its own: a slow viewer or a mistake here does not hold up the worker, whose failure to
serve a page is logged and nothing else.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from importlib import resources
from typing import NamedTuple

import msgspec
from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from stream.worker.telemetry import Telemetry
from stream.worker.web.gathering import Gatherer
from stream.worker.web.hosts import AllowedHosts

__all__ = ["WebThread"]

log = logging.getLogger(__name__)

VIEWERS_MAX = 50
PUSH_S = 1.0
KEEP_ALIVE_S = 15.0
WRITE_S = 20.0  # for a viewer that does not read
ALIVE_S = 10.0  # the worker's loop has been heard of
STOP_S = 5.0
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Server": "driftloop",
}
ASSETS = {
    "/": ("page.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/charts.js": ("charts.js", "text/javascript"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}


class Health(NamedTuple):
    """What `/live` and `/ready` say."""

    fine: bool
    reason: str


def live(telemetry: Telemetry) -> Health:
    """The worker's own event loop has been heard of."""
    silent_s = time.monotonic() - telemetry.looked_s
    return Health(silent_s < ALIVE_S, f"the event loop was heard of {silent_s:.1f} s ago")


def ready(telemetry: Telemetry) -> Health:
    """It owns partitions, too. A spare worker is never ready, and need not be."""
    alive = live(telemetry)
    if not alive.fine:
        return alive
    owned = sorted(telemetry.latest)
    return Health(bool(owned), f"owns partitions {owned}")


class Server:
    """The routes. Everything belongs to one event loop."""

    def __init__(
        self,
        hosts: AllowedHosts,
        gatherer: Gatherer,
        telemetry: Telemetry,
        registry: CollectorRegistry,
        push_s: float = PUSH_S,
    ) -> None:
        self._gatherer = gatherer
        self._telemetry = telemetry
        self._registry = registry
        self._push_s = push_s
        self._viewers = 0
        self._hosts = hosts
        self._assets = {
            path: (resources.files(__package__).joinpath("assets", name).read_bytes(), kind)
            for path, (name, kind) in ASSETS.items()
        }

    def application(self) -> web.Application:
        app = web.Application(middlewares=[self._guard], client_max_size=0)
        for path in self._assets:
            app.router.add_get(path, self._asset)
        app.router.add_get("/state", self._state)
        app.router.add_get("/course", self._course)
        app.router.add_get("/stream", self._stream)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/live", self._live)
        app.router.add_get("/ready", self._ready)
        return app

    @web.middleware
    async def _guard(
        self, request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        try:
            host = request.url.host or ""
        except ValueError:  # UnicodeError, too: what the header holds is no host and port
            return web.Response(status=400, text="the Host header cannot be read\n", headers=HEADERS)
        if not self._hosts.allow(host):
            name = ascii(host)[:100]
            text = f"this server does not answer to the name {name}: put it into DRIFTLOOP_WEB_ALLOWED_HOSTS\n"
            return web.Response(status=403, text=text, headers=HEADERS)
        try:
            response = await handler(request)
        except web.HTTPException as error:
            return web.Response(status=error.status, text=f"{error.reason}\n", headers={**error.headers, **HEADERS})
        if not response.prepared:
            response.headers.update(HEADERS)
        return response

    async def _asset(self, request: web.Request) -> web.Response:
        body, kind = self._assets[request.path]
        return web.Response(body=body, content_type=kind, charset="utf-8")

    async def _state(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._gatherer.state(), content_type="application/json")

    async def _course(self, _: web.Request) -> web.Response:
        return web.Response(body=await self._gatherer.course(), content_type="application/json")

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"Content-Type": CONTENT_TYPE_PLAIN_0_0_4})

    async def _live(self, _: web.Request) -> web.Response:
        return _health(live(self._telemetry))

    async def _ready(self, _: web.Request) -> web.Response:
        return _health(ready(self._telemetry))

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events: `state` whenever it has changed, `course` likewise, comments in between."""
        if self._viewers >= VIEWERS_MAX:
            raise web.HTTPServiceUnavailable(reason=f"{VIEWERS_MAX} viewers are connected")
        self._viewers += 1
        try:
            response = web.StreamResponse(headers={**HEADERS, "Content-Type": "text/event-stream"})
            await response.prepare(request)
            await self._push(response)
            return response
        finally:
            self._viewers -= 1

    async def _push(self, response: web.StreamResponse) -> None:
        sent = {"state": b"", "course": b""}
        written_s = time.monotonic()
        try:
            while True:
                now = {"state": await self._gatherer.state(), "course": await self._gatherer.course()}
                parts = [b"event: %s\ndata: %s\n\n" % (n.encode(), d) for n, d in now.items() if d != sent[n]]
                if not parts and time.monotonic() - written_s > KEEP_ALIVE_S:
                    parts = [b": here\n\n"]
                if parts:
                    async with asyncio.timeout(WRITE_S):
                        await response.write(b"".join(parts))
                    sent, written_s = now, time.monotonic()
                await asyncio.sleep(self._push_s)
        except (ConnectionError, TimeoutError):
            return  # the viewer is gone


def _health(health: Health) -> web.Response:
    body = msgspec.json.encode({"status": "ok" if health.fine else "not ok", "reason": health.reason})
    return web.Response(status=200 if health.fine else 503, body=body, content_type="application/json")


class WebThread:
    """Runs a server until `close`. `make`: called in the thread, on its loop."""

    def __init__(self, host: str, port: int, make: Callable[[], tuple[Server, Gatherer]]) -> None:
        self._host, self._port, self._make = host, port, make
        self._loop = asyncio.new_event_loop()
        self._ended = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="web", daemon=True)

    def start(self) -> None:
        """Returns at once."""
        self._thread.start()

    async def close(self) -> None:
        """Viewers are disconnected."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._ended.set)
            await asyncio.to_thread(self._thread.join, STOP_S)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except OSError as error:
            log.error(
                "no page and no metrics at %s:%d: %s; set another DRIFTLOOP_WEB_PORT", self._host, self._port, error,
                extra={"code": "web_failed"},
            )  # fmt: skip
        except Exception:
            log.exception("no page and no metrics", extra={"code": "web_failed"})
        finally:
            self._loop.close()

    async def _serve(self) -> None:
        server, gatherer = self._make()
        # Viewers never end by themselves.
        runner = web.AppRunner(
            server.application(), handle_signals=False, access_log=None, shutdown_timeout=0.5, keepalive_timeout=30.0
        )
        try:
            await runner.setup()
            await web.TCPSite(runner, self._host, self._port).start()
            log.info("page at http://%s:%d", self._host, self._port)
            await self._ended.wait()
        finally:
            await runner.cleanup()
            await gatherer.close()
