"""Turns pydantic's errors into problems that a site's engineer can act on."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, Literal, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from curtaild_config.problems import Problem, suggest
from curtaild_config.source import Location, SiteSource


def explain(error: ValidationError, model: type[BaseModel], source: SiteSource, under: Location = ()) -> list[Problem]:
    """Every error of `model`'s validation; `under` is where that model stands in the file."""
    details = error.errors(include_url=False)
    return [_explain(detail, model, source, under) for detail in details if not _only_follows(detail)]


def _only_follows(detail: Any) -> bool:
    # pydantic counts the valid entries: where every entry is wrong it adds that there are none.
    return detail["type"] == "too_short" and bool(detail["input"])


def _explain(detail: Any, model: type[BaseModel], source: SiteSource, under: Location) -> Problem:
    local: Location = detail["loc"]
    location = under + _followed(model, local)[0]
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "extra_forbidden":
        # The value stays unsaid: a mistyped password key holds a password.
        return source.problem(location, "unknown key", suggest(str(local[-1]), _fields_at(model, local[:-1])))
    if kind == "missing":
        field = _fields_at(model, local[:-1]).get(str(local[-1]))
        return source.problem(location, "is required", _first_sentence(field))
    if kind == "literal_error":
        words = re.findall(r"'([^']*)'", str(context.get("expected", "")))
        return source.problem(location, f"should be one of {', '.join(words)}", suggest(str(value), words), value)
    if kind == "union_tag_not_found":
        key = str(context["discriminator"]).strip("'")
        return source.problem((*location, key), "is required", "it says which of its keys make sense")
    if kind == "union_tag_invalid":
        key, words = str(context["discriminator"]).strip("'"), re.findall(r"'([^']*)'", context["expected_tags"])
        word = str(context["tag"])
        return source.problem((*location, key), f"should be one of {', '.join(words)}", suggest(word, words), word)
    if kind in ("tuple_type", "list_type"):
        if isinstance(value, dict):
            name = source.key_path(location)
            return source.problem(location, "stands many times", f"write [[{name}]] in double brackets")
        return source.problem(location, "should be a list", "write it in [ ]", value)
    if kind == "too_short":
        return source.problem(location, "should not be empty")
    if kind in ("model_type", "model_attributes_type", "dict_type"):
        return source.problem(location, "should be a table", f"write [{source.key_path(location)}]", value)
    if kind == "string_pattern_mismatch":
        return source.problem(location, "may hold letters, digits, _ and - only", "", value)
    return source.problem(location, _reason(detail["msg"]), "", value)


def _reason(message: str) -> str:
    text = message.removeprefix("Value error, ").removeprefix("Input ").removeprefix("Value ")
    return text[:1].lower() + text[1:]


def _first_sentence(field: FieldInfo | None) -> str:
    if field is None or not field.description:
        return ""
    return re.split(r"(?<=[a-z0-9])[.;](?:\s|$)", field.description, maxsplit=1)[0]


def _fields_at(model: type[BaseModel], location: Location) -> dict[str, FieldInfo]:
    return _followed(model, location)[1]


def _followed(model: type[BaseModel], location: Location) -> tuple[Location, dict[str, FieldInfo]]:
    """The keys alone of pydantic's `location`, and the fields of the table it ends in. Where a table is one of several
    kinds, pydantic puts the kind between the keys as if it were one."""
    keys: list[str | int] = []
    models = [model]
    for part in location:
        chosen = [each for each in models if len(models) > 1 and part in _kinds(each)]
        if chosen:
            models = chosen
            continue
        keys.append(part)
        if isinstance(part, str):
            field = next((each.model_fields[part] for each in models if part in each.model_fields), None)
            models = list(_models_in(field.annotation)) if field is not None else []
    return tuple(keys), {name: field for each in models for name, field in each.model_fields.items()}


def _kinds(model: type[BaseModel]) -> set[str]:
    """The words by which a table says which of several kinds it is."""
    literals = (field.annotation for field in model.model_fields.values() if get_origin(field.annotation) is Literal)
    return {word for literal in literals for word in get_args(literal) if len(get_args(literal)) == 1}


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models_in(argument)
