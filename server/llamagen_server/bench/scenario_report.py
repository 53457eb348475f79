"""The report of a scenario in Markdown: what was measured, what it shows, and checks of the measurement itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from llamagen_server.bench.outcomes import Row, percentile
from llamagen_server.bench.scenario_figures import (
    KNEE_SHARE,
    kind_rows,
    knee,
    measured,
    offered,
    phase_rows,
    server_rows,
)
from llamagen_server.bench.scenario_run import ScenarioResult
from llamagen_server.bench.tables import load_table

LATE_MS = 20.0
"""Delay of this client above which the report warns."""


def report(result: ScenarioResult, base_url: str) -> str:
    """Returns the report; it shows the plot ``report.png`` beside it."""
    return "\n\n".join(_parts(result, base_url)) + "\n"


def _parts(result: ScenarioResult, base_url: str) -> Iterator[str]:
    scenario = result.scenario
    yield f"# Load test: {scenario.name}"
    yield scenario.description.strip()
    yield _conditions(result, base_url)
    yield "![Latency, throughput and images in flight over time](report.png)"
    yield load_table(_without_empty(phase_rows(result)))
    yield from _findings(result)
    if len(scenario.mix) > 1:
        yield "By kind of request:"
        yield load_table(_without_empty(kind_rows(result)))
    yield "Mean seconds by stage, queues included, and the server's own metrics:"
    yield load_table(server_rows(result))
    yield "\n".join(f"- {check}" for check in _checks(result))


def _conditions(result: ScenarioResult, base_url: str) -> str:
    saturation = result.saturation
    loops = ", ".join(f"{rate:.3g} at {concurrency}" for concurrency, rate in saturation.loops.items())
    measured_by = f" (images/s by requests at a time: {loops})" if loops else " (given)"
    return (
        f"Server: {base_url}. Saturation with this mix: {saturation.images_per_s:.3g} images/s{measured_by}. A request "
        f"alone takes {saturation.latency_ms / 1000:.3g} s. The goal is an answer within "
        f"{result.goodput_ms / 1000:.3g} s. Latency counts from the time at which a request was due."
    )


def _findings(result: ScenarioResult) -> Iterator[str]:
    rates = [phase.load.rate or 0.0 for phase in measured(result)]
    if len(rates) > 2 and rates == sorted(set(rates)):
        yield _knee_sentence(result)
    errors = Counter((outcome.error_kind, outcome.error) for outcome in result.outcomes if outcome.error)
    if errors:
        lines = [f"- {count} x {kind}: {text}" for (kind, text), count in errors.most_common(10)]
        yield "Errors, warm-up included:\n\n" + "\n".join(lines)


def _knee_sentence(result: ScenarioResult) -> str:
    phase = knee(result)
    if phase is None:
        return f"**Knee: below the lowest rate**, at which fewer than {KNEE_SHARE:.0%} of the requests met the goal."
    return (
        f"**Knee: {offered(result, phase):.3g} images/s** (phase {phase.phase.name!r}), the highest rate up to which "
        f"{KNEE_SHARE:.0%} of the requests met the goal."
    )


def _checks(result: ScenarioResult) -> Iterator[str]:
    images = sum(outcome.images for outcome in result.outcomes if not outcome.error)
    if result.metrics:
        (first, before), (last, after) = result.metrics[0], result.metrics[-1]
        counted = int(after["llamagen_images_total", ""] - before["llamagen_images_total", ""])
        same = "as many as" if counted == images else "**not as many as**"
        yield f"The server counted {counted} finished images, {same} this client received ({images})."
        growth = [samples["process_resident_memory_bytes", ""] / 2**20 for samples in (before, after)]
        yield (
            f"Resident memory of the server's HTTP process: {growth[0]:.0f} MiB at the start, {growth[1]:.0f} MiB "
            f"{(last - first) / 60:.1f} minutes later."
        )
    else:
        yield f"The server shows no metrics; this client received {images} images."
    late = percentile([outcome.late_ms for outcome in result.outcomes] or [0.0], 99)
    warning = "." if late < LATE_MS else "; **the client is too slow for this rate** and the latencies include it."
    yield f"This client sent requests at most {late:.1f} ms after they were due (p99){warning}"


def _without_empty(rows: list[Row]) -> list[Row]:
    """Leaves out columns without any value."""
    return [{name: row[name] for name in row if any(other[name] != "" for other in rows)} for row in rows]
