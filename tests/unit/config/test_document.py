"""Where settings are looked for, and what ``${NAME}`` becomes."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmkit_plugins import ConfigError
from llmkit_plugins.document import FromEnv, join, locate, read, scrub


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY", "sk-123456")
    monkeypatch.setenv("HOST", "here")
    monkeypatch.delenv("UNSET", raising=False)


def write(name: str, text: str) -> Path:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def test_a_dict_is_taken_as_it_is() -> None:
    """A dict is read without a file, and is not changed."""
    given = {"a": ["${HOST}", {"b": ("${HOST}", 1)}]}
    before = copy.deepcopy(given)
    document = read(given)
    assert document.table == {"a": ["here", {"b": ["here", 1]}]}
    assert document.file is None
    assert given == before


def test_a_toml_file(tmp_path: Path) -> None:
    """A path leads to a TOML file, also one that begins with a byte order mark."""
    path = tmp_path / "any.toml"
    path.write_bytes(b"\xef\xbb\xbfa = 1\n")
    assert read(path).table == read(str(path)).table == {"a": 1}
    assert read(path).file == str(path)


def test_a_pyproject() -> None:
    """Of a pyproject.toml the table tool.llmkit is read, and keys are told from the top of the file."""
    document = read(write("pyproject.toml", "[tool.llmkit]\na = 1\n"))
    assert document.table == {"a": 1}
    assert document.prefix == "tool.llmkit"


@pytest.mark.parametrize("text", ["", "[tool]\nother = 1\n", "tool = 1\n", "[tool]\nllmkit = 1\n"])
def test_a_pyproject_without_the_table(text: str) -> None:
    """A pyproject.toml that was named must have the table; one that just lies there need not."""
    path = write("pyproject.toml", text)
    with pytest.raises(ConfigError) as raised:
        read(path)
    assert (raised.value.file, raised.value.key) == ("pyproject.toml", "tool.llmkit")
    assert locate() is None


def test_where_settings_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """LLMKIT_CONFIG comes first, then llmkit.toml, then pyproject.toml."""
    write("pyproject.toml", "[tool.llmkit]\na = 'pyproject'\n")
    assert read().table == {"a": "pyproject"}
    write("llmkit.toml", "a = 'file'\n")
    assert read().table == {"a": "file"}
    monkeypatch.setenv("LLMKIT_CONFIG", str(write("sub/named.toml", "a = 'named'\n")))
    assert read().table == {"a": "named"}
    assert read().file == str(Path("sub/named.toml"))


def test_no_settings_anywhere() -> None:
    """The error says where it looked."""
    with pytest.raises(ConfigError) as raised:
        read()
    for place in ("LLMKIT_CONFIG is not set", "llmkit.toml", "pyproject.toml", str(Path.cwd())):
        assert place in str(raised.value)


def test_a_named_file_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """What LLMKIT_CONFIG names must be there, even where llmkit.toml is."""
    write("llmkit.toml", "")
    monkeypatch.setenv("LLMKIT_CONFIG", "gone.toml")
    with pytest.raises(ConfigError) as raised:
        read()
    assert raised.value.file == "gone.toml"
    assert raised.value.right == "LLMKIT_CONFIG is the path of a TOML file"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    """A folder, and bytes that are not UTF-8, are refused with the path."""
    with pytest.raises(ConfigError, match="cannot be read"):
        read(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b"a = '\xe9'")
    with pytest.raises(ConfigError, match=r"latin\.toml: is not UTF-8 \(byte 5\)"):
        read(tmp_path / "latin.toml")


def test_toml_errors_have_line_and_column() -> None:
    """A syntax error is told with its place."""
    with pytest.raises(ConfigError, match=r"llmkit\.toml: is not TOML: .* \(at line 2, column 5\)"):
        read(write("llmkit.toml", "a = 1\nb = \n"))


@pytest.mark.parametrize(
    ("written", "expanded"),
    [
        ("${HOST}", "here"),
        ("http://${HOST}:1/${HOST}", "http://here:1/here"),
        ("$${HOST}", "${HOST}"),
        ("$${${HOST}}", "${here}"),
        ("$HOST $$ {HOST}", "$HOST $$ {HOST}"),
        ("$$${HOST}", "$${HOST}"),
    ],
)
def test_references(written: str, expanded: str) -> None:
    """A reference becomes the variable's value; two dollars before a brace stand for one."""
    document = read({"a": written})
    assert document.table == {"a": expanded}
    assert document.problems == []


@pytest.mark.parametrize("written", ["${HOST", "${}", "${HO ST}", "${HOST:-x}", "${1}", "x ${"])
def test_what_only_looks_like_a_reference(written: str) -> None:
    """A malformed reference is a problem rather than text."""
    (problem,) = read({"a": [written]}).problems
    assert problem.key == "a[0]"
    assert problem.right == "${NAME}, or $${ for the two characters themselves"


def test_unset_variables_are_named() -> None:
    """All the variables that one text lacks are told together, with the key."""
    problems = read({"a": {"b": "${UNSET}${NOR}${UNSET}"}, "c": ["${UNSET}"]}).problems
    assert [(problem.key, problem.what) for problem in problems] == [
        ("a.b", "not set in the environment: UNSET, NOR"),
        ("c[0]", "not set in the environment: UNSET"),
    ]


def test_keys_that_are_not_text() -> None:
    """A dict from elsewhere may have other keys; that is a problem, not a crash."""
    document = read({"a": {True: 1, "b": 2}})
    assert document.table == {"a": {"b": 2}}
    assert [problem.key for problem in document.problems] == ["a"]


def test_values_from_the_environment_do_not_show() -> None:
    """They are texts like any other, but their repr is the reference, and copies are plain."""
    value: Any = read({"a": "Bearer ${KEY}"}).table["a"]
    assert isinstance(value, FromEnv)
    assert value == "Bearer sk-123456"
    assert repr([value]) == "['Bearer ${KEY}']"
    for copied in (copy.deepcopy(value), pickle.loads(pickle.dumps(value))):
        assert type(copied) is str
        assert copied == value


def test_scrubbing() -> None:
    """Every value from the environment in some data is replaced in a text, wherever in the data it is."""
    data = read({"a": [{"b": "x ${KEY}"}], "c": "${HOST}"}).table
    assert scrub("sk-123456 is not here", data) == "x ${KEY} is not ${HOST}"
    assert scrub("as it was", read({"a": 1}).table) == "as it was"


@pytest.mark.parametrize(
    ("outer", "inner", "whole"),
    [("a", "b", "a.b"), ("a", "[0].b", "a[0].b"), (None, "b", "b"), ("a", None, "a"), ("", "", "")],
)
def test_keys_are_joined(outer: str | None, inner: str | None, whole: str) -> None:
    """Two parts of a key make one."""
    assert join(outer, inner) == whole


@given(st.text(alphabet="${}_A9 ") | st.text())
def test_any_text_can_be_written(text: str) -> None:
    """Text without a dollar is left alone, and any other can be written so that it is itself."""
    assert read({"a": text.replace("$", "")}).table["a"] == text.replace("$", "")
    assert read({"a": text.replace("${", "$${")}).table["a"] == text
