"""The rule for the size of decode windows."""

from __future__ import annotations

from pathlib import Path

import pytest

from llamagen_server.engine.arguments import default_flags, plan_engine
from llamagen_server.engine.window_rule import MAX_ROWS, window_ranges
from vllm_llamagen.config import LlamaGenConfig


def test_a_step_has_no_more_rows_than_the_rule_allows() -> None:
    for window in (1, 4, 8, 16, 64):
        for branches in (1, 2):
            ranges = window_ranges("rows", window, branches) or []
            assert ranges[0][0] == 1
            assert [first for first, _, _ in ranges[1:]] == [last + 1 for _, last, _ in ranges[:-1]]
            sizes = [size for _, _, size in ranges]
            assert (sizes[0], sizes[-1]) == (window, 0)
            assert sizes == sorted(sizes, reverse=True)
            assert all(last * branches * (size + 1) <= MAX_ROWS for _, last, size in ranges[:-1])


def test_ranges_and_a_fixed_window() -> None:
    assert window_ranges("fixed", 8, 2) is None
    assert window_ranges("1-8:16, 9-32:4", 16, 2) == [(1, 8, 16), (9, 32, 4), (33, 33, 0)]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ("slow", "--decode-window-rule is 'slow', must be rows, fixed or ranges such as 1-8:16,9-32:4"),
        ("", "--decode-window-rule is '', must be"),
        ("2-8:4", "has '2-8:4', must start at 1"),
        ("1-8:4,10-12:2", "has '10-12:2', must start at 9"),
        ("1-8:4,9-8:2", "has '9-8:2', must start at 9, end there or later"),
        ("1-8:9", "a window of at most 8"),
    ],
)
def test_a_wrong_rule_is_named(rule: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        window_ranges(rule, 8, 2)


def test_the_flags_become_vllms_arguments(class_model_dir: Path) -> None:
    def speculative(**flags: object) -> object:
        plan = plan_engine(default_flags(**flags), str(class_model_dir), LlamaGenConfig())
        return plan.arguments.speculative_config

    usual = {"method": "ngram_gpu", "num_speculative_tokens": 8, "prompt_lookup_min": 1, "prompt_lookup_max": 1}
    assert speculative() is None
    assert speculative(decode_window=8, decode_window_rule="fixed") == usual
    by_rows = {
        "num_speculative_tokens_per_batch_size": [(1, 14, 8), (15, 25, 4), (26, 42, 2), (43, 64, 1), (65, 65, 0)]
    }
    assert speculative(decode_window=8) == usual | by_rows
    for flags, message in (
        ({"decode_window": 65}, "--decode-window is 65, must be from 0 to 64"),
        ({"decode_window": -1}, "--decode-window is -1, must be"),
        ({"decode_window": 4, "speculative_config": {"method": "ngram"}}, "exclude each other"),
    ):
        with pytest.raises(ValueError, match=message):
            speculative(**flags)
