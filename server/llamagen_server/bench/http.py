"""``llamagen bench serve``: a load test over HTTP on a server that runs. Flags are named as in ``vllm bench serve``."""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from prometheus_client.parser import text_string_to_metric_families

logger = logging.getLogger(__name__)

METRICS = ("e2el", "ttfp", "text", "engine", "decode", "file")
"""What percentiles can be reported of, in milliseconds: the whole request, its first preview, its stages."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base-url", default="http://127.0.0.1:8000", help="default: %(default)s")
    parser.add_argument("--api-key", default="none")
    load = parser.add_mutually_exclusive_group()
    load.add_argument(
        "--max-concurrency", type=int, nargs="+", metavar="N", help="closed loop: N requests at a time; several sweep"
    )
    load.add_argument(
        "--request-rate", type=float, nargs="+", metavar="R", help="open loop: R requests a second; several sweep"
    )
    parser.add_argument(
        "--burstiness", type=float, default=1.0, help="1: Poisson arrivals; smaller: more bursty (default: 1)"
    )
    parser.add_argument("--num-prompts", type=int, default=100, help="requests per run (default: %(default)s)")
    parser.add_argument("--num-warmups", type=int, default=4, help="requests before them (default: %(default)s)")
    parser.add_argument("--prompts", type=Path, metavar="FILE", help="one prompt a line, taken by turns")
    parser.add_argument("--n", type=int, default=1, help="pictures per request (default: 1)")
    parser.add_argument(
        "--partial-images", type=int, default=0, help="stream with so many previews (default: no stream)"
    )
    parser.add_argument("--cfg-scale", type=float, help="default: the model's")
    parser.add_argument("--goodput", metavar="e2el:MS", help="count requests that meet this limit")
    parser.add_argument("--percentile-metrics", default="e2el,ttfp", help=f"of {', '.join(METRICS)}")
    parser.add_argument("--metric-percentiles", default="50,95,99")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-result", type=Path, metavar="F.json", help="write the figures as JSON")
    parser.add_argument("--plot", type=Path, metavar="F.png", help="latency over throughput of a sweep (matplotlib)")


@dataclass
class Outcome:
    """What became of one request. Times in milliseconds."""

    error: str | None = None
    pictures: int = 0
    times: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Load:
    """How requests arrive: so many at a time, or at a rate."""

    concurrency: int | None = None
    rate: float | None = None

    def __str__(self) -> str:
        return f"{self.concurrency} at a time" if self.concurrency else f"{self.rate:g}/s"


def run(args: argparse.Namespace) -> None:
    """Runs the loads one after the other and prints a row for each.

    Raises:
        ValueError: an argument is wrong, or the server does not answer.
    """
    metrics, percentiles = _check(args)
    loads = [Load(rate=rate) for rate in args.request_rate or ()]
    loads = loads or [Load(concurrency=n) for n in args.max_concurrency or (1,)]
    rows = asyncio.run(_run(args, loads, metrics, percentiles))
    logger.info("%s\n%s", args.base_url, table(rows))
    if args.save_result:
        settings = {
            k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items() if k not in ("api_key", "bench")
        }
        args.save_result.write_text(json.dumps({"settings": settings, "rows": rows}, indent=2) + "\n")
    if args.plot:
        plot(rows, args.plot)


def _check(args: argparse.Namespace) -> tuple[list[str], list[float]]:
    metrics = args.percentile_metrics.split(",")
    if unknown := [name for name in metrics if name not in METRICS]:
        raise ValueError(f"--percentile-metrics has {unknown[0]!r}, must be of {', '.join(METRICS)}")
    try:
        percentiles = [float(p) for p in args.metric_percentiles.split(",")]
        limit = _goodput(args)
    except ValueError:
        raise ValueError("--metric-percentiles must be numbers such as 50,99, --goodput such as e2el:2000") from None
    rates = [*(args.request_rate or ()), *(args.max_concurrency or ()), args.num_prompts, args.burstiness]
    if min(rates) <= 0 or not all(0 < p < 100 for p in percentiles) or (limit or 1) <= 0:
        raise ValueError("rates, counts, --burstiness and --goodput must be positive, percentiles between 0 and 100")
    return metrics, percentiles


def _goodput(args: argparse.Namespace) -> float | None:
    if args.goodput is None:
        return None
    name, _, limit = args.goodput.partition(":")
    if name != "e2el":
        raise ValueError(name)
    return float(limit)


async def _run(
    args: argparse.Namespace, loads: Iterable[Load], metrics: Sequence[str], percentiles: Sequence[float]
) -> list[dict[str, Any]]:
    headers = {"authorization": f"Bearer {args.api_key}"}
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=args.base_url, headers=headers, timeout=None, limits=limits) as client:
        client_run = _Run(args, client, await _bodies(args, client))
        rows = []
        for load in loads:
            await asyncio.gather(*(client_run.request(-1 - i) for i in range(args.num_warmups)))
            before = await _histograms(client)
            start = time.perf_counter()
            outcomes = await client_run.all(load)
            seconds = time.perf_counter() - start
            row = summary(outcomes, seconds, metrics, percentiles, _goodput(args))
            after = await _histograms(client)
            row["queue_ms"] = _mean(before, after, "vllm:request_queue_time_seconds") * 1000
            row["lag_p99_ms"] = _quantile(before, after, "llamagen_event_loop_lag_seconds", 0.99) * 1000
            rows.append({"load": str(load)} | row)
            logger.info("%s: %.2f images/s", load, row["images_per_s"])
    return rows


async def _bodies(args: argparse.Namespace, client: httpx.AsyncClient) -> list[dict[str, Any]]:
    """What is asked for, by turns: the prompts of a file, or the demo's; class models get their classes."""
    try:
        [model] = (await client.get("/v1/models")).raise_for_status().json()["data"]
    except (httpx.HTTPError, ValueError) as error:
        raise ValueError(f"{args.base_url} does not answer as a server of this kind ({error})") from None
    common: dict[str, Any] = {"n": args.n}
    if args.cfg_scale is not None:
        common["cfg_scale"] = args.cfg_scale
    if args.partial_images:
        common |= {"stream": True, "partial_images": args.partial_images}
    if model["condition"] == "class":
        return [{"class_id": i, **common} for i in range(model["num_classes"])]
    lines = args.prompts.read_text().splitlines() if args.prompts else ["a large red circle on a white background"]
    return [{"prompt": line, **common} for line in lines if line.strip()]


