"""Capacity planning: the rate that one device sustains within a latency goal, and the devices for a target rate."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llamagen_server.bench.outcomes import Row
from llamagen_server.bench.queueing import ServiceCurve, predict, simulate, sustainable_rate

UTILISATIONS = (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)
STEPS = 64
"""Steps per image in the simulation: enough to make the waiting for the next step negligible."""


@dataclass(frozen=True)
class Source:
    """A service curve and where it comes from."""

    name: str
    curve: ServiceCurve
    bound: float | None = None
    """Images per second that the device's data sheet allows at most; None for a measured curve."""


def read_result(path: Path, max_num_seqs: int) -> Source:
    """Reads the service curve of a result file of ``llamagen bench serve`` or ``llamagen bench engine``.

    Args:
        max_num_seqs: largest batch of the server. The engine's benchmark counts its own largest batch.

    Raises:
        OSError: the file cannot be read.
        ValueError: the file is no such result, or the server was measured in an open loop.
    """
    try:
        result = json.loads(path.read_text())
        settings, rows = result["settings"], result["rows"]
        engine = "batch" in settings
        in_flight = settings["batch"] if engine else _concurrencies(settings)
        rates = [row["images_per_s"] for row in rows]
        points = tuple(sorted(zip(in_flight, rates, strict=True)))
        return Source(path.stem, ServiceCurve(points, points[-1][0] if engine else max_num_seqs))
    except (ValueError, LookupError, TypeError):
        raise ValueError(
            f"{path} must be a file that --save-result of `llamagen bench serve --max-concurrency` or "
            "`llamagen bench engine` wrote, with images_per_s above 0"
        ) from None


def _concurrencies(settings: dict[str, Any]) -> list[int]:
    return [concurrency * settings["n"] for concurrency in settings["max_concurrency"]]


@dataclass(frozen=True)
class Goal:
    """What a plan must keep."""

    latency: float = 4.0
    """Limit of the p99, in multiples of the latency of an image alone."""
    latency_s: float | None = None
    """Limit of the p99 in seconds, in place of ``latency``."""
    utilisation: float = 0.8
    """Largest share of saturation: the rest is for bursts, and for a device that is down."""

    def limit_s(self, curve: ServiceCurve) -> float:
        return self.latency_s or self.latency * curve.latency(1)


def plan_row(source: Source, targets: Sequence[float], goal: Goal) -> Row:
    """Returns one device's figures and the number of devices for each target rate in images per second."""
    curve, limit_s = source.curve, goal.limit_s(source.curve)
    rate = min(sustainable_rate(curve, limit_s), goal.utilisation * curve.saturation)
    return {
        "device": source.name,
        "data sheet's bound, images/s": "" if source.bound is None else source.bound,
        "saturation, images/s": curve.saturation,
        "alone, s": curve.latency(1),
        "p99 goal, s": limit_s,
        "planned, images/s": rate,
        "utilisation": f"{rate / curve.saturation:.0%}",
        **{f"devices for {target:g}/s": devices(target, rate) for target in targets},
    }


def devices(target: float, rate: float) -> int | str:
    """Returns the devices for ``target`` images per second if one sustains ``rate``; a dash if none can.

    The load is taken to be split at random. A balancer that chooses the server with the fewest requests does better.
    """
    return math.ceil(target / rate - 1e-9) if rate else "–"


def latency_rows(curve: ServiceCurve) -> list[Row]:
    """Returns the latency at several utilisations, by the model and by the simulation, in seconds."""
    rows = []
    for utilisation in UTILISATIONS:
        arrival_rate = utilisation * curve.saturation
        model, simulated = predict(curve, arrival_rate), simulate(curve, arrival_rate, STEPS)
        rows.append(
            {
                "utilisation": f"{utilisation:.0%}",
                "images/s": arrival_rate,
                **{f"{name}, s": getattr(model, name) for name in ("mean", "p50", "p99")},
                **{f"simulated {name}, s": getattr(simulated, name) for name in ("mean", "p50", "p99")},
            }
        )
    return rows
