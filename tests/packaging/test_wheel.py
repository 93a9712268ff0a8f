"""One distribution: the wheel has all three packages, and what makes them typed and found."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("llmkit_plugins", "llmkit_langchain", "llmkit_litellm")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built without a network, as ``pip wheel`` would."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True)
    (built,) = folder.glob("*.whl")
    return built


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_is_in_the_wheel_and_typed(wheel: Path, package: str) -> None:
    """At its top level, with the marker that tells type checkers to read it."""
    names = zipfile.ZipFile(wheel).namelist()
    assert f"{package}/__init__.py" in names
    assert f"{package}/py.typed" in names


def test_nothing_else_is_in_the_wheel(wheel: Path) -> None:
    """No tests, no examples, no benchmarks."""
    tops = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_installed_alone_it_imports(wheel: Path, tmp_path: Path) -> None:
    """Unpacked somewhere, without the source beside it, the packages come from there and the plugins are declared."""
    zipfile.ZipFile(wheel).extractall(tmp_path)
    script = f"import {', '.join(PACKAGES)}; print(*[p.__file__ for p in ({', '.join(PACKAGES)})], sep='\\n')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        check=True,
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(tmp_path), "LITELLM_LOCAL_MODEL_COST_MAP": "True", "PATH": ""},
    )
    assert all(line.startswith(str(tmp_path)) for line in done.stdout.splitlines())
    (entry_points,) = tmp_path.glob("*.dist-info/entry_points.txt")
    for plugin in ("observability", "rate_limiter", "multiplexer", "router", "circuit_breaker"):
        assert f"{plugin} = llmkit_plugins.plugins.{plugin}:" in entry_points.read_text()
