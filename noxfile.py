"""The test suite on every supported Python that is installed."""

from __future__ import annotations

import nox

nox.options.default_venv_backend = "uv|virtualenv"
nox.options.error_on_missing_interpreters = False


@nox.session(python=["3.11", "3.12", "3.13"])
def tests(session: nox.Session) -> None:
    session.install("--constraint", "constraints.txt", "--editable", ".[dev]")
    session.run("pytest", "-n", "2", *session.posargs, env={"LITELLM_LOCAL_MODEL_COST_MAP": "True"})
