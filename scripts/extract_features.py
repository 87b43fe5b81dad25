"""``contrastive embed`` as a file: ``python scripts/extract_features.py RUN --data FOLDER --output h.npz``"""

import sys

from contrastive.cli import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))
