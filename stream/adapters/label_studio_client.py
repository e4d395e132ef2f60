"""Label Studio's REST interface, as far as label requests need it (api.labelstud.io, version 1.23).

Its SDK would bring pandas, OpenCV and NLTK into Airflow's environment for ten calls. Tokens: a personal access token is a
refresh token, for which the server gives an access token that lasts minutes; a legacy token is sent as it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from http.client import HTTPException
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.parse import urlencode, urlsplit
from urllib.request import HTTPRedirectHandler, OpenerDirector, Request, build_opener

from stream.errors import ConfigurationError, Unavailable

__all__ = ["LabelStudioClient"]

TIMEOUT_S = 20.0
IMPORT_TIMEOUT_S = 120.0
PAGE = 100
PAGES_MAX = 1_000
BYTES_MAX = 64 * 1024 * 1024
LATER = (408, 425, 429, 500, 502, 503, 504)  # it may be well again


class _NoRedirects(HTTPRedirectHandler):
    """Following one would send the token to wherever it leads."""

    def redirect_request(self, *_: Any) -> None:
        return None


class LabelStudioClient:
    """Blocking calls, each of 20 s at most.

    Args:
        url: where Label Studio is, such as "https://labels.example.org".
        token: a personal access token, or a legacy token.

    Raises, each call:
        Unavailable: nobody answers, in time or sense; or it says that it cannot at the moment.
        ConfigurationError: it refuses: the token, the rights of its user, or what it was sent.
    """

    def __init__(self, url: str, token: str, timeout_s: float = TIMEOUT_S) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username:
            raise ConfigurationError("Label Studio's address", url, "use http(s)://host[:port], without a user")
        if not token.strip():
            raise ConfigurationError("Label Studio's token", "", "copy one from Account & Settings there")
        self.url = url.rstrip("/")
        self._token, self._timeout_s = token.strip(), timeout_s
        self._refreshes = self._token.count(".") == 2  # a JSON web token
        self._access: str | None = None
        self._opener: OpenerDirector = build_opener(_NoRedirects)

    # -- projects ----------------------------------------------------------------------------------------------------

    def find_project(self, mark: str) -> int | None:
        """The project in whose description the mark stands."""
        for number in range(1, PAGES_MAX):
            answer = self._call("GET", "/api/projects/", page=number, page_size=PAGE)
            for project in answer["results"]:
                if mark in (project.get("description") or ""):
                    return int(project["id"])
            if not answer.get("next"):
                return None
        return None

    def create_project(self, fields: Mapping[str, Any]) -> int:
        return int(self._call("POST", "/api/projects/", fields)["id"])

    def is_project(self, project: int, mark: str) -> bool:
        """Whether it is there and has the mark: over SQLite, a deleted project's number is given to the next one."""
        found = self._call("GET", f"/api/projects/{project}/", missing=True)
        return found is not None and mark in (found.get("description") or "")

    def change_project(self, project: int, fields: Mapping[str, Any]) -> None:
        self._call("PATCH", f"/api/projects/{project}/", fields)

    # -- tasks -------------------------------------------------------------------------------------------------------

    def import_tasks(self, project: int, tasks: Sequence[Mapping[str, Any]]) -> None:
        """May be done although it raises Unavailable; Label Studio does not know that it has a task already."""
        self._call("POST", f"/api/projects/{project}/import", tasks, timeout_s=IMPORT_TIMEOUT_S)

    def tasks(self, project: int, filters: Sequence[tuple[str, str, str, Any]]) -> Iterator[dict[str, Any]]:
        """With annotations, by number; those to which all filters apply: (column, operator, type, value)."""
        items = [
            {"filter": f"filter:tasks:{column}", "operator": operator, "type": kind, "value": value}
            for column, operator, kind, value in filters
        ]
        query = json.dumps({"filters": {"conjunction": "and", "items": items}, "ordering": ["tasks:id"]})
        seen = 0
        for number in range(1, PAGES_MAX):
            answer = self._call(
                "GET",
                "/api/tasks/",
                project=project,
                page=number,
                page_size=PAGE,
                fields="all",
                resolve_uri="false",
                query=query,
            )  # a feature may look like an address: nothing is to be fetched for it
            yield from answer["tasks"]
            seen += len(answer["tasks"])
            if seen >= int(answer["total"]) or not answer["tasks"]:
                return

    def task(self, number: int) -> dict[str, Any] | None:
        found: dict[str, Any] | None = self._call("GET", f"/api/tasks/{number}/", missing=True)
        return found

    def show_to(self, number: int, people: int) -> None:
        self._call("PATCH", f"/api/tasks/{number}/", {"overlap": people}, missing=True)

    def delete_task(self, number: int) -> None:
        self._call("DELETE", f"/api/tasks/{number}/", missing=True)

    def user_email(self, number: int) -> str | None:
        found = self._call("GET", f"/api/users/{number}/", missing=True)
        return None if found is None else str(found.get("email") or "") or None

    # -- calls -------------------------------------------------------------------------------------------------------

    def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        missing: bool = False,
        timeout_s: float | None = None,
        **query: Any,
    ) -> Any:
        """`missing`: None for what is not there."""
        address = f"{self.url}{path}" + (f"?{urlencode(query)}" if query else "")
        for attempt in (1, 2):
            try:
                return self._send(method, address, body, self._authorization(), timeout_s)
            except HTTPError as error:
                with error:
                    if error.code == 404 and missing:
                        return None
                    if error.code == 401 and self._refreshes and attempt == 1:
                        self._access = None  # it has expired
                        continue
                    raise self._refused(method, path, error) from None
        raise AssertionError("unreachable")

    def _authorization(self) -> str:
        if not self._refreshes:
            return f"Token {self._token}"
        if self._access is None:
            path = "/api/token/refresh/"
            try:
                answer = self._send("POST", f"{self.url}{path}", {"refresh": self._token}, None, None)
            except HTTPError as error:
                with error:
                    raise self._refused("POST", path, error) from None
            self._access = str(answer["access"])
        return f"Bearer {self._access}"

    def _send(self, method: str, address: str, body: Any, authorization: str | None, timeout_s: float | None) -> Any:
        request = Request(address, method=method, headers={"Accept": "application/json"})
        if authorization is not None:
            request.add_header("Authorization", authorization)
        if body is not None:
            request.add_header("Content-Type", "application/json")
            request.data = json.dumps(body, allow_nan=False).encode()
        try:
            with self._opener.open(request, timeout=timeout_s or self._timeout_s) as answer:
                content = answer.read(BYTES_MAX + 1)
        except HTTPError:
            raise
        except (URLError, HTTPException, OSError) as error:  # a time-out is an OSError
            raise Unavailable(f"Label Studio, {self.url}: {error}") from error
        if len(content) > BYTES_MAX:
            raise Unavailable(f"Label Studio, {method} {address}: more than {BYTES_MAX:,} bytes")
        try:
            return json.loads(content) if content else {}
        except ValueError as error:
            raise Unavailable(f"Label Studio, {method} {address}: not JSON: {content[:100]!r}") from error

    def _refused(self, method: str, path: str, error: HTTPError) -> Unavailable | ConfigurationError:
        try:
            said = error.read(2_000).decode(errors="replace")[:500]
        except (OSError, HTTPException):
            said = ""
        what = f"{method} {path}: {error.code} {said}"
        if error.code in LATER:
            return Unavailable(f"Label Studio, {what}")
        if error.code in (401, 403):
            remedy = (
                "give a token that is valid, of a user who may manage projects (Account & Settings in Label Studio)"
            )
            return ConfigurationError("Label Studio's token", what, remedy)
        if 300 <= error.code < 400:
            where = error.headers.get("Location", "")
            return ConfigurationError("Label Studio's address", self.url, f"it leads to {where}: give that address")
        return ConfigurationError("Label Studio", what, "it refuses what it was sent: is it version 1.20 or newer?")
