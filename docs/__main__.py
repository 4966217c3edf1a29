"""`python -m docs`: build the web site into results/site."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from docs.build import build
from hatlab.support.paths import results_root


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m docs", description=__doc__)
    parser.add_argument(
        "--out", type=Path, help="folder for the pages, new or with an older site (default: results/site)"
    )
    options = parser.parse_args()
    out = options.out or results_root() / "site"
    status = build(out)
    print(f"The site is {out / 'index.html'}" if status == 0 else "The site has faults: see the warnings above.")
    return status


if __name__ == "__main__":
    sys.exit(main())
