"""The base of everybody's settings, built in Python."""

from __future__ import annotations

import pickle
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field, SecretStr, ValidationError, field_validator, model_validator

from llmkit_plugins import ConfigError
from llmkit_plugins.document import FromEnv
from llmkit_plugins.settings import ConfigErrors, Settings, as_one, each, nearest

SECRET = FromEnv("sk-123456", "${KEY}", ("sk-123456",))


class Inner(Settings):
    size: int = Field(gt=0, description="How many.")


class Outer(Settings):
    count: int = 1
    share: float | None = Field(default=None, description="Between 0 and 1.")
    flag: bool = False
    mode: Literal["a", "b"] = "a"
    either: int | list[str] = 1
    anything: Any = None
    inner: Inner | None = None
    inners: list[Inner] = Field(default=[])
    named: dict[str, Inner] = Field(default={})
    some: list[int] = Field(default=[1], min_length=1)
    url: str = Field(default="http://", pattern="^http://")
    key: SecretStr | None = None
    hidden: int = Field(default=0, repr=False)

    @field_validator("anything")
    @classmethod
    def _judge(cls, value: Any) -> Any:
        if value == "plain":
            raise ValueError("plain will not do")
        if value == SECRET:
            raise ValueError(f"{value!s} will not do")
        return value

    @field_validator("key", mode="before")
    @classmethod
    def _begins_well(cls, key: Any) -> Any:
        if isinstance(key, str) and not key.startswith("sk"):
            raise ConfigError(f"{key} does not begin with sk", right="a key of the provider")
        return key

    @model_validator(mode="after")
    def _fits(self) -> Outer:
        if self.count > 10 and self.flag:
            raise ConfigError("count is too high for flag", right="at most 10, or no flag")
        return self


def wrong(**values: Any) -> ConfigError:
    with pytest.raises(ConfigError) as raised:
        Outer(**values)
    return raised.value


@pytest.mark.parametrize(
    ("values", "key", "what", "right"),
    [
        ({"count": "x"}, "count", "'x' is not valid", "a whole number"),
        ({"count": True}, "count", "true is not valid", "a number"),
        ({"share": False}, "share", "false is not valid", "a number: Between 0 and 1."),
        ({"share": float("nan")}, "share", "nan is not valid", "a finite number: Between 0 and 1."),
        ({"share": float("inf")}, "share", "inf is not valid", "a finite number: Between 0 and 1."),
        ({"count": None}, "count", "nothing is not valid", "a whole number"),
        ({"count": []}, "count", "a list is not valid", "a whole number"),
        ({"flag": {}}, "flag", "a table is not valid", "true or false"),
        ({"mode": "c"}, "mode", "'c' is not valid", "'a' or 'b'"),
        ({"either": "x"}, "either", "'x' is not valid", "a whole number, or a list"),
        ({"either": ["x", 5]}, "either", "a list is not valid", "a whole number"),
        ({"inner": 5}, "inner", "5 is not valid", "a table"),
        ({"inner": {}}, "inner.size", "is missing", "add size: How many."),
        ({"inners": {}}, "inners", "a table is not valid", "a list"),
        ({"inners": [{"size": 1}, {"size": 0}]}, "inners[1].size", "0 is not valid", "greater than 0: How many."),
        ({"named": {"x": {"size": 0}}}, "named.x.size", "0 is not valid", "greater than 0: How many."),
        ({"some": []}, "some", "a list is not valid", "at least 1 item"),
        ({"url": "x:80"}, "url", "'x:80' is not valid", "match pattern '^http://'"),
        ({"inner": {"sizes": 1, "size": 1}}, "inner.sizes", "there is no such setting", "did you mean size?"),
        ({"inner": {"zzz": 1, "size": 1}}, "inner.zzz", "there is no such setting", "one of size"),
        ({"anything": "plain"}, "anything", "plain will not do", None),
        ({"count": 11, "flag": True}, None, "count is too high for flag", "at most 10, or no flag"),
        ({"count": "x" * 1000}, "count", f"'{'x' * 12}...{'x' * 13}' is not valid", "a whole number"),
    ],
)
def test_a_wrong_value(values: dict[str, Any], key: str | None, what: str, right: str | None) -> None:
    """Every wrong value is told with its key, what is wrong and what would be right."""
    error = each(wrong(**values))[0]
    assert (error.key, error.what, error.right) == (key, what, right)


