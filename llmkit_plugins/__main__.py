"""``python -m llmkit_plugins`` is the command ``llmkit``."""

from __future__ import annotations

import sys

from llmkit_plugins.cli import main

sys.exit(main())
