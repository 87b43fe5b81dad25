"""Time and memory of the losses beside dense references and other libraries: a table and a plot.

    python scripts/benchmarks/losses.py --output docs/losses

Times are medians of runs that take turns in one process. They are processor seconds of one thread, which
other work on the machine hardly moves; with ``--threads`` above one, wall time. Memory is the peak of a fresh
process above what it holds once the inputs are made (Linux). Peers come with the extra ``benchmark``.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from matplotlib.figure import Figure
from measure import clock, peak_bytes
from torch import Tensor
from torch.nn import functional as F

from contrastive.losses import debiased_info_nce, hard_negative_info_nce, info_nce

WIDTH, TEMPERATURE, TAU_PLUS, BETA = 128, 0.5, 0.1, 1.0
PEER_BATCH_SIZE = 4096  # the largest that the references of O(N²) memory are run at
Loss = Callable[[Tensor, Tensor], Tensor]


def dense_exponentials(z0: Tensor, z1: Tensor) -> tuple[Tensor, Tensor]:
    """Exponentials of the positives ``(2B,)`` and the negatives ``(2B, 2B−2)``, as in the papers' code."""
    z = F.normalize(torch.cat([z0, z1]), dim=1)
    negatives = torch.exp(z @ z.T / TEMPERATURE)
    mask = ~torch.eye(len(z0), dtype=torch.bool).repeat(2, 2)
    positives = torch.exp((z[: len(z0)] * z[len(z0) :]).sum(1) / TEMPERATURE).repeat(2)
    return positives, negatives.masked_select(mask).view(len(z), -1)


def dense_info_nce(z0: Tensor, z1: Tensor) -> Tensor:
    """InfoNCE from the whole matrix."""
    positives, negatives = dense_exponentials(z0, z1)
    return -torch.log(positives / (positives + negatives.sum(1))).mean()


def dense_hard_negative_info_nce(z0: Tensor, z1: Tensor, beta: float = BETA) -> Tensor:
    """Hard negatives, or at β = 0 the debiased loss, from the whole matrix."""
    positives, negatives = dense_exponentials(z0, z1)
    n = negatives.shape[1]
    weights = (beta * negatives.log()).exp() if beta else torch.ones_like(negatives)
    total = (weights * negatives).sum(1) / weights.mean(1)
    total = ((total - TAU_PLUS * n * positives) / (1 - TAU_PLUS)).clamp(min=n * math.exp(-1 / TEMPERATURE))
    return -torch.log(positives / (positives + total)).mean()


def lightly_nt_xent(z0: Tensor, z1: Tensor) -> Tensor:
    """lightly's NTXentLoss."""
    from lightly.loss import NTXentLoss

    return NTXentLoss(temperature=TEMPERATURE)(z0, z1)


def metric_learning_nt_xent(z0: Tensor, z1: Tensor) -> Tensor:
    """pytorch-metric-learning's NTXentLoss."""
    from pytorch_metric_learning.losses import NTXentLoss, SelfSupervisedLoss

    return SelfSupervisedLoss(NTXentLoss(temperature=TEMPERATURE))(z0, z1)


LOSSES: dict[str, Loss] = {
    "InfoNCE, ours": info_nce,
    "InfoNCE, dense": dense_info_nce,
    "InfoNCE, lightly": lightly_nt_xent,
    "InfoNCE, pytorch-metric-learning": metric_learning_nt_xent,
    "debiased, ours": debiased_info_nce,
    "debiased, dense": lambda z0, z1: dense_hard_negative_info_nce(z0, z1, beta=0.0),
    "hard negatives, ours": hard_negative_info_nce,
    "hard negatives, dense": dense_hard_negative_info_nce,
}
SCALED = "hard negatives, ours"
REFERENCE = {name: f"{name.split(',')[0]}, ours" for name in LOSSES}


def make_inputs(batch_size: int) -> tuple[Tensor, Tensor]:
    """Two views that need gradients."""
    torch.manual_seed(0)
    z0, z1 = torch.randn(2, batch_size, WIDTH)
    return z0.requires_grad_(), z1.requires_grad_()


def seconds(loss: Loss, z0: Tensor, z1: Tensor) -> float:
    """Time of one forward and backward pass."""
    z0.grad = z1.grad = None
    start = clock()
    loss(z0, z1).backward()
    return clock() - start


def matmul_rate() -> float:
    """Floating-point operations a second of one large product of matrices."""
    a = torch.ones(2048, 2048)
    start = clock()
    a @ a
    return 2 * 2048**3 / (clock() - start)


