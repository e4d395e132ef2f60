"""A server that keeps to Label Studio's documented HTTP contract, and refuses whatever does not: paths, methods, required
fields, tokens, pages. `tests/batch/test_label_studio_itself.py` asks the real one the same.

Calls may be made to fail before or after they took effect, as a network does.
"""

from __future__ import annotations

import json
import re
import threading
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit
from xml.etree import ElementTree

__all__ = ["LEGACY", "PERSONAL", "Refusal", "StudioServer", "studio_server"]

LEGACY = "0123456789abcdef0123456789abcdef01234567"
PERSONAL = ".".join(urlsafe_b64encode(part).decode().rstrip("=") for part in (b'{"alg":"HS256"}', b'{"t":"r"}', b"sig"))
DATETIME = "%Y-%m-%dT%H:%M:%S.%fZ"
PROJECT_FIELDS = {
    "title", "description", "label_config", "maximum_annotations", "sampling", "skip_queue", "enable_empty_annotation",
    "show_collab_predictions",
}  # fmt: skip
SAMPLINGS = ("Sequential sampling", "Uniform sampling", "Uncertainty sampling")
SKIP_QUEUES = ("REQUEUE_FOR_ME", "REQUEUE_FOR_OTHERS", "IGNORE_SKIPPED")
TYPES = {"Choices": "choices", "Number": "number", "TextArea": "textarea"}


class Refusal(Exception):
    def __init__(self, status: int, detail: Any) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


