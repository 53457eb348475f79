"""The page of the report, from its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from llamagen_server.bench.capacity import Goal, Source, plan_row
from llamagen_server.bench.queueing import ServiceCurve
from llamagen_server.bench.tables import ENGINE_COLUMNS, load_table

Report = Mapping[str, Any]
"""``machine``: facts by name; ``tiny``: whether the shapes were; ``parts``: records of `scripts.gpu_report.running`, or
``name``, ``command`` and the ``status`` not run."""
Rows = list[dict[str, Any]]

TINY = "**This is a test of the report with tiny shapes. Its figures measure nothing.**"
NO_PARITY = (
    "**Parity before speed: {} not passed. Until all parity tests pass, the figures below are those of a system whose "
    "images may differ from the official code's.**"
)
PAPER_COLUMNS = ("engine_s", "images_per_s", "step_ms", "roofline_fraction", "eager_s", "ratio")
SERVER_COLUMNS = {
    "load": "load",
    "images_per_s": "images/s",
    "e2el_p50_ms": "p50",
    "e2el_p95_ms": "p95",
    "e2el_p99_ms": "p99",
    "text_ms": "text",
    "engine_ms": "engine",
    "decode_ms": "decode",
    "file_ms": "file",
    "lag_p99_ms": "loop lag p99",
    "error_rate": "share of errors",
}
TARGET_RATES = (10, 100, 1000, 10000)
PLACES = 256
"""Largest batch of the server that the plan assumes; as in ``llamagen bench capacity``."""


def page(report: Report) -> str:
    """Returns the page in Markdown. The same report gives the same page."""
    machine, parts = report["machine"], report["parts"]
    name = machine.get("GPU", machine["CPU"])
    blocks = [
        f"# Benchmarks: {name}",
        "`make gpu-report` wrote this page and the JSON of the same name. The commands above a table measured it, one "
        "after the other.",
        *([TINY] if report["tiny"] else []),
        *_parity_warning(parts),
        _machine(machine, parts),
        *_parity(_of(parts, "parity-")),
        *_paper(_measured(parts, "table-")),
        *_windows(_measured(parts, "windows-")),
        *_decode(_measured(parts, "decode")),
        *_server(_measured(parts, "server"), name),
        *_not_done([part for part in parts if part["status"] != "done"]),
    ]
    return "\n\n".join(blocks) + "\n"


def _of(parts: Sequence[Report], prefix: str) -> list[Report]:
    return [part for part in parts if part["name"].startswith(prefix)]


def _measured(parts: Sequence[Report], prefix: str) -> list[Report]:
    return [part for part in _of(parts, prefix) if part["status"] == "done"]


def _commands(parts: Sequence[Report]) -> str:
    return "\n".join(f"    {part['command']}" for part in parts)


def _machine(machine: Mapping[str, Any], parts: Sequence[Report]) -> str:
    days = sorted({part["ended"][:10] for part in parts if "ended" in part})
    facts = {**machine, "measured": " to ".join(dict.fromkeys((days[0], days[-1])))} if days else machine
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in facts.items())])


def _parity_warning(parts: Sequence[Report]) -> list[str]:
    missing = [part["name"] for part in _of(parts, "parity-") if not _passed(part)]
    return [NO_PARITY.format(", ".join(missing) + (" has" if len(missing) == 1 else " have"))] if missing else []


def _passed(part: Report) -> bool:
    return part["status"] == "done" and part["result"]["passed"] > 0 and not part["result"]["failed"]


def _parity(parts: Sequence[Report]) -> list[str]:
    rows = []
    for part in parts:
        counts = part.get("result") or {}
        verdict = "yes" if _passed(part) else f"no ({part['status']})"
        rows.append(
            {
                "part": part["name"],
                "parity": verdict,
                **{name: counts.get(name, "") for name in ("passed", "failed", "skipped")},
            }
        )
    failed = [f"- `{name}`" for part in parts for name in (part.get("result") or {}).get("failed_tests", ())]
    text = (
        "Tests in float32: `v1` and `v2` compare vLLM's two model runners with golden vectors of the official code; "
        "the others compare decode windows, compiled models and servers on V2 with these vectors and with each other."
    )
    return ["## Parity", text, _commands(parts), load_table(rows), *(["\n".join(failed)] if failed else [])]


def _paper(parts: Sequence[Report]) -> list[str]:
    if not parts:
        return []
    rows = [
        {"model": part["result"]["settings"]["size"], "batch": row["batch"]}
        | {ENGINE_COLUMNS[name][0]: "out of memory" if row[name] is None else row[name] for name in PAPER_COLUMNS}
        for part in parts
        for row in part["result"]["rows"]
    ]
    text = (
        "The engine with random weights against eager PyTorch with the operations of the official code "
        "(`server/llamagen_server/bench/eager.py`), in turns. A batch is a number of images; each has two branches. "
        "The paper's table has 8 images. The roofline is the shortest time that the rates measured in the same run "
        "allow."
    )
    return ["## The paper's table", text, _commands(parts), load_table(rows), _conditions(parts)]


def _conditions(parts: Sequence[Report]) -> str:
    """Describes dtype, model runner and measured rates of parts of the engine."""
    results = [part["result"] for part in parts]
    dtypes = sorted({result["dtype"] for result in results})
    runners = sorted({"V2" if result["v2_model_runner"] else "V1" for result in results})
    rates = [
        max(result["machine"][name] for result in results) / unit
        for name, unit in (("bytes_per_s", 1e9), ("flops_per_s", 1e12))
    ]
    return (
        f"Measured in {' and '.join(dtypes)} on vLLM's {' and '.join(runners)} model runner. At best, memory copied "
        f"{rates[0]:.0f} GB/s and matrix products reached {rates[1]:.3g} TFLOP/s."
    )


def _windows(parts: Sequence[Report]) -> list[str]:
    if not parts:
        return []
    blocks = [
        "## Decode windows",
        "A step checks K guessed tokens of each image and samples one more. A step's time is that of the batch over "
        "the mean number of steps of an image. The demo has real weights and so real guesses (one caption, temperature "
        "1); the other network has random weights, and shows what the further rows of a step cost. A window pays where "
        "the tokens per step grow more than the step's time.",
        _commands(parts),
    ]
    for network in dict.fromkeys(part["name"].split("-")[1] for part in parts):
        chosen = _measured(parts, f"windows-{network}-")
        blocks += [f"### {network}", load_table(_window_rows(chosen)), _conditions(chosen)]
    return blocks


def _window_rows(parts: Sequence[Report]) -> Rows:
    rows: Rows = []
    without: dict[int, float] = {}
    for part in parts:
        window = part["result"]["settings"]["decode_window"]
        for row in part["result"]["rows"]:
            tokens = row.get("tokens_per_step", 1.0)
            step_ms = row["step_ms"] * tokens
            if not window:
                without[row["batch"]] = step_ms
            rows.append(
                {
                    "window": window,
                    "batch": row["batch"],
                    "rows of a step": 2 * row["batch"] * (window + 1),
                    "images/s": row["images_per_s"],
                    "tokens per step of an image": tokens,
                    "ms per step": step_ms,
                    "times the step without": step_ms / without[row["batch"]] if row["batch"] in without else "",
                }
            )
    return rows


def _decode(parts: Sequence[Report]) -> list[str]:
    if not parts:
        return []
    rows = [
        {
            "image tokenizer": row["image_tokenizer"],
            "pixels": f"{row['pixels']} x {row['pixels']}",
            "dtype": row["dtype"],
            "batch": row["batch"],
            "images/s": row["images_per_s"],
            "PSNR against float32, dB": row.get("psnr_db") or "",
        }
        for part in parts
        for row in part["result"]["rows"]
    ]
    text = (
        "The stage that decodes pixels, by itself. Pixels of random weights are noise, so read the PSNR from the rows "
        "of the demo."
    )
    return ["## Decoding pixels", text, _commands(parts), load_table(rows)]


def _server(parts: Sequence[Report], name: str) -> list[str]:
    if not parts:
        return []
    [part] = parts
    rows = part["result"]["rows"]
    fastest = max(rows, key=lambda row: row["images_per_s"])
    points = tuple(zip(part["result"]["settings"]["max_concurrency"], (row["images_per_s"] for row in rows)))
    return [
        "## The server",
        "`llamagen serve` with the demo model, the client on the same machine. Times are in ms; those of stages are "
        "means and include waiting.",
        _commands(parts),
        load_table([{heading: row.get(name, "") for name, heading in SERVER_COLUMNS.items()} for row in rows]),
        f"Saturation: {fastest['images_per_s']:.3g} images/s, with {fastest['load']}.",
        *(_plan(name, points) if all(rate for _, rate in points) else []),
    ]


def _plan(name: str, points: tuple[tuple[int, float], ...]) -> list[str]:
    plan = plan_row(Source(name, ServiceCurve(points, PLACES)), TARGET_RATES, Goal())
    shown = {heading: value for heading, value in plan.items() if value != ""}  # no data sheet
    return ["`llamagen bench capacity` plans with these loops:", load_table([shown])]


def _not_done(parts: Sequence[Report]) -> list[str]:
    if not parts:
        return []
    blocks = ["## Parts without a result", load_table([{"part": p["name"], "status": p["status"]} for p in parts])]
    for part in parts:
        if "last_lines" in part:
            blocks.append(f"The last lines of `{part['name']}` (`{part['command']}`):")
            blocks.append("\n".join(f"    {line}" for line in part["last_lines"]))
    return blocks
