"""A plugin in a package of its own, installed into a fresh environment without network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "third_party_plugin"

SCRIPT = """
import json
from llmkit_plugins import Backend, Call, LLMKit, NoTarget

class Echo(Backend):
    def send(self, call, attempt):
        return attempt.target.name

def target(name, region):
    return {"name": name, "provider": "p", "model": "m", "metadata": {"region": region}}

def route(kit, tenant):
    try:
        return kit.call(Call(tenant=tenant), Echo()).raw
    except NoTarget as refused:
        return refused.reasons

settings = {"plugins": ["eu_only"], "eu_only": {"tenants": ["acme"]}}
with LLMKit.from_config({**settings, "targets": [target("far", "us"), target("near", "eu")]}) as kit:
    seen = {"plugins": list(kit.plugins), "acme": route(kit, "acme"), "other": route(kit, "other")}
with LLMKit.from_config({**settings, "targets": [target("far", "us")]}) as kit:
    seen["nowhere"] = route(kit, "acme")
print(json.dumps(seen))
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh environment that sees the packages of this one, with the example's wheel installed; its interpreter."""
    base = tmp_path_factory.mktemp("third_party")
    shutil.copytree(EXAMPLE, base / "source", ignore=shutil.ignore_patterns("__pycache__", ".*", "dist"))
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", base / "dist", cwd=base / "source")
    venv.create(base / "env", with_pip=True, symlinks=os.name != "nt")
    python = base / "env" / ("Scripts" if os.name == "nt" else "bin") / "python"
    run(python, "-m", "pip", "install", "--no-index", "--no-deps", *(base / "dist").glob("*.whl"), cwd=base)
    _see_packages_of_this_environment(python)
    return python


def _see_packages_of_this_environment(python: Path) -> None:
    """Its folders are added as site folders, so that what is installed as editable is seen too."""
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=python.parent).strip())
    seen = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (site / "outer.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in sorted(seen)))


def run(*command: str | Path, cwd: Path, variables: Mapping[str, str] | None = None, code: int = 0) -> str:
    """What *command* wrote, away from whatever this process was told by its environment."""
    kept = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_", "LLMKIT", "COV"))
    }
    quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [*map(str, command)],
        cwd=cwd,
        env={**kept, **quiet, **(variables or {})},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def llmkit(python: Path, cwd: Path, *argv: str, code: int = 0) -> Any:
    """What the command ``llmkit`` says to a program."""
    return json.loads(run(python, "-m", "llmkit_plugins", *argv, "--json", cwd=cwd, code=code))


def test_it_is_not_installed_here() -> None:
    """What the other tests see comes from the fresh environment alone."""
    with pytest.raises(ModuleNotFoundError):
        __import__("eu_only")


def test_it_is_discovered(environment: Path, tmp_path: Path) -> None:
    """The command tells of the plugin, its package and its hook."""
    told = {row["name"]: row for row in llmkit(environment, tmp_path, "plugins")["plugins"]}
    assert told["eu_only"]["distribution"] == "llmkit-eu-only"
    assert told["eu_only"]["version"] == "0.1.0"
    assert told["eu_only"]["hooks"] == ["llmkit_route"]
    assert told["eu_only"]["enabled"]


def test_its_settings_are_checked(environment: Path, tmp_path: Path) -> None:
    """Its table is checked like any other, and a wrong one told with file, key, what and right."""
    (tmp_path / "llmkit.toml").write_text("[eu_only]\ntenant = ['acme']\n")
    problems = llmkit(environment, tmp_path, "check", code=1)["problems"]
    assert [(problem["file"], problem["key"], problem["right"]) for problem in problems] == [
        ("llmkit.toml", "eu_only.tenants", "add tenants: The tenants whose calls must stay in the region."),
        ("llmkit.toml", "eu_only.tenant", "did you mean tenants?"),
    ]


def test_it_is_obeyed(environment: Path, tmp_path: Path) -> None:
    """Calls of the configured tenant stay in the region or are refused; those of others go anywhere."""
    (tmp_path / "script.py").write_text(SCRIPT)
    seen = json.loads(run(environment, "script.py", cwd=tmp_path))
    assert seen["plugins"] == ["eu_only"]
    assert (seen["acme"], seen["other"]) == ("near", "far")
    assert seen["nowhere"].keys() == {"far"}
    assert "eu_only" in seen["nowhere"]["far"]


def test_its_own_tests_pass(environment: Path, tmp_path: Path) -> None:
    """The example's own tests pass where it is installed."""
    shutil.copytree(EXAMPLE / "tests", tmp_path / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    run(environment, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests", cwd=tmp_path)
