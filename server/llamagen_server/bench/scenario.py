"""Scenarios of load: phases with a rate or a concurrency, and a mix of kinds of requests, read from a YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from llamagen_server.bench.load import Kind, Load
from llamagen_server.core.errors import InvalidRequestError, describe

Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Phase(_Strict):
    """A time of constant load. Exactly one of ``rate`` and ``concurrency`` is set."""

    name: str
    seconds: Positive
    rate: Positive | None = None
    """Open loop: arrivals as a share of saturation, the most that the server completes with this mix."""
    concurrency: int | None = Field(None, ge=1)
    """Closed loop: requests in flight at a time."""
    burstiness: Positive = 1.0
    """Shape of the open loop's arrivals: 1 is a Poisson process, smaller values are more bursty."""
    warm_up: bool = False
    """Whether the phase is left out of the figures."""

    @model_validator(mode="after")
    def _check(self) -> Phase:
        if (self.rate is None) == (self.concurrency is None):
            raise InvalidRequestError(f"phase {self.name!r} must have either rate or concurrency")
        if self.concurrency is not None and "burstiness" in self.model_fields_set:
            raise InvalidRequestError(f"phase {self.name!r} has burstiness, which needs a rate in place of concurrency")
        return self

    def load(self, saturation: float) -> Load:
        """Returns the load of this phase, for a server that completes at most ``saturation`` requests per second."""
        rate = None if self.rate is None else self.rate * saturation
        return Load(self.concurrency, rate, burstiness=self.burstiness, duration=self.seconds)


class Scenario(_Strict):
    """A sequence of phases without pauses between them."""

    name: str
    description: str
    latency_goal: Positive = 4.0
    """Largest latency that counts as good, in multiples of the latency of a request alone."""
    mix: tuple[Kind, ...] = Field((Kind(),), min_length=1)
    phases: tuple[Phase, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check(self) -> Scenario:
        names = [phase.name for phase in self.phases]
        if twice := [name for name in names if names.count(name) > 1]:
            raise InvalidRequestError(f"two phases have the name {twice[0]!r}")
        if all(phase.warm_up for phase in self.phases):
            raise InvalidRequestError("every phase has warm_up: nothing would be measured")
        return self

    @property
    def images_per_request(self) -> float:
        """Mean number of images of a request."""
        return sum(kind.share * kind.n for kind in self.mix) / sum(kind.share for kind in self.mix)

    def scaled(self, scale: float) -> Scenario:
        """Returns the scenario with phases that are ``scale`` times as long."""
        phases = (phase.model_copy(update={"seconds": scale * phase.seconds}) for phase in self.phases)
        return self.model_copy(update={"phases": tuple(phases)})


def read_scenario(path: Path) -> Scenario:
    """Reads a scenario file. The scenario has the name of the file, without its ending.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not a scenario; the message names the file and the field.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} must be a YAML mapping with description and phases")
    if "name" in content:
        raise ValueError(f"{path}: unknown field 'name': a scenario has the name of its file")
    try:
        return Scenario.model_validate({"name": path.stem, **content})
    except ValidationError as error:
        raise ValueError(f"{path}: {describe(error.errors()[0])[0]}") from None
