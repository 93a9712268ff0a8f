"""The base of all settings: frozen, keyword-only, with errors that say what would be right."""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from types import NoneType
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, SecretBytes, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo

from llmkit_plugins.document import FromEnv, join, scrub
from llmkit_plugins.errors import ConfigError

_TYPES = {
    "bool": "true or false",
    "bytes": "text",
    "dict": "a table",
    "float": "a number",
    "frozen_set": "a list",
    "int": "a whole number",
    "list": "a list",
    "model": "a table",
    "set": "a list",
    "string": "text",
    "tuple": "a list",
}


_SHOULD = re.compile(r"^\w+ should (be |have )?(a valid )?")
"""How pydantic's messages begin; the rest says what would be right."""


class ConfigErrors(ConfigError):
    """Several settings are wrong: *errors* holds each of them, and the attributes are those of the first."""

    def __init__(self, errors: Sequence[ConfigError]) -> None:
        first = errors[0]
        super().__init__(first.what, first.file, first.key, first.right)
        self.errors = tuple(errors)
        self.args = (self.errors,)

    def __str__(self) -> str:
        return "\n  ".join([f"{len(self.errors)} settings are wrong:", *map(str, self.errors)])


def each(error: ConfigError) -> tuple[ConfigError, ...]:
    """The individual errors in *error*."""
    return error.errors if isinstance(error, ConfigErrors) else (error,)


def as_one(errors: Sequence[ConfigError]) -> ConfigError:
    """One error to raise for *errors*: a single one itself, several combined."""
    return errors[0] if len(errors) == 1 else ConfigErrors(errors)


class Settings(BaseModel):
    """The base of a plugin's settings. Fields have units in their names and a description; unknown ones are rejected.

    Raises ``ConfigError`` with the setting, what is wrong with it and what would be right. A validator in a subclass
    may raise one too: ``ConfigError(what, right=...)``. Values from the environment, of secret types, and of fields
    with ``repr=False`` are never shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)

    def __init__(self, /, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            wrong = _explain(error, type(self), values)
        else:
            return
        # Outside the handler: otherwise pydantic's error, which contains the values, would be chained to this one.
        raise as_one(wrong)

    @field_validator("*", mode="before")
    @classmethod
    def _true_is_not_one(cls, value: Any, info: ValidationInfo) -> Any:
        field = cls.model_fields[info.field_name or ""]
        if isinstance(value, bool) and _leaves(field.annotation) <= {int, float, NoneType}:
            raise ConfigError(f"{shown(value)} is not valid", right=_described("a number", field))
        return value


def nearest(name: str, known: Iterable[str]) -> str:
    """What to write instead of the unknown *name*: the most similar of *known*, or else any of them."""
    known = sorted(known)
    return similar(name, known) or (f"one of {', '.join(known)}" if known else "take it out: nothing can be set here")


def similar(name: str, known: Iterable[str]) -> str | None:
    """A question suggesting the most similar of *known*; None if none is similar."""
    near = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {near[0]}?" if near else None


def shown(value: object) -> str:
    """*value* as its author wrote it, shortened; for one from the environment, its reference."""
    if isinstance(value, Mapping | BaseModel):
        return "a table"
    if isinstance(value, list | tuple | set | frozenset):
        return "a list"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, FromEnv):
        return f"the value of {value!r}"
    return "nothing" if value is None else reprlib.repr(value)


def _explain(error: ValidationError, model: type[Settings], values: Mapping[str, Any]) -> list[ConfigError]:
    """pydantic's errors in our words. The errors for the alternatives of a union become one."""
    found: dict[str, list[ConfigError]] = {}
    for detail in error.errors(include_url=False):
        loc = detail["loc"]
        key = _key(loc, values, missing=detail["type"] == "missing")
        field = model.model_fields.get(str(loc[0])) if loc else None
        found.setdefault(key, []).extend(_findings(detail, key, field, model))
    return [wrong for findings in found.values() for wrong in _alternatives(findings)]


def _findings(detail: Any, key: str, field: FieldInfo | None, model: type[Settings]) -> list[ConfigError]:
    kind, value = detail["type"], detail["input"]
    cause = detail.get("ctx", {}).get("error")
    if isinstance(cause, ConfigError):
        return [_moved(wrong, key, value, field) for wrong in each(cause)]
    if kind == "extra_forbidden":
        return [ConfigError("there is no such setting", key=key, right=nearest(detail["loc"][-1], _names(model)))]
    if kind == "missing":
        return [ConfigError("is missing", key=key, right=_described(f"add {detail['loc'][-1]}", field))]
    if cause is not None:
        return [_moved(ConfigError(str(cause), right=_described("", field)), key, value, field)]
    expected = scrub(_expected(kind, detail["msg"]), value)
    return [ConfigError(_not_valid(value, field), key=key, right=_described(expected, field))]


def _moved(wrong: ConfigError, key: str, value: object, field: FieldInfo | None) -> ConfigError:
    """A validator's error, at its place. If the value is private, the text is dropped, since it may quote the value."""
    what = _not_valid(value, field) if isinstance(value, FromEnv) or _private(field) else scrub(wrong.what, value)
    return ConfigError(what, key=join(key, wrong.key) or None, right=wrong.right and scrub(wrong.right, value))


def _alternatives(findings: list[ConfigError]) -> list[ConfigError]:
    first = findings[0]
    if len(findings) == 1 or any((wrong.key, wrong.what) != (first.key, first.what) for wrong in findings):
        return findings
    rights = dict.fromkeys(wrong.right for wrong in findings if wrong.right)
    return [ConfigError(first.what, key=first.key, right=", or ".join(rights) or None)]


def _key(loc: tuple[int | str, ...], values: Mapping[str, Any], *, missing: bool) -> str:
    """The place as it would be written: ``limits[0].per``. A part not in the values is the label of a union member."""
    if not loc:
        return ""
    key, here = str(loc[0]), values.get(str(loc[0]))
    for number, part in enumerate(loc[1:], 2):
        if isinstance(here, Mapping) and (part in here or (missing and number == len(loc))):
            key, here = join(key, str(part)), here.get(part)
        elif isinstance(here, list | tuple) and isinstance(part, int):
            key, here = f"{key}[{part}]", here[part]
    return key


def _expected(kind: str, message: str) -> str:
    name, _, problem = kind.rpartition("_")
    if problem in ("type", "parsing") and name in _TYPES:
        return _TYPES[name]
    return _SHOULD.sub("", message).partition(" after validation")[0]


def _described(expected: str, field: FieldInfo | None) -> str | None:
    return ": ".join(filter(None, [expected, (field.description or "") if field else ""])) or None


def _not_valid(value: object, field: FieldInfo | None) -> str:
    return f"{'the value' if _private(field) else shown(value)} is not valid"


def _private(field: FieldInfo | None) -> bool:
    return field is not None and (not field.repr or not _leaves(field.annotation).isdisjoint({SecretStr, SecretBytes}))


def _leaves(annotation: Any) -> set[Any]:
    """The plain types in an annotation: ``int | None`` has ``int`` and ``NoneType``."""
    members = get_args(annotation)
    return {leaf for member in members for leaf in _leaves(member)} if members else {annotation}


def _names(model: type[Settings]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]
