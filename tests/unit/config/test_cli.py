"""The command ``llmkit``, as a person and as a program use it."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmkit_plugins import cli

BROKEN = Path(__file__).parent / "broken"
A_NUMBER = "a number: Seconds after which a call is ended that a framework began and never ended"

EXPECTED: dict[str, list[tuple[str | None, str, str]]] = {
    "key_twice": [
        (None, "is not TOML: Cannot overwrite a value (at line 3, column 19)", "every key and every table once")
    ],
    "malformed_reference": [("rate_limiter.redis_url", "${ does not begin a reference here", "${NAME}, or $${")],
    "missing_variable": [
        (
            "rate_limiter.redis_url",
            "not set in the environment: LLMKIT_TEST_UNSET",
            "set LLMKIT_TEST_UNSET, or write $${",
        )
    ],
    "misspelled_setting": [("rate_limiter.max_wait", "there is no such setting", "did you mean max_wait_seconds?")],
    "misspelled_table": [("rate_limitter", "no such plugin is installed", "did you mean rate_limiter?")],
    "misspelled_top": [("lease_second", "there is no such setting", "did you mean lease_seconds?")],
    "negative_price": [("targets[1].input_price", "-0.15 is not valid", "greater than or equal to 0: USD per million")],
    "not_a_table": [("rate_limiter", "the settings of a plugin are a table, not true", "[rate_limiter]")],
    "not_enabled": [("router", "the plugin is not enabled", "add 'router' to plugins, or take [router] out")],
    "plugin_twice": [("plugins[2]", "'router' is listed twice", "each plugin once")],
    "secret_in_the_wrong_place": [
        ("lease_seconds", "the value of '${LLMKIT_TEST_SECRET}' is not valid", A_NUMBER),
        ("rate_limiter.on_limit", "the value of '${LLMKIT_TEST_SECRET}' is not valid", "'wait' or 'refuse'"),
        ("rate_limiter.limits[0].requests", "the value of '${LLMKIT_TEST_SECRET}' is not valid", "such as 100/s"),
    ],
    "several": [
        ("targets[0].name", "'' is not valid", "at least 1 character: Unique name of the target."),
        ("targets[0].weight", "true is not valid", "a number: Share of the traffic among equals."),
        ("on_plugin_error", "'ignore' is not valid", "'log' or 'raise'"),
        (
            "plugins[1]",
            "no plugin called 'rooter' is installed",
            "did you mean router?; installed: plain, rate_limiter,",
        ),
        ("rate_limiter.max_wait_seconds", "0 is not valid", "greater than 0: The longest a call waits for its turn."),
        ("rate_limiter.limits[0].per", "is missing", "add per: What the limit is counted for."),
        ("rate_limiter.limits[0].bursts", "there is no such setting", "one of per, requests"),
    ],
    "syntax": [(None, "is not TOML: Illegal character '\\n' (at line 4, column 13)", "text in quotes")],
    "tables_instead_of_plugins": [
        ("plugins.rate_limiter", "plugins is the list", "a table of its own: [rate_limiter]")
    ],
    "tables_under_plugins": [("plugins.rate_limiter", "plugins is the list", "a table of its own: [rate_limiter]")],
    "takes_no_settings": [("plain.colour", "there is no such setting", "nothing can be set here")],
    "target_incomplete": [("targets[0].model", "is missing", "add model: The provider's name of the model.")],
    "target_twice": [("targets[1].name", "another target is called 'fast' too", "a name of its own for each target")],
    "unimportable_plugin": [("plugins[1]", "ImportError: No module named 'shaken'", "repair or update that package")],
    "unknown_plugin": [("plugins[0]", "no plugin called 'rate_limitr' is installed", "did you mean rate_limiter?")],
    "wrong_choice": [
        ("router.optimize_for", "'price' is not valid", "'latency' or 'cost': What the best target is best at.")
    ],
    "wrong_rate": [("rate_limiter.limits[1].requests", "'60 per fortnight' is not a rate", "such as 100/s")],
    "wrong_unit": [("rate_limiter.max_wait_seconds", "'20s' is not valid", "a number: The longest a call waits")],
}


@pytest.fixture
def llmkit(capsys: pytest.CaptureFixture[str]) -> Callable[..., SimpleNamespace]:
    """``llmkit("check", "file")``: the exit code and what was written."""

    def llmkit(*argv: str) -> SimpleNamespace:
        try:
            code = cli.main(argv)
        except SystemExit as exit_:
            code = int(exit_.code or 0)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return SimpleNamespace(code=code, out=out, err=err)

    return llmkit


@pytest.fixture
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    """A value in the environment that nobody may show."""
    monkeypatch.delenv("LLMKIT_TEST_UNSET", raising=False)
    monkeypatch.setenv("LLMKIT_TEST_SECRET", "sk-123456")
    return "sk-123456"


def test_every_broken_file_is_expected() -> None:
    """No broken file lies there without a test, and none is missing."""
    assert {path.stem for path in BROKEN.glob("*.toml")} == set(EXPECTED)


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("name", EXPECTED)
def test_check_tells_what_is_wrong(name: str, llmkit: Callable[..., SimpleNamespace], secret: str) -> None:
    """For a broken file a person reads the file, each key, what is wrong with it and what would be right."""
    path = str(BROKEN / f"{name}.toml")
    result = llmkit("check", path)
    assert result.code == 1
    assert result.out.startswith(f"{path} is wrong in {len(EXPECTED[name])} place")
    _, *blocks = result.out.split("\n\n")
    assert len(blocks) == len(EXPECTED[name])
    for block, (key, what, right) in zip(blocks, EXPECTED[name], strict=True):
        *heading, middle, last = block.rstrip("\n").split("\n")
        assert heading == ([] if key is None else [f"  {key}"])
        assert what in middle
        assert last.startswith("    right: ")
        assert right in last
    assert secret not in result.out + result.err


@pytest.mark.usefixtures("plugins")
@pytest.mark.parametrize("name", EXPECTED)
def test_check_tells_a_program_what_is_wrong(name: str, llmkit: Callable[..., SimpleNamespace], secret: str) -> None:
    """With --json a program gets the same, field by field."""
    path = str(BROKEN / f"{name}.toml")
    result = llmkit("check", "--json", path)
    told = json.loads(result.out)
    assert result.code == 1
    assert (told["ok"], told["file"]) == (False, path)
    assert [problem["key"] for problem in told["problems"]] == [key for key, _, _ in EXPECTED[name]]
    for problem, (_, what, right) in zip(told["problems"], EXPECTED[name], strict=True):
        assert problem["file"] == path
        assert what in problem["what"]
        assert right in problem["right"]
    assert secret not in result.out + result.err


GOOD = """
plugins = ["router", "rate_limiter"]

