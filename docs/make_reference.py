"""Writes docs/reference/ from the code: `make reference`. A test compares, so what it says is so.

What a thing means is said where it is defined; here it is only laid out. Something without a meaning is an error.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
import yaml
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from typer.core import TyperArgument

from docs.reference_pipeline import pipeline_page, table
from stream.cli.main import app
from stream.codes import SECTIONS
from stream.contracts import schema_for
from stream.settings import PREFIX, Settings
from stream.topics import DAY_MS, DECLARATIONS, Topic
from stream.worker.web.metrics import METRICS

__all__ = ["pages"]

ROOT = Path(__file__).parents[1]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
MADE = "Made from the code by `make reference`; a test compares."
SUFFIXES = {"counter": "_total", "info": "_info"}
BOUNDS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
KINDS = {str: "text", int: "whole number", float: "number", Path: "path", list[str]: "text, may be repeated"}
PARTITIONS = {"events": "as many as `events`", "shards": "one per model shard", "one": "1"}


def pages() -> dict[str, str]:
    """File name -> text of everything in docs/reference/."""
    made = {
        "settings.md": settings_page(),
        "pipeline.md": pipeline_page(),
        "command-line.md": command_line_page(),
        "topics.md": topics_page(),
        "metrics.md": metrics_page(),
        "codes.md": codes_page(),
    }
    return {name: text.replace("\n", f"\n\n{MADE}\n", 1) + "\n" for name, text in made.items()}


def required(text: str | None, of: str) -> str:
    """Raises ValueError where nobody has said what something is."""
    if not text or not text.strip():
        raise ValueError(f"{of} has no description: say in the code what it is")
    return text.strip()


# -- settings ----------------------------------------------------------------------------------------------------------


def settings_page() -> str:
    rows = [setting(name, field) for name, field in Settings.model_fields.items()]
    heading = ("variable", "type", "default", "bounds", "meaning")
    about = (
        "Each is an environment variable, or a line of the file that `DRIFTLOOP_ENV_FILE` names, or the content of a file with "
        "the variable's name in lower case in the directory that `DRIFTLOOP_SECRETS_DIR` names; the first one found counts; an empty variable is none. "
        "`driftloop settings` shows what they are now. Of a secret neither a log nor `driftloop settings` shows the value."
    )
    return "\n".join(["# Settings", "", about, "", *table(heading, rows)])


def setting(name: str, field: FieldInfo) -> tuple[str, ...]:
    variable = f"{PREFIX}{name.upper()}"
    kinds = [kind for kind in (get_args(field.annotation) or (field.annotation,)) if kind is not type(None)]
    if get_origin(field.annotation) is Literal:
        shown = ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    else:
        shown = " or ".join({**KINDS, SecretStr: "secret text"}[kind] for kind in kinds)
    found = [
        f"{words} {getattr(bound, key):,}"
        for bound in field.metadata
        for key, words in BOUNDS.items()
        if hasattr(bound, key)
    ]
    return f"`{variable}`", shown, default_of(field.default), ", ".join(found), required(field.description, variable)


def default_of(value: Any) -> str:
    if value is None:
        return "none"
    text = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    if isinstance(value, Path) and value.is_relative_to(Path.home()):
        text = f"~/{value.relative_to(Path.home())}"
    return f"`{text}`" if text else "empty"


# -- the command line --------------------------------------------------------------------------------------------------


def command_line_page() -> str:
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = [
        "# Command line",
        "",
        "`driftloop <command> --help` says the same. Exit codes are in [codes](codes.md#exit-codes).",
    ]
    index = [
        (f"[`{name}`](#{anchor(f'driftloop {name}')})", first(command.help, name)) for name, command in commands.items()
    ]
    lines += ["", *table(("command", "what it does"), index)]
    for name, command in commands.items():
        lines += ["", f"## driftloop {name}", "", *paragraphs(required(command.help, name))]
        arguments = [p for p in command.params if isinstance(p, TyperArgument)]
        usage = " ".join(f"<{p.name}>" if p.required else f"[<{p.name}>]" for p in arguments)
        lines += ["", f"    driftloop {name} {usage}".rstrip()]
        rows = [parameter(name, p) for p in command.params if p.name != "help"]
        lines += ["", *table(("", "type", "default", "meaning"), rows)] if rows else []
    return "\n".join(lines)


def parameter(command: str, its: Any) -> tuple[str, ...]:
    name = f"`<{its.name}>`" if isinstance(its, TyperArgument) else ", ".join(f"`{option}`" for option in its.opts)
    help_text = required(getattr(its, "help", None), f"driftloop {command}: {name}")
    kind = "" if getattr(its, "is_flag", False) else KINDS[its.type_descriptor.annotation]
    bounds = [
        f"{words} {bound:,}" for words, bound in (("at least", its.min), ("at most", its.max)) if bound is not None
    ]
    kind = ", ".join([kind, *bounds])
    default = its.default if not callable(its.default) else None
    shown = "" if default is None or default is False or its.required else f"`{default}`"
    return name, kind, "required" if its.required else shown, help_text


def first(text: str | None, of: str) -> str:
    return " ".join(required(text, of).split("\n\n")[0].split())


def paragraphs(text: str) -> list[str]:
    return "\n\n".join(" ".join(part.split()) for part in text.split("\n\n")).split("\n")


def anchor(heading: str) -> str:
    """As GitHub makes it of a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


# -- topics ------------------------------------------------------------------------------------------------------------


