"""`python -m hatlab` is the command `hatlab`."""

from __future__ import annotations

from hatlab.cli.main import main

if __name__ == "__main__":
    main()
