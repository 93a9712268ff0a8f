"""``python -m llmkit_plugins.testing.fake_provider``"""

from __future__ import annotations

import sys

from llmkit_plugins.testing.fake_provider.command import main

if __name__ == "__main__":
    sys.exit(main())
