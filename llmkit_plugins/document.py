"""Where settings come from: a TOML file, ``[tool.llmkit]`` of a pyproject.toml, or a dict, with ``${NAME}`` from the
environment."""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmkit_plugins.errors import ConfigError

CONFIG_VARIABLE = "LLMKIT_CONFIG"
CONFIG_FILE = "llmkit.toml"
PYPROJECT = "pyproject.toml"

_A_FILE = "the path of a TOML file"
_REFERENCE = re.compile(r"\$\$\{|\$\{(?:(?P<name>[A-Za-z_][A-Za-z0-9_]*)\})?")
_PLUGINS_TABLE = re.compile(r"^\s*\[+\s*(?:tool\.llmkit\.)?plugins\s*\.\s*\"?([\w-]+)", re.MULTILINE)


class FromEnv(str):
    """A string containing values from the environment. Its ``repr`` shows the references, never the values."""

    __slots__ = ("values", "written")
    written: str
    values: tuple[str, ...]

    def __new__(cls, text: str, written: str, values: tuple[str, ...]) -> FromEnv:
        made = super().__new__(cls, text)
        made.written, made.values = written, values
        return made

    def __repr__(self) -> str:
        return repr(self.written)

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        return str, (str(self),)


def scrub(text: str, data: object) -> str:
    """*text*, with every value in *data* that is from the environment replaced by its reference."""
    for leaf in _from_env(data):
        for value in leaf.values:
            text = text.replace(value, leaf.written)
    return text


def _from_env(data: object) -> Iterator[FromEnv]:
    if isinstance(data, FromEnv):
        yield data
    elif isinstance(data, Mapping | list | tuple):
        for value in data.values() if isinstance(data, Mapping) else data:
            yield from _from_env(value)


def join(outer: str | None, inner: str | None) -> str:
    """Join two parts of a dotted key: ``targets`` and ``[0].name`` make ``targets[0].name``."""
    dot = "." if outer and inner and not inner.startswith("[") else ""
    return f"{outer or ''}{dot}{inner or ''}"


@dataclass(frozen=True, slots=True)
class Document:
    """Settings as they were written, references replaced; nothing is checked yet."""

    table: dict[str, Any]
    """The settings: the kit's own, and one table for each plugin."""
    file: str | None = None
    """The file they were read from; None for a dict."""
    prefix: str = ""
    """What precedes every key in that file: ``tool.llmkit`` in a pyproject.toml."""
    problems: list[ConfigError] = field(default_factory=list)
    """References that could not be replaced."""


def read(source: str | os.PathLike[str] | Mapping[str, Any] | None = None) -> Document:
    """The settings in *source*: a dict, the path of a TOML file, or None for the file that :func:`locate` finds.

    Raises ``ConfigError`` if there is none, or if it cannot be read or is not TOML.
    """
    if isinstance(source, Mapping):
        return _document(source)
    if source is not None:
        return _read_file(Path(source))
    if path := locate():
        named = os.environ.get(CONFIG_VARIABLE)
        return _read_file(path, f"{CONFIG_VARIABLE} is the path of a TOML file" if named else _A_FILE)
    looked = f"{CONFIG_VARIABLE} is not set, {Path.cwd()} has no {CONFIG_FILE} and no {PYPROJECT} with [tool.llmkit]"
    raise ConfigError(f"no settings found: {looked}", right="one of these three, or a path or a dict")


def locate() -> Path | None:
    """The file that ``LLMKIT_CONFIG`` names; else, in the working directory, ``llmkit.toml`` or a ``pyproject.toml``
    that has ``[tool.llmkit]``; else None."""
    if named := os.environ.get(CONFIG_VARIABLE):
        return Path(named)
    if Path(CONFIG_FILE).exists():
        return Path(CONFIG_FILE)
    pyproject = Path(PYPROJECT)
    return pyproject if pyproject.exists() and _tool_table(_parse(pyproject)) is not None else None


def _read_file(path: Path, right: str = _A_FILE) -> Document:
    table = _parse(path, right)
    if path.name != PYPROJECT:
        return _document(table, str(path))
    tool = _tool_table(table)
    if tool is None:
        raise ConfigError("there is no such table", file=str(path), key="tool.llmkit", right="add [tool.llmkit]")
    return _document(tool, str(path), "tool.llmkit")


def _tool_table(pyproject: dict[str, Any]) -> dict[str, Any] | None:
    tool = pyproject.get("tool", {})
    table = tool.get("llmkit") if isinstance(tool, dict) else None
    return table if isinstance(table, dict) else None


def _parse(path: Path, right: str = _A_FILE) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", file=str(path), right=right) from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 (byte {error.start})", file=str(path), right="a TOML file in UTF-8") from None
    try:
        return tomllib.loads(text)
    except ValueError as error:
        # A list of plugins before their tables is not valid TOML: say what to write instead of what the parser found.
        if table := _PLUGINS_TABLE.search(text):
            raise nested_under_plugins(table[1], str(path)) from None
        right = "text in quotes, every key and every table once"
        raise ConfigError(f"is not TOML: {error}", file=str(path), right=right) from None


def nested_under_plugins(plugin: str, file: str | None = None) -> ConfigError:
    """The error for ``[plugins.x]``: *plugins* is the list of enabled plugins, so it cannot hold tables too."""
    what = "plugins is the list of the enabled plugins; their settings do not go under it"
    return ConfigError(what, file=file, key=f"plugins.{plugin}", right=f"a table of its own: [{plugin}]")


def _document(table: Mapping[str, Any], file: str | None = None, prefix: str = "") -> Document:
    document = Document({}, file, prefix)
    document.table.update(_expand(table, "", document))
    return document


def _expand(value: Any, key: str, document: Document) -> Any:
    """*value* with its references replaced; what could not be replaced is added to the document's problems."""
    if isinstance(value, str):
        return _expand_text(value, key, document)
    if isinstance(value, list | tuple):
        return [_expand(item, f"{key}[{index}]", document) for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for name in [name for name in value if not isinstance(name, str)]:
            document.problems.append(ConfigError(f"the key {name!r} is not text", key=key, right="keys are text"))
        return {name: _expand(item, join(key, name), document) for name, item in value.items() if isinstance(name, str)}
    return value


def _expand_text(text: str, key: str, document: Document) -> str:
    values: dict[str, str | None] = {}

    def replace(match: re.Match[str]) -> str:
        if name := match["name"]:
            values[name] = os.environ.get(name)
            return values[name] or ""
        return "${"

    expanded = _REFERENCE.sub(replace, text)
    missing = [name for name, value in values.items() if value is None]
    if any(match[0] == "${" for match in _REFERENCE.finditer(text)):
        what, right = "${ does not begin a reference here", "${NAME}, or $${ for the two characters themselves"
        document.problems.append(ConfigError(what, key=key, right=right))
    elif missing:
        what = f"not set in the environment: {', '.join(missing)}"
        right = f"set {missing[0]}, or write $${{ where no reference is meant"
        document.problems.append(ConfigError(what, key=key, right=right))
    return FromEnv(expanded, text, tuple(filter(None, values.values()))) if values else expanded