class _Run:
    """Sends requests and times them."""

    def __init__(self, args: argparse.Namespace, client: httpx.AsyncClient, bodies: list[dict[str, Any]]) -> None:
        self.args, self.client, self.bodies = args, client, bodies

    async def all(self, load: Load) -> list[Outcome]:
        if load.concurrency:
            gate = asyncio.Semaphore(load.concurrency)

            async def gated(i: int) -> Outcome:
                async with gate:
                    return await self.request(i)

            return await asyncio.gather(*(gated(i) for i in range(self.args.num_prompts)))
        assert load.rate
        rng, tasks = random.Random(self.args.seed), []
        due = time.perf_counter()
        for i in range(self.args.num_prompts):
            await asyncio.sleep(due - time.perf_counter())
            tasks.append(asyncio.create_task(self.request(i)))
            due += rng.gammavariate(self.args.burstiness, 1 / (load.rate * self.args.burstiness))
        return await asyncio.gather(*tasks)

    async def request(self, i: int) -> Outcome:
        body = self.bodies[i % len(self.bodies)] | {"seed": abs(i) + 1000 * self.args.seed}
        outcome, start = Outcome(), time.perf_counter()
        try:
            if self.args.partial_images:
                await self._stream(body, outcome, start)
            else:
                reply = await self.client.post("/generate", json=body)
                self._take(reply.raise_for_status().json(), outcome)
        except (httpx.HTTPError, ValueError, KeyError) as error:
            outcome.error = str(error) or type(error).__name__
        outcome.times["e2el"] = (time.perf_counter() - start) * 1000
        return outcome

    async def _stream(self, body: dict[str, Any], outcome: Outcome, start: float) -> None:
        async with self.client.stream("POST", "/generate", json=body) as reply:
            reply.raise_for_status()
            async for line in reply.aiter_lines():
                if not line.startswith("data: "):
                    continue
                event = json.loads(line.removeprefix("data: "))
                if event["type"] == "partial_image":
                    outcome.times.setdefault("ttfp", (time.perf_counter() - start) * 1000)
                elif event["type"] == "completed":
                    outcome.pictures += 1
                elif event["type"] == "error":
                    raise ValueError(event["error"]["message"])
                elif event["type"] == "done":
                    self._take(event, outcome)

    def _take(self, reply: dict[str, Any], outcome: Outcome) -> None:
        outcome.pictures += len(reply.get("images", ()))
        outcome.times |= {name.removesuffix("_ms"): value for name, value in reply["timings"].items()}


