"""Hold a request or an answer against botocore's own service model, in AWS's words.

The model (the JSON that boto3 is made of) says which members there are, which are required, their
types, ranges, patterns and enumerations. A real SageMaker checks requests by the same model.
"""

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from botocore.model import ListShape, MapShape, Shape, StructureShape

_ECHO = 200  # characters of a refused value that a message repeats


class WrongType(Exception):
    """A member has the wrong JSON type: AWS cannot even read the request."""


def problems(shape: Shape | None, value: Any) -> list[str]:
    """Everything that is wrong with a structure, empty when nothing is.

    Args:
        shape: A structure of a botocore service model; None accepts only an empty structure.
        value: What `json.loads` made of a body.

    Raises:
        WrongType: On the first member whose JSON type cannot be read.
    """
    if shape is None:
        return [f"Unknown parameter in input: {_echo(name)}, must be one of: " for name in value]
    return list(_check(shape, value, ""))


def validation_message(found: list[str]) -> str:
    """The message of a ValidationException that lists these problems."""
    count = len(found)
    return f"{count} validation error{'s' if count > 1 else ''} detected: {'; '.join(found)}"


def without_nulls(value: Any) -> Any:
    """The same structure without members that are null: AWS takes them for absent."""
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        return [without_nulls(item) for item in value]
    return value


def _check(shape: Shape, value: Any, where: str) -> Iterator[str]:
    if isinstance(shape, StructureShape):
        yield from _check_structure(shape, value, where)
    elif isinstance(shape, ListShape):
        yield from _check_list(shape, value, where)
    elif isinstance(shape, MapShape):
        yield from _check_map(shape, value, where)
    else:
        _check_type(shape.type_name, value)
        for constraint in _broken_constraints(shape, value):
            yield f"Value '{_echo(value)}' at '{where}' failed to satisfy constraint: {constraint}"


def _check_structure(shape: StructureShape, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        raise WrongType(f"Start of structure or map expected at '{where}', not {_json_type(value)}")
    for name in shape.required_members:
        if name not in value:
            yield (
                f"Value null at '{_join(where, name)}' failed to satisfy constraint: "
                "Member must not be null"
            )
    for name, item in value.items():
        if name in shape.members:
            yield from _check(shape.members[name], item, _join(where, name))
        else:
            known = ", ".join(shape.members)
            place = f"{where}" or "input"
            yield f'Unknown parameter in {place}: "{_echo(name)}", must be one of: {known}'


def _check_list(shape: ListShape, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, list):
        raise WrongType(f"Start of list expected at '{where}', not {_json_type(value)}")
    yield from _check_length(shape, len(value), where)
    for number, item in enumerate(value, 1):
        yield from _check(shape.member, item, f"{where}.{number}.member")


def _check_map(shape: MapShape, value: Any, where: str) -> Iterator[str]:
    if not isinstance(value, dict):
        raise WrongType(f"Start of structure or map expected at '{where}', not {_json_type(value)}")
    yield from _check_length(shape, len(value), where)
    for part, items in (("key", list(value)), ("value", list(value.values()))):
        of = getattr(shape, part)
        for key, item in zip(value, items, strict=True):
            if isinstance(of, StructureShape | ListShape | MapShape):
                yield from _check(of, item, f"{where}.{key}.{part}")
                continue
            _check_type(of.type_name, item)
            for constraint in _broken_constraints(of, item):
                # A map's values may be secrets (an environment's token): they are not repeated.
                yield (
                    f"Value at '{where}.{_echo(key)}' failed to satisfy constraint: "
                    f"Map {part} must satisfy constraint: [{constraint}]"
                )


def _check_length(shape: Shape, length: int, where: str) -> Iterator[str]:
    low, high = shape.metadata.get("min", 0), shape.metadata.get("max", math.inf)
    for constraint in _length_constraints(length, low, high):
        yield f"Value at '{where}' failed to satisfy constraint: {constraint}"


_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "blob": (str,),
    "boolean": (bool,),
    "integer": (int,),
    "long": (int,),
    "float": (int, float),
    "double": (int, float),
    "timestamp": (int, float),
}


def _check_type(type_name: str, value: Any) -> None:
    if isinstance(value, bool) != (type_name == "boolean") or not isinstance(
        value, _TYPES[type_name]
    ):
        raise WrongType(f"{_json_type(value)} can not be converted to {type_name.capitalize()}")


def _json_type(value: Any) -> str:
    if isinstance(value, bool):
        return f"{str(value).upper()}_VALUE"
    names = {str: "STRING_VALUE", int: "NUMBER_VALUE", float: "DECIMAL_VALUE", type(None): "NULL"}
    return names.get(type(value), f"Start of {'list' if isinstance(value, list) else 'structure'}")


def _broken_constraints(shape: Shape, value: Any) -> Iterator[str]:
    rules = shape.metadata
    low, high = rules.get("min", -math.inf), rules.get("max", math.inf)
    if isinstance(value, str):
        too_long = list(_length_constraints(len(value), low, high))
        yield from too_long
        if rules.get("enum") and value not in rules["enum"]:
            yield f"Member must satisfy enum value set: [{', '.join(rules['enum'])}]"
        pattern = _pattern(rules.get("pattern", ""))
        if not too_long and pattern and not pattern.fullmatch(value):
            yield f"Member must satisfy regular expression pattern: {rules['pattern']}"
    elif not isinstance(value, bool):
        if value < low:
            yield f"Member must have value greater than or equal to {low}"
        if value > high:
            yield f"Member must have value less than or equal to {high}"


def _length_constraints(length: int, low: float, high: float) -> Iterator[str]:
    if length < low:
        yield f"Member must have length greater than or equal to {low}"
    if length > high:
        yield f"Member must have length less than or equal to {high}"


@lru_cache(maxsize=256)
def _pattern(text: str) -> re.Pattern[str] | None:
    """AWS writes Java patterns; None for the few that Python cannot read."""
    for java, python in ((r"\p{L}", r"\w"), (r"\p{N}", r"\d"), (r"\p{Z}", " ")):
        text = text.replace(java, python)
    try:
        return re.compile(text) if text else None
    except re.error:
        return None


def _join(where: str, name: str) -> str:
    name = name[:1].lower() + name[1:]
    return f"{where}.{name}" if where else name


def _echo(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _ECHO else f"{text[:_ECHO]}..."
