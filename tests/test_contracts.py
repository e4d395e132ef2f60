"""`schemas/` is what `stream/messages.py` says, and its examples are real messages."""

from __future__ import annotations

from pathlib import Path

import jsonschema
import msgspec
import pytest

from stream.contracts import EXAMPLES, files, schema_for
from stream.messages import TOPICS
from stream.topics import DECLARATIONS

SCHEMAS = Path(__file__).parents[1] / "schemas"


def test_the_files_are_the_generated_ones():
    generated = files()
    assert {path.name for path in SCHEMAS.iterdir()} == set(generated)
    for name, text in generated.items():
        assert (SCHEMAS / name).read_text() == text, f"{name}: run `make schemas`"


def test_every_topic_has_a_message_and_a_declaration():
    assert set(TOPICS) == set(DECLARATIONS) == set(EXAMPLES)


@pytest.mark.parametrize("topic", TOPICS)
def test_an_example_fits_schema_and_struct_and_survives_both(topic: str):
    schema = schema_for(topic)
    jsonschema.Draft202012Validator.check_schema(schema)
    for example in EXAMPLES[topic]:
        jsonschema.validate(example, schema)
        decoded = msgspec.convert(example, TOPICS[topic])
        again = msgspec.json.decode(msgspec.json.encode(decoded), type=TOPICS[topic])
        assert again == decoded
        jsonschema.validate(msgspec.json.decode(msgspec.json.encode(again)), schema)


@pytest.mark.parametrize("topic", TOPICS)
def test_schema_and_struct_refuse_the_same(topic: str):
    validator = jsonschema.Draft202012Validator(schema_for(topic))
    example = EXAMPLES[topic][0]
    for field in example:
        for wrong in (None, [], {"a": []}, -1.5):
            broken = {**example, field: wrong}
            try:
                msgspec.convert(broken, TOPICS[topic])
                accepted = True
            except msgspec.ValidationError:
                accepted = False
            assert validator.is_valid(broken) == accepted, (field, wrong)


@pytest.mark.parametrize("topic", TOPICS)
def test_a_field_of_a_newer_version_is_ignored(topic: str):
    newer = {**EXAMPLES[topic][0], "a_field_of_the_future": 1}
    jsonschema.validate(newer, schema_for(topic))
    msgspec.convert(newer, TOPICS[topic])
