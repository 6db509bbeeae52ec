"""``python -m boltzmed.cli``."""

from __future__ import annotations

import sys

from boltzmed.cli import main

if __name__ == "__main__":
    sys.exit(main())