[[targets]]
name = "fast"
provider = "openai"
model = "gpt-4o-mini"
"""


@pytest.mark.usefixtures("plugins")
def test_check_of_a_good_file(llmkit: Callable[..., SimpleNamespace]) -> None:
    """What is right is summed up: the plugins in their order, and the targets."""
    Path("llmkit.toml").write_text(GOOD)
    for argv in (["check"], ["check", "llmkit.toml"]):
        result = llmkit(*argv)
        assert result.code == 0
        assert (
            result.out
            == "llmkit.toml is right\n  plugins: router, rate_limiter\n  targets: fast (openai: gpt-4o-mini)\n"
        )
    assert json.loads(llmkit("check", "--json").out) == {
        "ok": True,
        "file": "llmkit.toml",
        "plugins": ["router", "rate_limiter"],
        "targets": [{"name": "fast", "provider": "openai", "model": "gpt-4o-mini"}],
        "problems": [],
    }


@pytest.mark.usefixtures("plugins")
def test_check_of_an_empty_file(llmkit: Callable[..., SimpleNamespace]) -> None:
    """An empty file is right, and says so."""
    Path("llmkit.toml").write_text("plugins = []")
    assert llmkit("check").out == "llmkit.toml is right\n  plugins: none\n  targets: none\n"


def test_check_without_a_file(llmkit: Callable[..., SimpleNamespace]) -> None:
    """Where there are no settings at all, it says where it looked."""
    result = llmkit("check")
    assert result.code == 1
    assert "no settings found: LLMKIT_CONFIG is not set" in result.out


@pytest.mark.usefixtures("plugins")
def test_plugins_without_settings(llmkit: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without settings the table has every plugin: those that can be used are enabled, the other says why not."""
    monkeypatch.setenv("COLUMNS", "120")
    result = llmkit("plugins")
    assert result.code == 0
    assert [line.split("  ", 1)[0] for line in result.out.splitlines()] == [
        "plugin",
        "rate_limiter",
        "router",
        "plain",
        "shaky",
    ]
    _, limiter, *_, shaky = result.out.splitlines()
    assert "acme 1.0  pre_request, error  as number 1" in limiter
    assert shaky.endswith("no: it cannot be imported: ImportError: No module named 'shaken'")


