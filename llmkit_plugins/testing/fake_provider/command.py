"""The fake provider as a command: prints its URL and serves until it is interrupted."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

from llmkit_plugins.errors import ConfigError
from llmkit_plugins.testing.fake_provider.behaviour import BehaviourSettings
from llmkit_plugins.testing.fake_provider.faults import KINDS, Fault, FaultKind
from llmkit_plugins.testing.fake_provider.latency import Constant, Latency, LogNormal, Uniform
from llmkit_plugins.testing.fake_provider.provider import FakeProvider

_DISTRIBUTIONS: dict[str, Callable[..., Latency]] = {"uniform": Uniform, "lognormal": LogNormal}
_FAULT_OPTIONS: dict[str, Callable[[str], Any]] = {
    "on": lambda text: _numbers(text),
    "probability": float,
    "status": int,
    "retry_after": float,
    "after_chunks": int,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command with *arguments*, by default those of the process; returns its exit status."""
    parser = _parser()
    options = vars(parser.parse_args(arguments))
    port = options.pop("port")
    try:
        provider = FakeProvider(port=port, **cast("BehaviourSettings", options))
    except ConfigError as error:
        parser.error(str(error))
    # SIGTERM shuts down as cleanly as Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with provider:
            sys.stdout.write(f"{provider.url}\n")
            sys.stdout.flush()
            while True:
                time.sleep(3600)
    except KeyboardInterrupt:
        return 0
    except OSError as error:
        sys.stderr.write(f"{parser.prog}: {error}\n")
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m llmkit_plugins.testing.fake_provider",
        description="A provider to test against: speaks OpenAI on 127.0.0.1, prints its URL, serves until interrupted. "
        "A LATENCY is a number of seconds, uniform:LOW,HIGH or lognormal:MEDIAN,SIGMA.",
        argument_default=argparse.SUPPRESS,
    )
    add = parser.add_argument
    add("--port", type=int, default=0, help="port to listen on (default: any free one)")
    add("--latency", dest="first_token_seconds", type=_latency, metavar="LATENCY", help="until the first token")
    add("--per-token", dest="per_token_seconds", type=_latency, metavar="LATENCY", help="from each token to the next")
    add("--reply", action="append", metavar="TEXT", help="what it says; several in turn")
    add("--model", dest="models", action="append", metavar="NAME", help="a model it has (default: any)")
    add(
        "--fault",
        dest="faults",
        action="append",
        type=_fault,
        metavar="KIND[,OPTION=VALUE...]",
        help=f"what goes wrong: {', '.join(KINDS)}; options: {', '.join(_FAULT_OPTIONS)}; "
        "for example rate_limit,on=1-3,retry_after=2",
    )
    add("--max-in-flight", type=int, metavar="N", help="how many requests it works on at once; the rest wait")
    add("--requests-per-minute", type=int, metavar="N", help="beyond it: 429")
    add("--tokens-per-minute", type=int, metavar="N", help="beyond it: 429")
    add("--input-price", type=float, metavar="USD", help="per million prompt tokens")
    add("--output-price", type=float, metavar="USD", help="per million completion tokens")
    add("--seed", type=int, metavar="N", help="of all chance (default: 0)")
    return parser


def _latency(text: str) -> Latency:
    name, _, numbers = text.partition(":")
    try:
        if not numbers:
            return Constant(float(text))
        first, second = map(float, numbers.split(","))
        return _DISTRIBUTIONS[name](first, second)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error
    except (ValueError, KeyError) as error:
        right = "a number of seconds, uniform:LOW,HIGH or lognormal:MEDIAN,SIGMA"
        raise argparse.ArgumentTypeError(f"{text!r} is not a latency ({right})") from error


def _fault(text: str) -> Fault:
    kind, *options = text.split(",")
    try:
        given = [option.partition("=") for option in options]
        settings = {name: _FAULT_OPTIONS[name](value) for name, _, value in given}
        return Fault(cast("FaultKind", kind), **settings)
    except KeyError as error:
        known = ", ".join(_FAULT_OPTIONS)
        raise argparse.ArgumentTypeError(f"{text!r}: {error} is not an option of a fault (one of {known})") from error
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from error


def _numbers(text: str) -> range:
    """``3`` or ``3-7``."""
    first, _, last = text.partition("-")
    return range(int(first), int(last or first) + 1)
