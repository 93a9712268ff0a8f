"""The command ``llmkit``: lists plugins, checks settings, prints their JSON schema, and explains where the router would
send a call."""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, get_args

from llmkit_plugins.call import Call
from llmkit_plugins.config import build, default_order, listed
from llmkit_plugins.conventions import ROUTE_WISHES
from llmkit_plugins.discovery import Found, discover
from llmkit_plugins.document import Document, locate, read
from llmkit_plugins.errors import ConfigError
from llmkit_plugins.plugins.router.config import OptimizeFor
from llmkit_plugins.plugins.router.explanation import COLUMNS
from llmkit_plugins.plugins.router.plugin import RouterPlugin
from llmkit_plugins.schema import settings_schema
from llmkit_plugins.settings import each
from llmkit_plugins.terminal import say, show_table

WELL, WRONG, FAILED = 0, 1, 2


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in *argv* (None: the process's own arguments) and return its exit code: 0 all is well, 1 the
    settings are wrong, 2 the command could not be carried out."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and args.run is not _demo:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        code = _run(args, rest)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader has left, as in `llmkit schema | head`; what is still buffered must go somewhere when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error}")
    return code


def _run(args: argparse.Namespace, rest: Sequence[str]) -> int:
    try:
        code: int = args.run(args, rest)
    except ConfigError as error:
        return _tell_problems(error, as_json=args.json)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "llmkit", description="Inspect llmkit plugins, check settings and explain routing."
    )
    parser.add_argument("--version", action="version", version=f"llmkit-plugins {version('llmkit-plugins')}")
    parser.set_defaults(json=False)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    plugins = commands.add_parser("plugins", help="list installed plugins and show which are enabled")
    plugins.add_argument("--config", metavar="FILE", help="settings file (default: the file LLMKit.from_config finds)")
    plugins.add_argument("--json", action="store_true", help="print JSON")
    plugins.set_defaults(run=_plugins)

    check = commands.add_parser("check", help="check a settings file and report every problem in it")
    check.add_argument(
        "file", nargs="?", metavar="FILE", help="settings file (default: the file LLMKit.from_config finds)"
    )
    check.add_argument("--json", action="store_true", help="print JSON")
    check.set_defaults(run=_check)

    schema = commands.add_parser("schema", help="print the JSON schema of a settings file, for editors")
    schema.set_defaults(run=_schema)

    explain = commands.add_parser("explain", help="show how the router rates each target, before its first call")
    explain.add_argument(
        "file", nargs="?", metavar="FILE", help="settings file (default: the file LLMKit.from_config finds)"
    )
    explain.add_argument("--model", help="the requested model")
    explain.add_argument(
        "--prompt-tokens", type=int, default=500, metavar="N", help="length of the prompt in tokens (default: 500)"
    )
    explain.add_argument("--max-tokens", type=int, metavar="N", help="upper bound on the length of the answer")
    explain.add_argument(
        "--optimize-for", choices=get_args(OptimizeFor), help="override the optimization goal of the settings"
    )
    explain.add_argument("--json", action="store_true", help="print JSON")
    explain.set_defaults(run=_explain)

    demo = commands.add_parser("demo", help="send real requests through the plugins to local providers", add_help=False)
    demo.set_defaults(run=_demo)
    return parser


def _plugins(args: argparse.Namespace, _: Sequence[str]) -> int:
    document = read(args.config) if args.config or locate() else Document({})
    rows = _rows(document)
    if args.json:
        say(json.dumps({"file": document.file, "plugins": rows}, indent=2))
    else:
        show_table(["plugin", "package", "hooks", "enabled"], [_cells(row) for row in rows])
    return WELL


def _rows(document: Document) -> list[dict[str, Any]]:
    """A row for every plugin that is installed or listed: the enabled ones first, in their order."""
    found = discover()
    first = {one.name: one for one in reversed(found)}
    names = listed(document)
    order = default_order(first) if names is None else list(names)
    found += [Found(name, "", error="it is not installed") for name in order if name not in first]
    rows = [_row(one, order, document.file) for one in found]
    return sorted(rows, key=lambda row: (row["place"] or len(rows), row["name"]))


