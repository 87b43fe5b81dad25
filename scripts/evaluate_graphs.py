"""Pretrain a recipe with several seeds, probe each run by its published protocol, and write a table.

    python scripts/evaluate_graphs.py --config configs/node/dgi.yaml --name cora --seeds 5 \
        -- --data.source planetoid/cora

What stands after ``--`` goes to ``contrastive pretrain``. A seed whose result is there is not run again, and
one that was cut off goes on. The table has the mean over seeds with Student's 95 % interval, for the
pretrained and the untrained encoder, and the raw features; nothing is chosen by a test number.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from contrastive.evaluation.comparison import pretrain_or_resume
from contrastive.evaluation.probe import probe
from contrastive.evaluation.statistics import UNIT, mean_interval
from contrastive.report import percent, print_table, write_json


def run_seed(
    config: str, folder: Path, seed: int, repeats: int | None, raw: bool, options: list[str]
) -> list[dict]:
    """The rows of one seed's probe, run where they are not there yet."""
    result = folder / "results" / "probe.json"
    if not result.exists():
        quiet = ["--wandb", "off", "--trainer.enable_progress_bar", "false"]
        pretrain_or_resume(["--config", config, *quiet, *options], folder, seed)
        probe([str(folder)], repeats=repeats, raw=raw, seed=seed, output=str(result))
    return json.loads(result.read_text())["rows"]


def over_seeds(runs: list[list[dict]]) -> list[dict]:
    """A row a representation: the mean of the seeds' test accuracies, with its interval."""
    rows = []
    for i, first in enumerate(runs[0]):
        seeds = [run[i]["accuracy_mean"] for run in runs]
        mean, interval = mean_interval(seeds, within=UNIT)
        rows.append(
            {
                "representation": first["representation"],
                "accuracy_mean": mean,
                "accuracy_ci95": list(interval),
                "val_accuracy": sum(run[i]["val_accuracy"] for run in runs) / len(runs),
                "seeds": seeds,
            }
        )
    return rows


def main() -> None:
    """Run all seeds and write ``OUT/NAME/table.json``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True)
    parser.add_argument("--name", required=True, help="of the folder that holds the seeds' runs")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--repeats", type=int, help="splits of nodes, or deals of graphs into folds, a seed")
    parser.add_argument("--no_raw", action="store_true", help="leave out the raw features, which may be wide")
    parser.add_argument("--output", type=Path, default=Path("runs/graphs"))
    parser.add_argument("options", nargs="*", help="of contrastive pretrain, after --")
    arguments = parser.parse_args()
    folder = arguments.output / arguments.name
    runs = [
        run_seed(
            arguments.config,
            folder / f"seed_{seed}",
            seed,
            arguments.repeats,
            not arguments.no_raw,
            arguments.options,
        )
        for seed in range(arguments.seeds)
    ]
    rows = over_seeds(runs)
    print_table(
        f"{arguments.name}: mean over {arguments.seeds} seeds of pretraining",
        ("representation", "test accuracy, % [95 %]", "seeds"),
        [(r["representation"], percent(r), " ".join(f"{100 * s:.1f}" for s in r["seeds"])) for r in rows],
    )
    protocol = {"config": arguments.config, "options": arguments.options, "seeds": arguments.seeds}
    write_json(folder / "table.json", {"protocol": protocol, "rows": rows})


if __name__ == "__main__":
    main()