Histograms = dict[tuple[str, str], float]
"""Samples of the server's metrics by name and upper bound."""


async def _histograms(client: httpx.AsyncClient) -> Histograms:
    text = (await client.get("/metrics")).text
    samples = [s for family in text_string_to_metric_families(text) for s in family.samples]
    totals: Histograms = defaultdict(float)
    for s in samples:
        totals[s.name, s.labels.get("le", "")] += s.value
    return totals


def _mean(before: Histograms, after: Histograms, name: str) -> float:
    """The mean of what was observed between two looks at the metrics; 0 without any."""
    total, count = (after.get((name + end, ""), 0) - before.get((name + end, ""), 0) for end in ("_sum", "_count"))
    return total / count if count else 0.0


def _quantile(before: Histograms, after: Histograms, name: str, q: float) -> float:
    """An upper bound of a quantile: that of its bucket; the last bucket has none but its lower one. 0 without any."""
    counts = {
        float(bound): value - before.get((metric, bound), 0)
        for (metric, bound), value in after.items()
        if metric == f"{name}_bucket"
    }
    if not (total := max(counts.values(), default=0)):
        return 0.0
    bound = next(bound for bound, count in sorted(counts.items()) if count >= q * total)
    return min(bound, max(filter(math.isfinite, counts)))


def summary(
    outcomes: Sequence[Outcome],
    seconds: float,
    metrics: Sequence[str],
    percentiles: Sequence[float],
    goodput_ms: float | None,
) -> dict[str, Any]:
    """The figures of one run; times in milliseconds."""
    good = [outcome for outcome in outcomes if outcome.error is None]
    row: dict[str, Any] = {
        "requests": len(outcomes),
        "error_rate": 1 - len(good) / len(outcomes),
        "requests_per_s": len(good) / seconds,
        "images_per_s": sum(outcome.pictures for outcome in good) / seconds,
    }
    if goodput_ms is not None:
        row["goodput_per_s"] = sum(outcome.times["e2el"] <= goodput_ms for outcome in good) / seconds
    for metric in metrics:
        values = sorted(outcome.times[metric] for outcome in good if metric in outcome.times)
        for p in percentiles if values else ():
            row[f"{metric}_p{p:g}_ms"] = values[math.ceil(p / 100 * len(values)) - 1]
    for stage in METRICS[2:]:
        values = [outcome.times[stage] for outcome in good if stage in outcome.times]
        row[f"{stage}_ms"] = statistics.fmean(values) if values else 0.0
    if errors := [outcome.error for outcome in outcomes if outcome.error]:
        row["first_error"] = errors[0]
    return row


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a markdown table."""
    columns = [name for name in rows[0] if name != "first_error"]
    lines = ["| " + " | ".join(columns) + " |", "|---" * len(columns) + "|"]
    for row in rows:
        figures = [row.get(name, "") for name in columns]
        lines.append("| " + " | ".join(f"{f:.3g}" if isinstance(f, float) else str(f) for f in figures) + " |")
    return "\n".join(lines)


def plot(rows: Sequence[dict[str, Any]], path: Path) -> None:
    """Latency over throughput, one point per load.

    Raises:
        ValueError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise ValueError("--plot needs matplotlib: pip install matplotlib") from None
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    for name in (name for name in rows[0] if name.startswith("e2el_p")):
        label = name.removeprefix("e2el_").removesuffix("_ms")
        axes.plot([r["images_per_s"] for r in rows], [r[name] / 1000 for r in rows], marker="o", label=label)
    for row in rows:
        point = (row["images_per_s"], row[next(n for n in row if n.startswith("e2el_p"))] / 1000)
        axes.annotate(row["load"], point, (-6, 6), textcoords="offset points", ha="right", fontsize="small")
    axes.set(xlabel="images per second", ylabel="seconds per request", ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=150)
