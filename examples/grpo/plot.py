"""Plots the logs of ``train.py``: mean reward of each step, and of the held-out captions before and after.

python -m examples.grpo.plot runs/grpo
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the logs; the plot becomes its reward.png")
    folder = parser.parse_args().folder
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for i, file in enumerate(sorted(folder.glob("seed*.json"))):
        log = json.loads(file.read_text())
        steps = [entry for entry in log if "reward" in entry]
        held_out = [entry for entry in log if "held_out" in entry]
        axes.plot([e["step"] for e in steps], [e["reward"] for e in steps], color=f"C{i}", alpha=0.4)
        axes.plot(
            [e["step"] for e in held_out], [e["held_out"] for e in held_out], "o--", color=f"C{i}", label=file.stem
        )
    axes.set(xlabel="step", ylabel="reward: share of attributes shown", title="held-out captions (points), training")
    axes.legend()
    figure.savefig(folder / "reward.png", dpi=120)


if __name__ == "__main__":
    main()