class StudioServer:
    """Its state, what people do there, and what goes wrong."""

    def __init__(self) -> None:
        self.url = ""
        self.projects: dict[int, dict[str, Any]] = {}
        self.tasks: dict[int, dict[str, Any]] = {}
        self.users = {1: "ann@example.org", 2: "bob@example.org", 3: "eve@example.org"}
        self.calls: list[str] = []  # "METHOD path", those that were answered with success
        self.refused: list[str] = []
        self.location = ""  # where a redirect leads
        self.access_uses = 10**9  # after so many uses an access token has expired
        self.broken: Callable[[str, str], str | int | None] = lambda *_: None
        self.before_answer: Callable[[str], None] = lambda _: None
        self._numbers = iter(range(1, 10**9))
        self._access: dict[str, int] = {}
        self.lock = threading.RLock()

    # -- people --------------------------------------------------------------------------------------------------------

    def annotate(
        self, task: int, user: int, label: Any = None, *, cannot_tell: bool = False, skip: bool = False
    ) -> int:
        """As the interface saves it; returns the annotation's number."""
        with self.lock:
            found = self.tasks[task]
            number = next(self._numbers)
            found["annotations"].append(
                {
                    "id": number, "completed_by": user, "was_cancelled": skip, "created_at": _now(),
                    "updated_at": _now(), "result": self._result(found, label, cannot_tell),
                }
            )  # fmt: skip
            found["updated_at"] = _now()
            return number

    def change(self, annotation: int, label: Any) -> None:
        with self.lock:
            for task in self.tasks.values():
                for one in task["annotations"]:
                    if one["id"] == annotation:
                        one["result"] = self._result(task, label, False)
                        one["updated_at"] = task["updated_at"] = _now()

    def _result(self, task: dict[str, Any], label: Any, cannot_tell: bool) -> list[dict[str, Any]]:
        control = _controls(self.projects[task["project"]]["label_config"])["label"]
        kind = TYPES[control.tag]
        found = []
        if label is not None:
            value = (
                {"choices": [label]}
                if kind == "choices"
                else {"number": label}
                if kind == "number"
                else {"text": [label]}
            )
            found.append({"id": "a", "from_name": "label", "to_name": "about", "type": kind, "value": value})
        if cannot_tell:
            value = {"choices": ["cannot tell"]}
            found.append({"id": "b", "from_name": "cannot_tell", "to_name": "about", "type": "choices", "value": value})
        return found

    def open_tasks(self) -> dict[str, int]:
        """Event id -> task, of those that are still shown to somebody."""
        with self.lock:
            return {
                task["data"]["request"].partition("/")[2]: number
                for number, task in self.tasks.items()
                if sum(not one["was_cancelled"] for one in task["annotations"]) < task["overlap"]
            }

    # -- the contract --------------------------------------------------------------------------------------------------

    def answer(self, method: str, target: str, authorization: str | None, body: Any) -> tuple[int, Any]:
        parts = urlsplit(target)
        query = dict(parse_qsl(parts.query))
        if (method, parts.path) == ("POST", "/api/token/refresh/"):
            if not isinstance(body, dict) or body.get("refresh") != PERSONAL:
                raise Refusal(401, {"detail": "Token is invalid", "code": "token_not_valid"})
            access = f"a.{next(self._numbers)}.c"
            self._access[access] = self.access_uses
            return 200, {"access": access}
        self._authenticate(authorization)
        for pattern, handlers in self._routes().items():
            found = re.fullmatch(pattern, parts.path)
            if found:
                if method not in handlers:
                    raise Refusal(405, {"detail": f'Method "{method}" not allowed.'})
                return handlers[method](*map(int, found.groups()), query=query, body=body)
        raise Refusal(404, {"detail": "Not found."})

    def _authenticate(self, authorization: str | None) -> None:
        scheme, _, token = (authorization or "").partition(" ")
        if scheme == "Token" and token == LEGACY:
            return
        if scheme == "Bearer" and self._access.get(token, 0) > 0:
            self._access[token] -= 1
            return
        raise Refusal(401, {"detail": "Authentication credentials were not provided or are not valid."})

    def _routes(self) -> dict[str, dict[str, Callable[..., tuple[int, Any]]]]:
        return {
            r"/api/projects/": {"GET": self._list_projects, "POST": self._create_project},
            r"/api/projects/(\d+)/": {"GET": self._get_project, "PATCH": self._patch_project},
            r"/api/projects/(\d+)/import": {"POST": self._import},
            r"/api/tasks/": {"GET": self._list_tasks},
            r"/api/tasks/(\d+)/": {"GET": self._get_task, "PATCH": self._patch_task, "DELETE": self._delete_task},
            r"/api/users/(\d+)/": {"GET": self._get_user},
        }

    def _list_projects(self, query: dict[str, str], body: Any) -> tuple[int, Any]:
        every = list(self.projects.values())
        page, size = int(query.get("page", 1)), min(int(query.get("page_size", 10)), 100)
        start = (page - 1) * size
        if start and start >= len(every):
            raise Refusal(404, {"detail": "Invalid page."})
        following = f"{self.url}/api/projects/?page={page + 1}" if start + size < len(every) else None
        return 200, {"count": len(every), "next": following, "previous": None, "results": every[start : start + size]}

    def _create_project(self, query: dict[str, str], body: Any) -> tuple[int, Any]:
        _check_project(body)
        number = max(self.projects, default=0) + 1
        self.projects[number] = {"id": number, "maximum_annotations": 1, **body}
        return 201, self.projects[number]

    def _get_project(self, number: int, query: dict[str, str], body: Any) -> tuple[int, Any]:
        return 200, _there(self.projects, number)

    def _patch_project(self, number: int, query: dict[str, str], body: Any) -> tuple[int, Any]:
        _check_project(body)
        _there(self.projects, number).update(body)
        return 200, self.projects[number]

    def _import(self, number: int, query: dict[str, str], body: Any) -> tuple[int, Any]:
        project = _there(self.projects, number)
        if not isinstance(body, list) or not body:
            raise Refusal(400, {"detail": "tasks must be a list that is not empty"})
        needed = set(re.findall(r'value="\$(\w+)"', project["label_config"]))
        for task in body:
            data = task.get("data")
            if not isinstance(data, dict) or not needed <= data.keys():
                raise Refusal(400, {"detail": f"{needed - set(data or ())} is missing in task data"})
            if not isinstance(data["features"], dict | list) or not isinstance(data["about"], str):
                raise Refusal(400, {"detail": "data is of the wrong type"})
            for prediction in task.get("predictions", []):
                _check_prediction(project["label_config"], prediction)
        for task in body:
            at = max(self.tasks, default=0) + 1  # as SQLite does: numbers of deleted ones come again
            self.tasks[at] = {
                "id": at, "project": number, "data": task["data"], "predictions": task.get("predictions", []),
                "annotations": [], "overlap": project["maximum_annotations"], "created_at": _now(), "updated_at": _now(),
            }  # fmt: skip
        return 201, {"task_count": len(body), "annotation_count": 0, "prediction_count": 0, "duration": 0.1}

    def _list_tasks(self, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if query.get("fields") not in ("all", "task_only"):
            raise Refusal(400, {"fields": "task_only or all"})
        asked = json.loads(query.get("query", "{}"))
        filters = asked.get("filters") or {"conjunction": "and", "items": []}
        if filters["conjunction"] not in ("and", "or"):
            raise Refusal(400, {"conjunction": "and, or"})
        every = [task for task in self.tasks.values() if task["project"] == int(query["project"])]
        every = [_listed(task) for task in every if all(_passes(task, one) for one in filters["items"])]
        page, size = int(query.get("page", 1)), int(query.get("page_size", 100))
        start = (page - 1) * size
        if start and start >= len(every):
            raise Refusal(404, {"detail": "Invalid page."})
        return 200, {"tasks": every[start : start + size], "total": len(every), "total_annotations": 0}

    def _get_task(self, number: int, query: dict[str, str], body: Any) -> tuple[int, Any]:
        return 200, _listed(_there(self.tasks, number))

    def _patch_task(self, number: int, query: dict[str, str], body: Any) -> tuple[int, Any]:
        if not isinstance(body, dict) or body.keys() != {"overlap"} or not isinstance(body["overlap"], int):
            raise Refusal(400, {"detail": "overlap is a whole number"})
        _there(self.tasks, number).update(body)
        return 200, self.tasks[number]

    def _delete_task(self, number: int, query: dict[str, str], body: Any) -> tuple[int, Any]:
        _there(self.tasks, number)
        del self.tasks[number]
        return 204, None

    def _get_user(self, number: int, query: dict[str, str], body: Any) -> tuple[int, Any]:
        return 200, {"id": number, "email": _there(self.users, number)}


def _now() -> str:
    return datetime.now(UTC).strftime(DATETIME)


def _there(where: dict[int, Any], number: int) -> Any:
    if number not in where:
        raise Refusal(404, {"detail": "Not found."})
    return where[number]


def _listed(task: dict[str, Any]) -> dict[str, Any]:
    given = sum(not one["was_cancelled"] for one in task["annotations"])
    return {**task, "total_annotations": given, "is_labeled": given >= task["overlap"]}


def _passes(task: dict[str, Any], one: dict[str, Any]) -> bool:
    value = one["value"]
    match one["filter"], one["operator"], one["type"]:
        case "filter:tasks:total_annotations", "equal", "Number":
            return bool(_listed(task)["total_annotations"] == float(value))
        case "filter:tasks:total_annotations", "greater", "Number":
            return bool(_listed(task)["total_annotations"] > float(value))
        case "filter:tasks:updated_at", "greater", "Datetime":
            at = datetime.strptime(task["updated_at"], DATETIME)  # noqa: DTZ007 (as Label Studio does)
            return at > datetime.strptime(value, DATETIME)  # noqa: DTZ007
    raise Refusal(400, {"detail": f"no such filter: {one}"})


def _controls(config: str) -> dict[str, ElementTree.Element]:
    root = ElementTree.fromstring(config)
    return {element.attrib["name"]: element for element in root.iter() if "toName" in element.attrib}


def _check_project(body: Any) -> None:
    if not isinstance(body, dict) or not body.keys() <= PROJECT_FIELDS:
        raise Refusal(400, {"detail": f"unknown fields: {set(body) - PROJECT_FIELDS}"})
    if len(body.get("title", "driftloop")) not in range(3, 51):
        raise Refusal(400, {"title": ["3 to 50 characters"]})
    if body.get("sampling", SAMPLINGS[0]) not in SAMPLINGS or body.get("skip_queue", SKIP_QUEUES[0]) not in SKIP_QUEUES:
        raise Refusal(400, {"detail": "not one of the choices"})
    if "label_config" in body:
        try:
            root = ElementTree.fromstring(body["label_config"])
        except ElementTree.ParseError as error:
            raise Refusal(400, {"label_config": [str(error)]}) from None
        names = {element.attrib["name"] for element in root.iter() if "name" in element.attrib}
        for element in root.iter():
            if element.attrib.get("toName", "about") not in names:
                raise Refusal(400, {"label_config": ["toName names no tag"]})


def _check_prediction(config: str, prediction: dict[str, Any]) -> None:
    for result in prediction["result"]:
        control = _controls(config).get(result["from_name"])
        if control is None or control.attrib["toName"] != result["to_name"] or TYPES[control.tag] != result["type"]:
            raise Refusal(400, {"detail": f"prediction does not fit the label config: {result}"})
        chosen = result["value"][{"textarea": "text"}.get(result["type"], result["type"])]
        if result["type"] == "choices" and not set(chosen) <= {one.attrib["value"] for one in control}:
            raise Refusal(400, {"detail": f"no such choice: {chosen}"})
    if not isinstance(prediction.get("score", 0.0), float | int):
        raise Refusal(400, {"score": ["A valid number is required."]})


@contextmanager
def studio_server() -> Iterator[StudioServer]:
    """On loopback, at a free port."""
    studio = StudioServer()

    class Handler(BaseHTTPRequestHandler):
        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            what = f"{self.command} {urlsplit(self.path).path}"
            before = studio.broken("before", what)
            if isinstance(before, int):
                return self._say(before, {"detail": "not now"})
            if before == "lost":
                return self._hang_up()
            with studio.lock:
                try:
                    if raw and self.headers.get("Content-Type") != "application/json":
                        raise Refusal(415, {"detail": "Unsupported media type"})
                    body = json.loads(raw) if raw else None
                    status, said = studio.answer(self.command, self.path, self.headers.get("Authorization"), body)
                    studio.calls.append(what)
                except Refusal as refusal:
                    status, said = refusal.status, refusal.detail
                    studio.refused.append(f"{what}: {status} {said}")
            studio.before_answer(what)
            if studio.broken("after", what) is not None:
                return self._hang_up()
            return self._say(status, said)

        do_GET = do_POST = do_PATCH = do_DELETE = do_PUT = _serve

        def _say(self, status: int, said: Any) -> None:
            content = b"" if said is None else json.dumps(said).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            if studio.location:
                self.send_header("Location", studio.location)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def _hang_up(self) -> None:
            self.close_connection = True
            self.connection.close()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    studio.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield studio
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
