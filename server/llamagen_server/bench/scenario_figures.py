"""Figures of a scenario: by phase, by kind of request, of the server itself, and the knee."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from llamagen_server.bench.outcomes import STAGES, Outcome, Row, percentile, summary, times
from llamagen_server.bench.scenario_run import PhaseResult, ScenarioResult
from llamagen_server.bench.server_metrics import Samples, mean_between, quantile_between

REFUSED = "429"
"""Status of a reply to a request above the server's limit of images in flight."""
KNEE_SHARE = 0.99
"""Share of the requests that must be answered within the goal for a rate to count as sustained."""


def phase_rows(result: ScenarioResult) -> list[Row]:
    """Returns one row per phase that is no warm-up.

    Counts and latencies are those of the requests that were due in the phase, whenever they ended. Images per second
    are those that ended in the phase, whenever they began. So a backlog shows in both.
    """
    return [
        {
            "phase": phase.phase.name,
            "load": f"{phase.load.rate:.3g}/s" if phase.load.rate else str(phase.load),
            "offered images/s": offered(result, phase),
            "images/s": images_between(result.outcomes, phase.start, phase.end) / (phase.end - phase.start),
            **outcome_figures(phase.outcomes, result.goodput_ms),
        }
        for phase in measured(result)
    ]


def kind_rows(result: ScenarioResult) -> list[Row]:
    """Returns one row per kind of request, over the phases that are no warm-up."""
    outcomes = [outcome for phase in measured(result) for outcome in phase.outcomes]
    by_kind = {
        kind: [outcome for outcome in outcomes if result.requests.kind(outcome.number) == kind]
        for kind in result.requests.mix
    }
    return [{"kind": str(kind), **outcome_figures(own, result.goodput_ms)} for kind, own in by_kind.items()]


def server_rows(result: ScenarioResult) -> list[Row]:
    """Returns one row per phase that is no warm-up: mean seconds by stage, and the server's metrics if it shows any."""
    rows = []
    for phase in measured(result):
        stages = summary(phase.outcomes, 1.0, (), (), None)
        row = {"phase": phase.phase.name} | {f"{stage}, s": stages[f"{stage}_ms"] / 1000 for stage in STAGES}
        rows.append(row | (_metric_figures(result.metrics, phase) if result.metrics else {}))
    return rows


def measured(result: ScenarioResult) -> list[PhaseResult]:
    """Returns the phases that are no warm-up."""
    return [phase for phase in result.phases if not phase.phase.warm_up]


def offered(result: ScenarioResult, phase: PhaseResult) -> float:
    """Returns the images per second that the requests of a phase asked for."""
    return sum(result.requests.kind(outcome.number).n for outcome in phase.outcomes) / (phase.end - phase.start)


def images_between(outcomes: Iterable[Outcome], start: float, end: float) -> int:
    """Returns the number of images whose replies were complete in a time span."""
    return sum(outcome.images for outcome in outcomes if not outcome.error and start <= outcome.end < end)


def goodput_share(outcomes: Sequence[Outcome], goodput_ms: float) -> float:
    """Returns the share of the requests that were answered within the goal."""
    good = sum(not outcome.error and outcome.times["e2el"] <= goodput_ms for outcome in outcomes)
    return good / len(outcomes) if outcomes else 0.0


def knee(result: ScenarioResult) -> PhaseResult | None:
    """Returns the phase with the highest rate up to which every phase met the goal; None if the lowest rate missed it.

    Only a scenario whose rates rise from phase to phase has a knee.
    """
    found = None
    for phase in measured(result):
        if goodput_share(phase.outcomes, result.goodput_ms) < KNEE_SHARE:
            break
        found = phase
    return found


def outcome_figures(outcomes: Sequence[Outcome], goodput_ms: float) -> Row:
    """Returns counts, the share within the goal, and latencies in seconds of those that were answered."""
    ok = [outcome for outcome in outcomes if not outcome.error]
    refused = sum(outcome.error_kind == REFUSED for outcome in outcomes)
    row: Row = {
        "requests": len(outcomes),
        "ok": len(ok),
        REFUSED: refused,
        "failed": len(outcomes) - len(ok) - refused,
        "within goal": f"{goodput_share(outcomes, goodput_ms):.1%}",
    }
    for name, metric, percentiles in (("", "e2el", (50, 90, 99)), ("first preview ", "ttfp", (50, 99))):
        values = times(ok, metric)
        row |= {f"{name}p{p}, s": percentile(values, p) / 1000 if values else "" for p in percentiles}
    return row


def _metric_figures(metrics: Sequence[tuple[float, Samples]], phase: PhaseResult) -> Row:
    before = [samples for at, samples in metrics if at <= phase.start] or [metrics[0][1]]
    after = [samples for at, samples in metrics if at >= phase.end] or [metrics[-1][1]]
    during = [samples for at, samples in metrics if phase.start <= at <= phase.end]
    in_flight = [samples["llamagen_images_in_flight", ""] for samples in during]
    return {
        "engine queue, s": mean_between(before[-1], after[0], "vllm:request_queue_time_seconds"),
        "most in flight": int(max(in_flight, default=0)),
        "loop lag p99, s": quantile_between(before[-1], after[0], "llamagen_event_loop_lag_seconds", 0.99),
        "memory, MiB": round(after[0]["process_resident_memory_bytes", ""] / 2**20),
    }
