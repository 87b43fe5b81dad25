"""How much of a second process is gained: 2 processes of one thread against 1, a step of the same batch each.

    python scripts/benchmarks/processes.py --rounds 3

Both pretrain a ResNet-18 on random 32×32 images with `contrastive pretrain`'s own loop, B images a process.
The efficiency is the images a second of two processes over twice those of one: by the clock, which other work
on the machine spoils, and by CPU time, which counts what communication and the larger loss cost, though not
waiting. Rounds alternate, and the median round is reported; the first steps are left out.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image
from pytorch_lightning import Callback


class StepTimes(Callback):
    """Write down the clock and the CPU time of this process at the end of every step.

    Args:
        file: a name, to which the process's number is added.
    """

    def __init__(self, file: str) -> None:
        self.file = file

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):  # type: ignore[no-untyped-def]
        """Append a row."""
        with Path(f"{self.file}-{trainer.global_rank}").open("a") as file:
            file.write(f"{time.perf_counter()},{time.process_time()}\n")


def main() -> None:
    """Alternate one process and two, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch", type=int, default=64, help="images a process takes a step")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3, help="steps that are not counted")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as folder:
        images = write_images(Path(folder) / "images", 2 * arguments.batch * arguments.steps)
        for number in range(arguments.rounds):
            one, two = (
                step_times(Path(folder) / f"{number}-{processes}", images, processes, arguments)
                for processes in (1, 2)
            )
            rounds.append([first / second for first, second in zip(one, two)])
            print(
                f"round {number}: a step of one process {one[0]:.3f} s ({one[1]:.3f} s of CPU), of two "
                f"{two[0]:.3f} s ({two[1]:.3f} s each): efficiency {rounds[-1][0]:.0%} ({rounds[-1][1]:.0%})",
                flush=True,
            )
    wall, cpu = (statistics.median(values) for values in zip(*rounds))
    print(f"efficiency by the clock {wall:.1%}, by CPU time {cpu:.1%} (median of {len(rounds)} rounds)")


def write_images(folder: Path, count: int) -> Path:
    """Random pictures, so that nothing needs to be there."""
    folder.mkdir()
    generator = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(folder / f"{i:06}.png")
    return folder


def step_times(
    run_dir: Path, images: Path, processes: int, arguments: argparse.Namespace
) -> tuple[float, float]:
    """Seconds of a step by the clock, and of CPU of each process, of so many processes of one thread."""
    run_dir.mkdir()
    command = [
        *(
            sys.executable,
            "-m",
            "contrastive.cli",
            "pretrain",
            "--config",
            "configs/image/simclr_cifar10.yaml",
        ),
        *("--run_dir", run_dir, "--data.init_args.source", images, "--data.init_args.val_fraction", 0),
        *("--data.init_args.batch_size", arguments.batch, "--trainer.devices", processes),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", 1),
        *("--trainer.strategy", "ddp" if processes > 1 else "auto", "--trainer.enable_progress_bar", "false"),
        *("--trainer.limit_train_batches", arguments.steps, "--wandb", "off"),
        *("--trainer.callbacks+=processes.StepTimes", "--trainer.callbacks.file", run_dir / "times"),
    ]
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    threads = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONPATH": path}
    subprocess.run(
        [str(part) for part in command], check=True, env={**os.environ, **threads}, capture_output=True
    )
    wall, cpu = zip(*(_a_step(file, arguments.warmup) for file in run_dir.glob("times-*")))
    return statistics.mean(wall), statistics.mean(cpu)


def _a_step(file: Path, warmup: int) -> tuple[float, float]:
    rows = np.loadtxt(file, delimiter=",")[warmup:]
    wall, cpu = np.median(np.diff(rows, axis=0), axis=0)
    return float(wall), float(cpu)


if __name__ == "__main__":
    main()
