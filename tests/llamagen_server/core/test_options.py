"""The limits of a server."""

from __future__ import annotations

import math
from typing import Any

import pytest

from llamagen_server.core.errors import InvalidRequestError
from llamagen_server.core.options import NO_LIMITS, Limits


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"max_in_flight": 0}, "--max-in-flight is 0, must be at least 1"),
        ({"max_timeout": 0.0}, "--max-timeout is 0, must be more than 0 seconds"),
        ({"max_timeout": math.nan}, "--max-timeout is nan, must be more than 0 seconds"),
        ({"default_timeout": -1.0}, "--default-timeout is -1, must be more than 0 and at most 3600 seconds"),
        ({"default_timeout": math.nan}, "--default-timeout is nan, must be more than 0"),
        ({"max_timeout": 60.0}, "--default-timeout is 600, must be more than 0 and at most 60 seconds, the value of"),
    ],
)
def test_a_wrong_limit_is_refused_by_its_flag(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Limits(**wrong)


def test_a_request_gets_its_own_timeout_or_the_default_or_a_refusal() -> None:
    limits = Limits(default_timeout=20, max_timeout=60)
    assert (limits.timeout(), limits.timeout(60), limits.timeout(0.5)) == (20, 60, 0.5)
    with pytest.raises(InvalidRequestError, match="timeout is 60.5, must be at most 60 seconds") as error:
        limits.timeout(60.5)
    assert error.value.param == "timeout"
    assert math.isinf(NO_LIMITS.timeout())
    assert NO_LIMITS.timeout(1e9) == 1e9
