"""Who imports whom: the core no framework, and neither integration the other's."""

from __future__ import annotations

import subprocess
import sys

import pytest

FRAMEWORKS = {"langchain": ("langchain", "langchain_core", "langchain_openai", "langgraph"), "litellm": ("litellm",)}

IMPORT = """
import importlib, pathlib, sys

package, blocked, optional = sys.argv[1], set(sys.argv[2].split(",")), sys.argv[3]

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocked())
root = pathlib.Path(importlib.import_module(package).__file__).parent
for file in sorted(root.rglob("*.py")):
    parts = file.relative_to(root).with_suffix("").parts
    # the demo shows both frameworks, and is loaded by its command
    if "demo" not in parts and parts[-1] not in ("__main__", optional):
        importlib.import_module(".".join((package, *parts)).removesuffix(".__init__"))
loaded = {name.partition(".")[0] for name in sys.modules}
print(",".join(sorted(loaded & {"langchain", "langchain_core", "litellm", "langgraph"})))
"""


def import_all(package: str, *blocked: str, optional: str = "") -> set[str]:
    """Import every module of *package* but *optional* in a process of its own; which frameworks came with it."""
    names = [name for framework in blocked for name in FRAMEWORKS[framework]]
    done = subprocess.run(
        [sys.executable, "-c", IMPORT, package, ",".join(names), optional], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.strip().split(",")) - {""}


def test_core_knows_no_framework():
    """Every module of the core can be imported with both frameworks blocked, and with both there loads neither."""
    assert import_all("llmkit_plugins", "langchain", "litellm") == set()
    assert import_all("llmkit_plugins") == set()


@pytest.mark.parametrize(
    ("package", "own", "other"),
    [("llmkit_langchain", "langchain_core", "litellm"), ("llmkit_litellm", "litellm", "langchain")],
)
def test_integrations_know_their_own(package, own, other):
    """Every module of an integration can be imported with the other framework blocked, and loads its own."""
    assert own in import_all(package, other)


def test_langchain_integration_needs_the_core_of_langchain_only():
    """``langchain-core`` is enough for all but the middleware of agents: neither ``langchain`` itself nor a provider's
    package is imported."""
    assert import_all("llmkit_langchain", "litellm", optional="middleware") == {"langchain_core"}


def test_middleware_says_what_it_needs():
    """Where ``langchain`` is not installed, asking for the middleware says what to install."""
    ask = "import sys; sys.modules['langchain'] = None; from llmkit_langchain import LLMKitMiddleware"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=100)
    assert "ImportError: LLMKitMiddleware is for agents" in done.stderr
    assert "pip install" in done.stderr


FORGOTTEN = {
    "langchain": ("langchain_core", "import llmkit_langchain"),
    "litellm": ("litellm", "import llmkit_litellm"),
    "redis": ("redis", "from llmkit_plugins import RateLimiterPlugin as P; P(store='redis://127.0.0.1')"),
}


@pytest.mark.parametrize(("extra", "module", "use"), [(extra, *each) for extra, each in FORGOTTEN.items()])
def test_a_forgotten_extra_says_what_to_install(extra, module, use):
    """An integration is in every wheel, its framework is not."""
    ask = f"import sys; sys.modules[{module!r}] = None; {use}"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=100)
    assert f"pip install 'llmkit-plugins[{extra}]'" in done.stderr.splitlines()[-1]


def test_block_blocks():
    """The block is one: an integration cannot be imported without its own framework."""
    with pytest.raises(AssertionError, match="langchain_core is blocked"):
        import_all("llmkit_langchain", "langchain")
