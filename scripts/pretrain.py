"""``contrastive pretrain`` as a file, which torchrun and srun start on several processes."""

import sys

from contrastive.cli import main

if __name__ == "__main__":
    sys.exit(main(["pretrain", *sys.argv[1:]]))
