"""``contrastive probe`` as a file: ``python scripts/linear_probe.py RUN --data FOLDER``."""

import sys

from contrastive.cli import main

if __name__ == "__main__":
    sys.exit(main(["probe", *sys.argv[1:]]))
