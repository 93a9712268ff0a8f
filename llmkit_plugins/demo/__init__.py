"""The demo: real requests through LangChain and LiteLLM, through the plugins, to three providers on this machine."""

from __future__ import annotations

import os
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the demo; the exit code is 0 if every act ended as it should."""
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # fetch nothing; read on import
    from llmkit_plugins.demo.play import play

    return play(argv)
