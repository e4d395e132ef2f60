"""How a label's source names people. The one place that knows the syntax.

    person:ann        one person; airflow:anonymous is one, too, whose name Airflow does not tell
    person:ann+bob    two who said the same of one event (`Labelling(annotators=2)`)

A "+" within a name is written "%2B". A source has at most 64 characters, so that the last name may be cut.
Everything else is a feed, by the name that it gives itself.
"""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["SOURCE_MAX", "is_of", "names_a_person", "person", "together"]

SOURCE_MAX = 64
PEOPLE = ("person", "airflow")


def person(name: str) -> str:
    """The source of one person's labels."""
    return f"person:{name.replace('+', '%2B')}"[:SOURCE_MAX]


def together(sources: Sequence[str]) -> str:
    """The source of a label that these people agree on.

    >>> together(["person:ann", "person:bob"])
    'person:ann+bob'
    """
    return "+".join([sources[0], *(source.partition(":")[2] for source in sources[1:])])[:SOURCE_MAX]


def names_a_person(source: str) -> bool:
    """Whether it is one who may agree with others.

    >>> names_a_person("person:ann"), names_a_person("person:ann+bob"), names_a_person("mallory")
    (True, False, False)
    """
    return source.partition(":")[0] in PEOPLE and "+" not in source


def is_of(label_source: str, source: str) -> bool:
    """Whether a label is this source's own, or one that it agreed on with others.

    >>> is_of("person:bob+ann", "person:ann"), is_of("person:annabel", "person:ann"), is_of("feed:a+b", "feed:a")
    (True, False, False)
    """
    if label_source == source:
        return True
    (kind, _, names), name = label_source.partition(":"), source.partition(":")[2]
    if kind not in PEOPLE or "+" not in names or not names_a_person(source):
        return False
    *whole, last = names.split("+")
    cut = len(label_source) == SOURCE_MAX and last != "" and name.startswith(last)
    return name in (*whole, last) or cut
