"""Does a long run stay flat? Runs any ``contrastive pretrain`` command and watches memory, files and speed.

    python scripts/soak.py --minutes 60 --output docs/soak -- --config configs/image/simclr_cifar10.yaml …

After ``--`` come the arguments of ``contrastive pretrain``; ``--run_dir`` among them. Every few seconds a row
goes to OUT.csv: seconds since the start; resident memory (MB) and open files of the command and its processes
together; their CPU seconds; optimizer steps done. When the time is over the run is asked to stop (SIGTERM,
which saves it). Then OUT.json and OUT.png: the slope of memory over time by least squares with its 95 %
interval, without the first tenth; files; and the steps a second, and a second of CPU, of the last tenth of
the time against the first after that warm-up. Beside other work only the second ratio tells something.
"""

from __future__ import annotations

import argparse
import csv
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

FIELDS = ("seconds", "rss_mb", "files", "cpu_seconds", "steps")


def main() -> None:
    """Run, watch, and write the three files."""
    arguments, command = _arguments()
    if arguments.analyse:
        report(arguments.output)
        return
    run_dir = Path(command[command.index("--run_dir") + 1])
    out: Path = arguments.output
    out.parent.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen([sys.executable, "-m", "contrastive.cli", "pretrain", *command])
    start = time.monotonic()
    with out.with_suffix(".csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, FIELDS)
        writer.writeheader()
        while process.poll() is None and (now := time.monotonic() - start) < 60 * arguments.minutes:
            row = {"seconds": round(now, 1), **usage(process.pid), "steps": steps_done(run_dir)}
            writer.writerow(row)
            file.flush()
            time.sleep(arguments.every)
    ended_early = process.poll() is not None
    if not ended_early:
        process.send_signal(signal.SIGTERM)
    status = process.wait(timeout=600)
    print(f"the run ended {'by itself' if ended_early else 'when asked to'}, status {status}")
    report(out)


def _arguments() -> tuple[argparse.Namespace, list[str]]:
    split = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    plain = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=plain)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=5, help="seconds between two rows")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="OUT", help="OUT.csv, OUT.json and OUT.png are written"
    )
    parser.add_argument("--analyse", action="store_true", help="run nothing; read OUT.csv again")
    arguments, command = parser.parse_args(sys.argv[1:split]), sys.argv[split + 1 :]
    if not arguments.analyse and "--run_dir" not in command:
        parser.error("give the arguments of contrastive pretrain after --, with --run_dir FOLDER")
    return arguments, command


def usage(pid: int) -> dict[str, float]:
    """Resident memory, open files and CPU seconds of a process and all below it, as Linux counts them."""
    rss = files = ticks = 0
    for process in family(pid):
        try:
            stat = (process / "stat").read_text().rpartition(")")[2].split()
            rss += int(stat[21])
            ticks += sum(map(int, stat[11:13]))
            files += len(list((process / "fd").iterdir()))
        except OSError:  # it has just ended
            continue
    page, hertz = 4096 / 2**20, 100
    return {"rss_mb": round(rss * page, 2), "files": files, "cpu_seconds": ticks / hertz}


def family(pid: int) -> list[Path]:
    """A process and its descendants, as folders of /proc."""
    parents = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(process.name)] = int((process / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = [pid]
    for member in found:
        found += [child for child, parent in parents.items() if parent == member]
    return [Path(f"/proc/{member}") for member in found]


def steps_done(run_dir: Path) -> int:
    """Optimizer steps that the run has logged, from the end of its ``metrics.csv``."""
    path = run_dir / "metrics.csv"
    if not path.exists():
        return 0
    with path.open("rb") as file:
        columns = file.readline().decode().strip().split(",")
        file.seek(max(0, path.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    if not lines or columns == ["step"]:
        return 0
    cells = lines[-1].split(",")
    return int(cells[columns.index("step")]) + 1 if len(cells) == len(columns) else 0


def report(out: Path) -> None:
    """Fit, compare and draw what is in OUT.csv."""
    with out.with_suffix(".csv").open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    table = {field: np.array([row[field] for row in rows]) for field in FIELDS}
    begun = np.flatnonzero(table["steps"] > 0)
    if len(begun) < 20:
        sys.exit(f"{len(rows)} rows, {len(begun)} of them after the first step, are too few to judge")
    begin, end = table["seconds"][begun[0]], table["seconds"][-1]
    tenth = (end - begin) / 10
    steady = table["seconds"] >= begin + tenth
    slope, interval = fit_slope(table["seconds"][steady] / 3600, table["rss_mb"][steady])
    first = table["seconds"], begin + tenth, begin + 2 * tenth
    final = table["seconds"], end - tenth, end
    summary = {
        "minutes": round((end - begin) / 60, 1),
        "steps": int(table["steps"][-1]),
        "rss_mb_mean": round(float(table["rss_mb"][steady].mean()), 1),
        "rss_slope_mb_per_hour": round(slope, 2),
        "rss_slope_ci95": [round(value, 2) for value in interval],
        "files_first": int(np.median(table["files"][_between(*first)])),
        "files_last": int(np.median(table["files"][_between(*final)])),
        "last_over_first_tenth_steps_per_second": round(_rate(table, *final) / _rate(table, *first), 4),
        "last_over_first_tenth_steps_per_cpu_second": round(
            _rate(table, *final, by="cpu_seconds") / _rate(table, *first, by="cpu_seconds"), 4
        ),
    }
    out.with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")
    print(json.dumps(summary, indent=1))
    draw(out.with_suffix(".png"), table, begin)


def _between(seconds: np.ndarray, low: float, high: float) -> np.ndarray:
    return (seconds >= low) & (seconds <= high)


def _rate(table: dict[str, np.ndarray], *window, by: str = "seconds") -> float:
    steps, spent = table["steps"][_between(*window)], table[by][_between(*window)]
    return float((steps[-1] - steps[0]) / (spent[-1] - spent[0]))


def fit_slope(x: np.ndarray, y: np.ndarray) -> tuple[float, tuple[float, float]]:
    """Least squares' slope and its 95 % interval, from the means of twenty blocks of time.

    Neighbouring samples of memory depend on each other, and an interval from all of them would be too narrow.
    """
    from scipy.stats import linregress, t

    blocks = np.array_split(np.arange(len(x)), min(20, len(x)))
    means = [np.array([values[block].mean() for block in blocks]) for values in (x, y)]
    line = linregress(*means)
    half = t.ppf(0.975, len(blocks) - 2) * line.stderr
    return line.slope, (line.slope - half, line.slope + half)


def draw(path: Path, table: dict[str, np.ndarray], begin: float) -> None:
    """Memory, files and speed over time."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    minutes = table["seconds"] / 60
    blocks = np.array_split(np.flatnonzero(table["seconds"] >= begin), 40)
    blocks = [block for block in blocks if len(block) > 1]
    middle = [minutes[block].mean() for block in blocks]
    figure, axes = plt.subplots(3, 1, figsize=(7, 6), sharex=True, layout="constrained")
    axes[0].plot(minutes, table["rss_mb"], linewidth=1)
    axes[0].set_ylabel("resident\nmemory, MB")
    axes[1].plot(minutes, table["files"], linewidth=1)
    axes[1].set_ylabel("open files")
    for by, label in (("seconds", "a second"), ("cpu_seconds", "a second of CPU")):
        rates = [np.ptp(table["steps"][block]) / np.ptp(table[by][block]) for block in blocks]
        axes[2].plot(middle, rates, linewidth=1, label=label)
    axes[2].legend()
    axes[2].set_ylabel("steps")
    axes[2].set_xlabel("minutes")
    for axis in axes:
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
