"""``contrastive pretrain`` as a file, for those who start processes: ``torchrun scripts/pretrain.py …``, ``srun python …``."""

import sys

from contrastive.cli import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