def topics_page() -> str:
    lines = [
        "# Topics",
        "",
        "Kafka's name of a topic is `<pipeline>.<topic>`. Values are JSON in UTF-8, with the fields below; times are UTC epoch "
        "milliseconds. Fields are only ever added, with a default. The JSON Schemas are in [schemas](../../schemas/README.md).",
        "",
        *table(
            ("topic", "key", "producer", "consumer", "partitions", "retention"),
            [topic_row(t) for t in DECLARATIONS.values()],
        ),
    ]
    for topic in DECLARATIONS.values():
        schema = schema_for(topic.name)
        lines += ["", f"## {topic.name}", "", required(schema.get("description"), topic.name), ""]
        settings = ", ".join(f"`{key}={value}`" for key, value in topic.configuration().items())
        lines += [f"Declared with {settings}.", ""]
        lines += fields(topic.name, schema)
        for name, part in schema.get("$defs", {}).items():
            lines += [
                "",
                f"`{name}`: {required(part.get('description'), name)}",
                "",
                *fields(f"{topic.name}, {name}", part),
            ]
    return "\n".join(lines)


def topic_row(topic: Topic) -> tuple[str, ...]:
    kept = "for ever" if topic.retention_ms < 0 else f"{topic.retention_ms // DAY_MS} days"
    if topic.cleanup == "compact":
        kept += ", compacted"
    return (
        f"[`{topic.name}`](#{topic.name})",
        topic.key,
        topic.producer,
        topic.consumer,
        PARTITIONS[topic.partitions],
        kept,
    )


def fields(of: str, schema: Mapping[str, Any]) -> list[str]:
    rows = []
    for name, its in schema["properties"].items():
        needed = "required" if name in schema.get("required", ()) else f"`{json_text(its.get('default'))}`"
        rows.append((f"`{name}`", kind_of(its), needed, required(its.get("description"), f"{of}.{name}")))
    heading = ("header" if of == "dead_letters" else "field", "type", "default", "meaning")
    return table(heading, rows)


def json_text(value: Any) -> str:
    return (
        {None: "null", True: "true", False: "false"}.get(value, str(value))
        if not isinstance(value, list | dict)
        else str(value)
    )


def kind_of(schema: Mapping[str, Any]) -> str:
    """A JSON Schema's type in words."""
    if "$ref" in schema:
        return f"`{schema['$ref'].rpartition('/')[2]}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind_of(part) for part in schema["anyOf"]))
    kind = schema.get("type", "any")
    if kind == "array":
        items = schema.get("prefixItems")
        return f"list of [{', '.join(map(kind_of, items))}]" if items else f"list of {kind_of(schema.get('items', {}))}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), Mapping):
        return f"object: name to {kind_of(schema['additionalProperties'])}"
    return {"integer": "whole number", "string": "text"}.get(kind, kind)


# -- metrics -----------------------------------------------------------------------------------------------------------


def metrics_page() -> str:
    rows = [
        (f"`{name}{SUFFIXES.get(kind, '')}`", kind, ", ".join(labels), required(meaning, name))
        for name, (kind, labels, meaning) in METRICS.items()
    ]
    groups = yaml.safe_load(RULES.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    recorded = [(f"`{rule['record']}`", f"`{' '.join(rule['expr'].split())}`") for rule in rules if "record" in rule]
    alerts = [
        (
            f"`{rule['alert']}`",
            rule["labels"]["severity"],
            rule.get("for", "at once"),
            plain(rule["annotations"]["summary"]),
            rule["annotations"]["description"],
        )
        for rule in rules
        if "alert" in rule
    ]
    return "\n".join(
        [
            "# Metrics and alerts",
            "",
            "Every worker with `DRIFTLOOP_WEB_PORT` serves `/metrics`: of its own partitions, so scrape all. Every metric has the label "
            "`pipeline`. Counts of events, labels, requests and dead letters are kept with the state: they go on after a restart and move "
            "with their partition. Beside them there are the usual ones of a process (`process_*`, `python_*`).",
            "",
            *table(("metric", "kind", "further labels", "meaning"), rows),
            "",
            "## Alerts",
            "",
            "`deploy/prometheus/rules.yml`. Thresholds are a start. Where to look then: [operating](../operating.md#symptoms).",
            "",
            *table(("alert", "severity", "after", "what is wrong", "what to do"), alerts),
            "",
            "## Recording rules",
            "",
            *table(("name", "expression"), recorded),
        ]
    )


def plain(summary: str) -> str:
    """Without the template's own words: {{ $labels.topic }} -> topic."""
    return (
        re.sub(r"\{\{ \$(?:labels\.)?(\w+)[^}]*\}\}", r"<\1>", summary)
        .removeprefix("<pipeline>: ")
        .replace("<", "*")
        .replace(">", "*")
    )


# -- codes -------------------------------------------------------------------------------------------------------------


def codes_page() -> str:
    lines = ["# Codes", "", "What driftloop says when something is wrong, as stable words that a program can look for."]
    for section in SECTIONS:
        rows = [
            (f"`{code.name}`", required(code.meaning, code.name), required(code.remedy, code.name))
            for code in section.codes
        ]
        lines += [
            "",
            f"## {section.title}",
            "",
            section.about,
            "",
            *table(("code", "what it means", "what to do"), rows),
        ]
    return "\n".join(lines)


def main(directory: Path) -> None:
    """Write every page."""
    directory.mkdir(exist_ok=True)
    for name, text in pages().items():
        (directory / name).write_text(text)


if __name__ == "__main__":
    main(ROOT / "docs" / "reference")