@pytest.mark.usefixtures("plugins")
def test_plugins_with_settings(
    install: Callable[..., Any], plugins: SimpleNamespace, llmkit: Callable[..., SimpleNamespace]
) -> None:
    """With settings it says which are enabled as what, and of each other one why it is not."""
    install("plain", plugins.Plain, "beta", "2.0")
    Path("my.toml").write_text('plugins = ["router", "shaky", "gone"]')
    told = json.loads(llmkit("plugins", "--json", "--config", "my.toml").out)
    assert told["file"] == "my.toml"
    assert [
        (row["name"], row["distribution"], row["enabled"], row["place"], row["why_not"]) for row in told["plugins"]
    ] == [
        ("router", "acme", True, 1, None),
        ("gone", None, False, None, "it is not installed"),
        ("plain", "acme", False, None, "not listed under plugins in my.toml"),
        ("plain", "beta", False, None, "the name is taken by acme 1.0"),
        ("rate_limiter", "acme", False, None, "not listed under plugins in my.toml"),
        ("shaky", "acme", False, None, "it cannot be imported: ImportError: No module named 'shaken'"),
    ]
    assert told["plugins"][0]["hooks"] == ["llmkit_pre_request", "llmkit_error"]


def test_check_of_a_plugin_that_fails(install: Callable[..., Any], llmkit: Callable[..., SimpleNamespace]) -> None:
    """A bug in a plugin is told like any other problem, without advice where there is none to give."""
    install("buggy", lambda: 1 / 0)
    Path("llmkit.toml").write_text('plugins = ["buggy"]')
    result = llmkit("check")
    assert result.code == 1
    heading, _, key, what = result.out.splitlines()
    assert (heading, key) == ("llmkit.toml is wrong in 1 place", "  buggy")
    assert what.startswith("    the plugin failed with ZeroDivisionError: division by zero (test_cli.py, line ")


def test_plugins_with_settings_that_cannot_be_read(llmkit: Callable[..., SimpleNamespace]) -> None:
    """A file that was named must be there."""
    result = llmkit("plugins", "--config", "gone.toml")
    assert result.code == 1
    assert "gone.toml is wrong in 1 place" in result.out