def _row(one: Found, order: Sequence[str], file: str | None) -> dict[str, Any]:
    enabled = one.plugin is not None and one.name in order
    return {
        "name": one.name,
        "distribution": one.distribution,
        "version": one.version,
        "value": one.value or None,
        "hooks": one.hooks,
        "enabled": enabled,
        "place": order.index(one.name) + 1 if enabled else None,
        "why_not": None if enabled else one.error or f"not listed under plugins in {file}",
    }


def _cells(row: dict[str, Any]) -> list[str]:
    package = " ".join(filter(None, [row["distribution"], row["version"]]))
    hooks = ", ".join(hook.removeprefix("llmkit_") for hook in row["hooks"])
    return [
        row["name"],
        package,
        hooks,
        f"as number {row['place']}" if row["enabled"] else f"no: {row['why_not']}",
    ]


def _check(args: argparse.Namespace, _: Sequence[str]) -> int:
    document = read(args.file)
    plugins, targets, _settings = build(document)
    names = [name for name, _ in plugins]
    if args.json:
        places = [{"name": target.name, "provider": target.provider, "model": target.model} for target in targets]
        say(
            json.dumps(
                {"ok": True, "file": document.file, "plugins": names, "targets": places, "problems": []}, indent=2
            )
        )
        return WELL
    say(f"{document.file} is right", "bold green")
    say(f"  plugins: {', '.join(names) or 'none'}")
    say(f"  targets: {', '.join(f'{target.name} ({target.provider}: {target.model})' for target in targets) or 'none'}")
    return WELL


def _explain(args: argparse.Namespace, _: Sequence[str]) -> int:
    document = read(args.file)
    plugins, targets, _settings = build(document)
    router = next((plugin for _, plugin in plugins if isinstance(plugin, RouterPlugin)), None)
    if router is None:
        raise ConfigError("the router is not enabled", document.file, "plugins", "add 'router' to plugins")
    serving = [
        target for target in targets if target.serves is None or args.model is None or args.model in target.serves
    ]
    if not serving:
        right = "a model that one of the targets serves" if targets else "[[targets]]"
        raise ConfigError("there is no target to choose", document.file, "targets", right)
    explanation = router.explain(_imagined(args), serving)
    if args.json:
        say(json.dumps(dataclasses.asdict(explanation), indent=2))
        return WELL
    say(explanation.summary)
    show_table(COLUMNS, [row.cells for row in explanation.rows])
    return WELL


def _imagined(args: argparse.Namespace) -> Call:
    """The call that *args* describe."""
    params = {} if args.max_tokens is None else {"max_tokens": args.max_tokens}
    metadata = {} if args.optimize_for is None else {ROUTE_WISHES: {"optimize_for": args.optimize_for}}
    return Call("abc " * args.prompt_tokens, args.model, params=params, metadata=metadata)


def _schema(_: argparse.Namespace, __: Sequence[str]) -> int:
    say(json.dumps(settings_schema(discover()), indent=2))
    return WELL


def _demo(_: argparse.Namespace, rest: Sequence[str]) -> int:
    try:
        demo = importlib.import_module("llmkit_plugins.demo")
    except ImportError as error:
        return _fail(f'the demo needs {error.name}, which is not installed: pip install "llmkit-plugins[demo]"')
    code: int = demo.main(rest)
    return code


def _tell_problems(error: ConfigError, *, as_json: bool) -> int:
    problems = each(error)
    if as_json:
        told = [{"file": one.file, "key": one.key, "what": one.what, "right": one.right} for one in problems]
        say(json.dumps({"ok": False, "file": error.file, "problems": told}, indent=2))
        return WRONG
    if error.file:
        say(f"{error.file} is wrong in {len(problems)} {'place' if len(problems) == 1 else 'places'}", "bold red")
    for one in problems:
        say()
        if one.key:
            say(f"  {one.key}", "bold")
        say(f"    {one.what}")
        if one.right:
            say(f"    right: {one.right}", "green")
    return WRONG


def _fail(why: str) -> int:
    sys.stderr.write(f"llmkit: {why}\n")
    return FAILED
