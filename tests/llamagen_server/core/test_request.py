"""The values of a request as clients write them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from llamagen_server.core.request import MAX_SEED, ImageRequest


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"n": "1"}, {"n": 1}),
        ({"n": 1.0}, {"n": 1}),
        ({"n": " 2 "}, {"n": 2}),
        ({"n": "2.0"}, {"n": 2}),
        ({"cfg_scale": "7.5"}, {"cfg_scale": 7.5}),
        ({"guidance_scale": "7"}, {"cfg_scale": 7.0, "guidance_scale": None}),
        ({"top_k": "1e2"}, {"top_k": 100}),
        ({"top_p": "0.9", "temperature": 1}, {"top_p": 0.9, "temperature": 1.0}),
        ({"class_id": "3"}, {"class_id": 3}),
        ({"seed": -1}, {"seed": None}),
        ({"seed": "-1"}, {"seed": None}),
        ({"seed": -1.0}, {"seed": None}),
        ({"seed": MAX_SEED}, {"seed": 2**63 - 1}),
        ({"seed": str(MAX_SEED)}, {"seed": 2**63 - 1}),
        ({"cfg_interval": -1}, {"cfg_interval": -1}),
    ],
)
def test_numbers_are_read_as_clients_write_them(given: dict[str, Any], expected: dict[str, Any]) -> None:
    request = ImageRequest(**given)
    for name, value in expected.items():
        found = getattr(request, name)
        assert (type(found), found) == (type(value), value)


@pytest.mark.parametrize(
    "given",
    [
        {"n": True}, {"n": "true"}, {"n": 1.5}, {"n": "one"}, {"n": ""}, {"n": "1_0"}, {"n": "\u0661"}, {"n": [1]},
        {"n": "0x1"}, {"n": "9" * 5000}, {"seed": -2}, {"seed": 2**63}, {"seed": 1e17}, {"seed": "nan"},
        {"cfg_scale": "inf"}, {"cfg_scale": "1e999"}, {"temperature": "warm"}, {"top_p": False},
    ],
)  # fmt: skip
def test_what_is_no_number_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ImageRequest(**given)