def test_a_table_fits_its_width(llmkit: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is little room no line is longer than that, and every word is still there."""
    monkeypatch.setenv("COLUMNS", "500")
    wide = llmkit("plugins").out
    assert max(map(len, wide.splitlines())) > 80
    monkeypatch.setenv("COLUMNS", "80")
    narrow = llmkit("plugins").out
    assert max(map(len, narrow.splitlines())) <= 80
    assert sorted(narrow.split()) == sorted(wide.split())


def test_the_real_plugins(llmkit: Callable[..., SimpleNamespace]) -> None:
    """What this package itself brings is found and can be used."""
    told = json.loads(llmkit("plugins", "--json").out)["plugins"]
    own = [row for row in told if row["distribution"] == "llmkit-plugins"]
    assert own
    assert [row["why_not"] for row in own] == [None] * len(own)


def test_version(llmkit: Callable[..., SimpleNamespace]) -> None:
    """--version says which version is installed."""
    result = llmkit("--version")
    assert (result.code, result.out) == (0, f"llmkit-plugins {version('llmkit-plugins')}\n")


@pytest.mark.parametrize("argv", [[], ["nonsense"], ["check", "a", "b"], ["plugins", "--colour"]])
def test_wrong_usage(argv: Sequence[str], llmkit: Callable[..., SimpleNamespace]) -> None:
    """What the command does not know is refused with the usage."""
    result = llmkit(*argv)
    assert result.code == 2
    assert result.err.startswith("usage: llmkit")


def test_the_demo_is_passed_its_arguments(
    llmkit: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything after ``demo`` is the demo's."""
    seen: list[str] = []
    monkeypatch.setitem(sys.modules, "llmkit_plugins.demo", SimpleNamespace(main=lambda argv: seen.extend(argv) or 5))
    assert llmkit("demo", "--calls", "3", "--help").code == 5
    assert seen == ["--calls", "3", "--help"]


def test_the_demo_without_the_frameworks(
    llmkit: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the demo cannot be imported, it says what to install."""
    monkeypatch.setitem(sys.modules, "llmkit_plugins.demo", None)
    result = llmkit("demo")
    assert result.code == 2
    assert 'pip install "llmkit-plugins[demo]"' in result.err


@pytest.mark.parametrize(("bug", "code"), [(RuntimeError("oh"), 2), (KeyboardInterrupt(), 130)])
def test_a_bug_is_one_line(
    bug: BaseException, code: int, llmkit: Callable[..., SimpleNamespace], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever goes wrong, nobody is shown a traceback, and the exit code tells."""

    def fail(*_: object) -> None:
        raise bug

    monkeypatch.setattr(cli, "discover", fail)
    result = llmkit("plugins")
    assert result.code == code
    assert result.err == ("llmkit: RuntimeError: oh\n" if code == 2 else "")


class Terminal(io.StringIO):
    """An output that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``on_terminal("check", "file")``: what a terminal of 100 columns was sent."""
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def on_terminal(*argv: str) -> str:
        with monkeypatch.context() as patch, Terminal() as terminal:
            patch.setattr(sys, "stdout", terminal)
            cli.main(argv)
            return terminal.getvalue()

    return on_terminal


@pytest.mark.usefixtures("plugins")
def test_a_terminal_has_frames_and_colours(on_terminal: Callable[..., str]) -> None:
    """On a terminal rich draws the table and colours what is wrong; square brackets stay as they are."""
    assert "┃" in on_terminal("plugins")
    told = on_terminal("check", str(BROKEN / "not_a_table.toml"))
    assert "\x1b[1;31m" in told
    assert "right: [rate_limiter]" in told


@pytest.mark.usefixtures("plugins")
def test_without_rich(on_terminal: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without rich the same is plain text, also on a terminal."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    told = on_terminal("plugins")
    assert told.startswith("plugin        package   hooks               enabled\nrate_limiter  acme 1.0  ")


@pytest.fixture
def script() -> Path:
    """The command as it is installed."""
    return Path(sys.executable).with_name("llmkit")


def test_the_command_is_installed(script: Path) -> None:
    """The console script runs in a process of its own."""
    done = subprocess.run([script, "--version"], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.startswith("llmkit-plugins ")


@pytest.mark.parametrize("command", ["schema", "plugins"])
def test_a_reader_that_leaves_early(command: str, script: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether there is much to read or little, nobody complains when the reader is gone."""
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    with subprocess.Popen([script, command], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""
    assert process.returncode == 2


@pytest.mark.usefixtures("plugins")
def test_check_logs_what_it_skips(llmkit: Callable[..., SimpleNamespace], caplog: pytest.LogCaptureFixture) -> None:
    """A plugin that is skipped is warned about, beside a file that is right."""
    Path("llmkit.toml").write_text("")
    assert llmkit("check").code == 0
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
