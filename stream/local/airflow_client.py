"""Airflow's REST interface, as far as the demo and the tests need it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

from stream.errors import DriftloopError, Unavailable

__all__ = ["AirflowClient"]

TIMEOUT_S = 20.0


class AirflowClient:
    """Calls block for at most 20 s. They raise Unavailable when nobody answers, DriftloopError when the answer is no."""

    def __init__(self, url: str, username: str, password: str) -> None:
        self.url = url
        self._login = {"username": username, "password": password}
        self._token: str | None = None

    def health(self) -> dict[str, str]:
        """Component -> healthy, unhealthy or none."""
        answer = self._call("GET", "/api/v2/monitor/health", login=False)
        return {name: str((part or {}).get("status")) for name, part in answer.items()}

    def dags(self) -> list[str]:
        return [dag["dag_id"] for dag in self._get("/api/v2/dags", limit=100)["dags"]]

    def import_errors(self) -> list[dict[str, Any]]:
        return list(self._get("/api/v2/importErrors")["import_errors"])

    def runs(self, dag_id: str) -> list[dict[str, Any]]:
        """The newest first."""
        return list(self._get(f"/api/v2/dags/{quote(dag_id)}/dagRuns", order_by="-run_after", limit=100)["dag_runs"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        return self._get(f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}")

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None) -> str:
        """Start a run; returns its id."""
        body = {"logical_date": None, "conf": dict(conf or {})}
        return str(self._call("POST", f"/api/v2/dags/{quote(dag_id)}/dagRuns", body)["dag_run_id"])

    def end(self, dag_id: str, run_id: str, state: str = "failed") -> None:
        """Mark a run as failed or success; what it runs is stopped."""
        for attempt in range(5):
            try:
                self._call("PATCH", f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}", {"state": state})
                return
            except (
                DriftloopError
            ) as error:  # the scheduler changes the same rows: PostgreSQL ends one of two in a deadlock
                if ": 500 " not in str(error) or attempt == 4:
                    raise

    def pause(self, dag_id: str, paused: bool = True) -> None:
        self._call("PATCH", f"/api/v2/dags/{quote(dag_id)}", {"is_paused": paused})

    def tasks(self, dag_id: str, run_id: str) -> dict[str, str]:
        """Task -> state; the instances of a mapped task have their index behind the name: run_trial[3]."""
        path = f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}/taskInstances"
        return {
            t["task_id"] + (f"[{t['map_index']}]" if t["map_index"] >= 0 else ""): str(t["state"])
            for t in self._get(path, limit=1000)["task_instances"]
        }

    def result(self, dag_id: str, run_id: str, task_id: str, map_index: int = -1, *, key: str = "return_value") -> Any:
        """What a task returned, or pushed under another key."""
        path = f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}/taskInstances/{quote(task_id)}"
        return self._get(f"{path}/xcomEntries/{quote(key)}", map_index=map_index, deserialize="true")["value"]

    def log(self, dag_id: str, run_id: str, task_id: str, attempt: int = 1, map_index: int = -1) -> str:
        path = f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}/taskInstances/{quote(task_id)}/logs/{attempt}"
        answer = self._get(path, map_index=map_index, full_content="true")
        return "\n".join(json.dumps(line) for line in answer.get("content", []))

    def wake(self, asset: str, payload: Mapping[str, Any]) -> None:
        """Tell an asset that something happened: what the triggerer does when a message comes."""
        found = self._get("/api/v2/assets", name_pattern=asset, limit=100)["assets"]
        ids = [a["id"] for a in found if a["name"] == asset]
        if not ids:
            raise DriftloopError(f"Airflow knows no asset {asset!r}")
        self._call("POST", "/api/v2/assets/events", {"asset_id": ids[0], "extra": {"payload": dict(payload)}})

    def asset_events(self) -> list[dict[str, Any]]:
        return list(self._get("/api/v2/assets/events", limit=100, order_by="-timestamp")["asset_events"])

    def questions(self, dag_id: str = "~", run_id: str = "~", *, answered: bool = False) -> list[dict[str, Any]]:
        """Human-in-the-loop details: `task_instance`, `subject`, `options`, `chosen_options`, ..."""
        path = f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}/hitlDetails"
        return list(self._get(path, response_received=str(answered).lower(), limit=100)["hitl_details"])

    def answer(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        option: str,
        map_index: int = -1,
        *,
        written: Mapping[str, Any] | None = None,
    ) -> None:
        """Answer a question once. `written`: what stands in the form's fields."""
        path = f"/api/v2/dags/{quote(dag_id)}/dagRuns/{quote(run_id)}/taskInstances/{quote(task_id)}/{map_index}"
        self._call("PATCH", f"{path}/hitlDetails", {"chosen_options": [option], "params_input": dict(written or {})})

    # -- HTTP --------------------------------------------------------------------------------------------------------

    def _get(self, path: str, **query: object) -> dict[str, Any]:
        return self._call("GET", f"{path}?{urlencode(query)}" if query else path)

    def _call(self, method: str, path: str, body: object = None, *, login: bool = True) -> dict[str, Any]:
        if login and self._token is None:
            self._token = str(self._call("POST", "/auth/token", self._login, login=False)["access_token"])
        headers = {"Content-Type": "application/json"}
        if login:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        try:
            with urlopen(Request(self.url + path, data, headers, method=method), timeout=TIMEOUT_S) as answer:
                return dict(json.loads(answer.read() or b"{}"))
        except HTTPError as error:
            text = error.read().decode(errors="replace")[:500]
            if error.code == 401 and login:  # a token does not live for ever
                self._token = None
            raise DriftloopError(f"Airflow: {method} {path}: {error.code} {text}") from None
        except (URLError, TimeoutError, ConnectionError) as error:
            raise Unavailable(f"Airflow at {self.url}: {error}") from error