def measure_times(batch_size: int, repeats: int) -> dict[str, float]:
    """Median seconds of every loss, and the median matmul rate, taking turns.

    Each round has an order of its own: what follows a large product finds other caches and sleeping threads.
    The smaller the batch, the more rounds.
    """
    z0, z1 = make_inputs(batch_size)
    # pytorch-metric-learning makes every triple: 18 GB at 512
    names = [name for name in LOSSES if "metric" not in name or batch_size <= 128]
    times: dict[str, list[float]] = {name: [] for name in [*names, "matmul"]}
    order = random.Random(0)
    for turn in range(repeats * max(1, min(12, 2048 // batch_size)) + 1):
        for name in order.sample(list(times), len(times)):
            value = matmul_rate() if name == "matmul" else seconds(LOSSES[name], z0, z1)
            if turn:  # the first warms up
                times[name].append(value)
    return {name: median(values) for name, values in times.items()}


def one_run(name: str, batch_size: int) -> dict[str, float]:
    """Seconds of one pass, its bytes above the inputs, and the matmul rate; for a process of its own."""
    seconds(LOSSES[name], *make_inputs(16))  # loads libraries
    z0, z1 = make_inputs(batch_size)
    spent: list[float] = []
    memory = peak_bytes(lambda: spent.append(seconds(LOSSES[name], z0, z1)))
    return {
        "time": spent[0],
        "memory": memory,
        "matmul": median(matmul_rate() for _ in range(3)),
    }


def fresh_run(name: str, batch_size: int) -> dict[str, float]:
    """`one_run` in a process of its own."""
    options = ["--batch-sizes", str(batch_size), "--threads", str(torch.get_num_threads()), "--one-run", name]
    return json.loads(subprocess.check_output([sys.executable, __file__, *options]).splitlines()[-1])


def measure(batch_size: int, repeats: int) -> dict[str, dict[str, float]]:
    """Times and memory of all losses; where no matrix would fit, of one run of ours with hard negatives."""
    if batch_size <= PEER_BATCH_SIZE:
        times = measure_times(batch_size, repeats)
        return {
            "time": times,
            "memory": {name: fresh_run(name, batch_size)["memory"] for name in times if name != "matmul"},
        }
    run = fresh_run(SCALED, batch_size)
    return {"time": {SCALED: run["time"], "matmul": run["matmul"]}, "memory": {SCALED: run["memory"]}}


def fitted_exponent(results: dict, kind: str, name: str) -> float:
    """Slope of log y over log B, for the sizes from the peers' largest on."""
    points = [
        (math.log(int(size)), math.log(result[kind][name]))
        for size, result in results.items()
        if int(size) >= PEER_BATCH_SIZE and name in result[kind]
    ]
    if len(points) < 2:
        return math.nan
    x, y = torch.tensor(points, dtype=torch.float64).T
    return float(torch.cov(torch.stack([x, y]))[0, 1] / x.var())


def table(results: dict) -> str:
    """All measurements as a Markdown table."""
    lines = [
        "| loss | B | time (s) | × ours | memory above inputs (MB) | ours is | matmul rate |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, (size, result) in ((name, item) for name in LOSSES for item in results.items()):
        if name not in result["time"]:
            continue
        spent, own = result["time"][name], REFERENCE[name]
        used, own_used = result["memory"].get(name), result["memory"].get(own)
        rate = 6 * (2 * int(size)) ** 2 * WIDTH / spent / result["time"]["matmul"]
        share = f"{own_used / used:.1%}" if used and own_used and name != own else ""
        lines.append(
            f"| {name} | {int(size):,} | {spent:.4g} | {spent / result['time'][own]:.2f} | "
            f"{'' if used is None else f'{used / 1e6:.1f}'} | {share} | {rate:.0%} |"
        )
    return "\n".join(lines)


def plot(results: dict, path: Path) -> None:
    """Time and memory over the batch size, on logarithmic axes."""
    figure = Figure(figsize=(11, 4.5))
    axes = figure.subplots(1, 2)
    for axis, kind, unit, label in zip(
        axes, ("time", "memory"), (1, 1e6), ("seconds", "MB above the inputs")
    ):
        for name in LOSSES:
            points = [(int(s), r[kind][name] / unit) for s, r in results.items() if name in r[kind]]
            style = "o-" if name.endswith("ours") else "x--"
            axis.loglog(*zip(*points), style, label=name)
        axis.set(xlabel="B (pairs)", ylabel=label)
        axis.set_xscale("log", base=2)
        axis.grid(alpha=0.3)
    axes[0].legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def report(results: dict, out: Path, command: str) -> None:
    """Write ``out.png`` and ``out.md``, whose sections below the table stay as they are."""
    results = dict(sorted(results.items(), key=lambda item: int(item[0])))
    page = out.with_suffix(".md")
    _, heading, sections = page.read_text().partition("\n## ") if page.exists() else ("", "", "")
    page.write_text(
        f"# The losses, measured\n\n    {command}\n\n"
        f"Forward and backward, d = {WIDTH}, float32, {torch.get_num_threads()} thread(s), torch "
        f"{torch.__version__}. Medians of runs that take turns in one process, in processor seconds where "
        f"there is one thread; beyond B = {PEER_BATCH_SIZE:,} one run. The matmul rate is 3·2N²d operations, "
        f"what a dense matrix needs, over the time, as a share of the rate of a 2048³ product measured in "
        f"turn with them.\n\n![time and memory](losses.png)\n\n"
        f"From B = {PEER_BATCH_SIZE:,} on, the time of hard negatives grows as "
        f"B^{fitted_exponent(results, 'time', SCALED):.2f} and the memory above the inputs as "
        f"B^{fitted_exponent(results, 'memory', SCALED):.2f}.\n\n{table(results)}\n{heading}{sections}"
    )
    plot(results, out.with_suffix(".png"))


def main() -> None:
    """Measure each batch size and write the report after each; sizes already in the results file are kept."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = [2**exponent for exponent in range(7, 17)]
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=sizes)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("losses_benchmark.json"))
    parser.add_argument("--output", type=Path, default=Path("losses"))
    parser.add_argument("--one-run", choices=LOSSES, help="run this loss once and print what it took")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.one_run:
        print(json.dumps(one_run(arguments.one_run, arguments.batch_sizes[0])))
        return
    results = json.loads(arguments.results.read_text()) if arguments.results.exists() else {}
    for size in arguments.batch_sizes:
        if str(size) in results:
            continue
        results[str(size)] = measure(size, arguments.repeats)
        arguments.results.write_text(json.dumps(results))
        report(results, arguments.output, "python scripts/benchmarks/losses.py --output docs/losses")
        print(size, results[str(size)], flush=True)


if __name__ == "__main__":
    main()