def test_several_wrong_values_are_all_told() -> None:
    """One error stands for all, has the attributes of the first and lists each."""
    error = wrong(count="x", inners=[{"size": 0}, {"sise": 1}])
    assert isinstance(error, ConfigErrors)
    assert error.key == "count"
    assert [one.key for one in error.errors] == ["count", "inners[0].size", "inners[1].size", "inners[1].sise"]
    assert str(error).startswith(
        "4 settings are wrong:\n  count: 'x' is not valid (a whole number)\n  inners[0].size: "
    )


def test_a_single_error_is_itself() -> None:
    """One problem is not wrapped."""
    assert type(wrong(count="x")) is ConfigError


@pytest.mark.parametrize(
    "values",
    [
        {"count": SECRET},
        {"mode": SECRET},
        {"anything": SECRET},
        {"inner": SECRET},
        {"inners": [SECRET]},
        {"inners": [{"size": SECRET}]},
        {"either": SECRET},
        {"unknown": SECRET},
        {"key": 123456},
        {"key": "123456"},
        {"hidden": "sk-123456"},
    ],
)
def test_secrets_are_not_told(values: dict[str, Any]) -> None:
    """No message, and no error chained to it, has a value from the environment, of a secret type or a hidden field."""
    error = wrong(**values)
    assert "123456" not in str(error)
    assert error.__context__ is None
    assert error.__cause__ is None


def test_a_value_from_the_environment_is_told_by_its_reference() -> None:
    """Who reads the error learns which reference brought the wrong value."""
    assert wrong(count=SECRET).what == "the value of '${KEY}' is not valid"


def test_words_of_a_validator_that_quotes_a_list_are_scrubbed() -> None:
    """Where a validator quotes a whole list, the values from the environment in it become references."""

    class Keys(Settings):
        keys: list[str]

        @field_validator("keys")
        @classmethod
        def _judge(cls, keys: list[str]) -> list[str]:
            raise ConfigError(f"{keys} will not do", right=f"not {keys[0]}")

    with pytest.raises(ConfigError, match="KEY") as raised:
        Keys(keys=[SECRET, "other"])
    assert raised.value.what == "['${KEY}', 'other'] will not do"
    assert raised.value.right == "not ${KEY}"


def test_what_fits_is_kept() -> None:
    """Right values arrive, strings from the environment as plain text and numbers, and which were given is known."""
    settings = Outer(count=FromEnv("3", "${N}", ("3",)), inners=[{"size": 1}, Inner(size=2)], flag=True)
    assert settings.count == 3
    assert [inner.size for inner in settings.inners] == [1, 2]
    assert settings.model_fields_set == {"count", "inners", "flag"}


def test_settings_are_frozen() -> None:
    """They cannot be changed once they are checked."""
    settings = Inner(size=1)
    with pytest.raises(ValidationError, match="frozen"):
        settings.size = 0


def test_a_missing_value_inside_a_plain_model() -> None:
    """Models that are not settings, inside settings, have their place told too."""

    class Point(BaseModel):
        x: int

    class Points(Settings):
        points: list[Point]

    with pytest.raises(ConfigError) as raised:
        Points(points=[{"x": 1}, {}])
    assert (raised.value.key, raised.value.what, raised.value.right) == ("points[1].x", "is missing", "add x")


def test_errors_can_be_pickled() -> None:
    """An error survives the way between processes, as one and as several."""
    several = as_one([ConfigError("a", "f", "k", "r"), ConfigError("b")])
    assert str(pickle.loads(pickle.dumps(several))) == str(several)
    assert [one.what for one in each(pickle.loads(pickle.dumps(several)))] == ["a", "b"]


def test_nothing_to_set() -> None:
    """Where nothing can be set, that is what is said."""
    assert nearest("colour", []) == "take it out: nothing can be set here"
