"""Tables of measured figures."""

from __future__ import annotations

from llamagen_server.bench.engine import figures
from llamagen_server.bench.tables import engine_table, load_table


def test_engine_table() -> None:
    rows = [figures(1, 256, {"engine_s": 6.32}, roofline_s=3.33), figures(8, 256, {"engine_s": 9.62}, roofline_s=4.63)]
    assert engine_table(rows).splitlines() == [
        "| batch | seconds | images/s | tokens/s | ms per step | roofline, s | fraction of roofline |",
        "|---|---|---|---|---|---|---|",
        "| 1 | 6.32 | 0.158 | 40.5 | 24.7 | 3.33 | 0.53 |",
        "| 8 | 9.62 | 0.832 | 212.9 | 37.6 | 4.63 | 0.48 |",
    ]


def test_the_baselines_columns_need_the_baseline() -> None:
    table = engine_table([figures(8, 256, {"engine_s": 2.0, "eager_s": 5.0}, roofline_s=1.0)])
    assert "| eager, s | times as fast as eager |" in table
    assert table.endswith("| 5.00 | 2.50 |")


def test_load_table() -> None:
    rows = [{"load": "1 at a time", "requests": 12, "images_per_s": 3.2345}, {"load": "8/s", "first_error": "boom"}]
    assert load_table(rows).splitlines() == [
        "| load | requests | images_per_s |",
        "|---|---|---|",
        "| 1 at a time | 12 | 3.23 |",
        "| 8/s |  |  |",
    ]


def test_numbers_have_no_exponents() -> None:
    rows = [{"a": 1234.5, "b": 99.96, "c": 0.00005678, "d": 0.0, "e": 12345}]
    assert load_table(rows).splitlines()[-1] == "| 1234 | 100 | 0.0001 | 0 | 12345 |"
