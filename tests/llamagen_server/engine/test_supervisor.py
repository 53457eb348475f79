"""Engines end and hang; the requests go on."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.helpers.fake_engine import FakeEngine
from tests.helpers.fake_starter import FakeStarter

from llamagen_server.core import metrics
from llamagen_server.core.errors import EngineError, EngineStoppedError
from llamagen_server.core.options import RestartPolicy
from llamagen_server.core.sampling import Sampling
from llamagen_server.engine import supervisor
from llamagen_server.engine.interface import EngineOutput, EngineRequest
from llamagen_server.engine.supervisor import SupervisedEngine
from llamagen_server.engine.suspects import Suspects

NUM_TOKENS = 64
SAMPLING = Sampling(2.0, -1, "constant", 1.0, 0, 1.0, 0)


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(supervisor, "RETRY_SECONDS", 0.0)


@pytest.fixture
def starter() -> FakeStarter:
    return FakeStarter(NUM_TOKENS)


@pytest.fixture(params=["V1", "V2"])
def runner(request: pytest.FixtureRequest, starter: FakeStarter) -> None:
    starter.resumes_from_prefix = request.param == "V2"


@pytest.fixture
def supervised(starter: FakeStarter) -> Iterator[SupervisedEngine]:
    engine = SupervisedEngine(starter, NUM_TOKENS, RestartPolicy(hang_timeout=1))
    yield engine
    engine.shutdown()


def request(seed: int, update_every: int | None = None, **fields: object) -> EngineRequest:
    return replace(
        EngineRequest(f"r{seed}", 3, replace(SAMPLING, seed=seed), update_every=update_every),
        **fields,  # type: ignore[arg-type]
    )


async def last(engine: SupervisedEngine | FakeEngine, request: EngineRequest) -> EngineOutput:
    outputs = [output async for output in engine.generate(request)]
    return outputs[-1]


async def undisturbed(starter: FakeStarter, request: EngineRequest) -> EngineOutput:
    engine = FakeEngine(512, NUM_TOKENS)
    engine.resumes_from_prefix = starter.resumes_from_prefix
    return await last(engine, request)


def restarts() -> float:
    return sum(metrics.ENGINE_RESTARTS.labels(how)._value.get() for how in ("ended", "hung"))


@pytest.mark.usefixtures("runner")
@pytest.mark.parametrize("deaths", [{1}, {30}, {7, 20, 21, 31}])
@pytest.mark.parametrize("update_every", [None, 8])
async def test_requests_survive_their_engines(
    starter: FakeStarter, supervised: SupervisedEngine, deaths: set[int], update_every: int | None
) -> None:
    starter.deaths = set(deaths)
    requests = [request(seed, update_every) for seed in range(16)]
    images = await asyncio.gather(*(last(supervised, request) for request in requests))
    assert [image.codes for image in images] == [(await undisturbed(starter, request)).codes for request in requests]
    assert not starter.deaths
    assert all(engine.killed for engine in starter.engines[:-1])
    assert supervised.is_running


async def test_outputs_grow_and_repeat_nothing(starter: FakeStarter, supervised: SupervisedEngine) -> None:
    starter.deaths = {3, 5}
    lengths = [len(output.codes) async for output in supervised.generate(request(1, update_every=8))]
    assert len(starter.engines) == 3
    assert lengths == sorted(set(lengths))
    assert lengths[-1] == NUM_TOKENS


async def test_the_codes_so_far_are_forced_in_the_next_engine(
    starter: FakeStarter, supervised: SupervisedEngine
) -> None:
    starter.deaths = {3}
    image = await last(supervised, request(1, update_every=8))
    [resumed] = starter.engines[1].requests
    saved = [code for code in resumed.forced_tokens if code >= 0]
    assert saved == image.codes[: len(saved)]
    assert len(saved) == 9  # the engine reports after 1, 9, 17, ... codes, and died with the third report
    assert list(resumed.forced_tokens[9:]) == [-1] * (NUM_TOKENS - 9)


async def test_the_codes_so_far_are_a_prefix_where_noise_depends_on_the_position(
    starter: FakeStarter, supervised: SupervisedEngine
) -> None:
    starter.resumes_from_prefix = supervised._life.engine.resumes_from_prefix = True  # type: ignore[union-attr]
    starter.deaths = {3}
    image = await last(supervised, request(1, update_every=8))
    [resumed] = starter.engines[1].requests
    assert list(resumed.prefix_tokens) == image.codes[:9]
    assert resumed.forced_tokens == ()


@pytest.mark.usefixtures("runner")
async def test_prefix_and_forced_tokens_and_logprobs_survive(
    starter: FakeStarter, supervised: SupervisedEngine
) -> None:
    forced = [-1] * 16 + [5] * 16 + [-1] * 32
    edit = request(1, update_every=4, prefix_tokens=[1, 2, 3, 4], forced_tokens=forced, logprobs=True)
    starter.deaths = {6}
    image, expected = await last(supervised, edit), await undisturbed(starter, edit)
    assert (image.codes, image.logprobs) == (expected.codes, expected.logprobs)
    assert len(starter.engines) == 2


@pytest.mark.parametrize("reports_end", [True, False])
async def test_an_engine_that_hangs_is_killed(
    starter: FakeStarter, supervised: SupervisedEngine, reports_end: bool
) -> None:
    [engine] = starter.engines
    engine.hangs, engine.reports_end = True, reports_end
    before = metrics.ENGINE_RESTARTS.labels("hung")._value.get()
    image = await last(supervised, request(1))
    assert image.codes == (await undisturbed(starter, request(1))).codes
    assert metrics.ENGINE_RESTARTS.labels("hung")._value.get() == before + 1
    assert engine.killed


async def test_an_idle_engine_that_hangs_is_replaced(starter: FakeStarter, supervised: SupervisedEngine) -> None:
    await supervised.check_health()  # starts the supervision
    starter.engines[0].hangs = True
    async with asyncio.timeout(10):
        while len(starter.engines) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_an_engine_that_computes_has_more_time(starter: FakeStarter, supervised: SupervisedEngine) -> None:
    [engine] = starter.engines
    engine.hangs = engine.computing = True
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(last(supervised, request(1)), 2)
    assert starter.engines == [engine]


async def test_a_slow_engine_has_more_time(supervised: SupervisedEngine) -> None:
    life = supervised._life
    assert life is not None
    assert supervised._bound(life) == 1
    life.answer_seconds = 2.0
    assert supervised._bound(life) == 2 * supervisor.ANSWER_FACTOR


async def test_readiness_during_a_restart(starter: FakeStarter, supervised: SupervisedEngine) -> None:
    starter.hanging_starts = 1
    starter.deaths = {2}
    task = asyncio.create_task(last(supervised, request(1, update_every=8)))
    while supervised.is_running:  # noqa: ASYNC110
        await asyncio.sleep(0)
    await supervised.check_health()
    new = asyncio.create_task(last(supervised, request(2)))
    await asyncio.sleep(0.05)
    assert not new.done()
    starter.go_on.set()
    assert len((await task).codes) == len((await new).codes) == NUM_TOKENS


async def test_a_start_has_three_times_as_long_as_the_first_one(
    starter: FakeStarter, supervised: SupervisedEngine
) -> None:
    starter.deaths, starter.hanging_starts = {2}, 1
    task = asyncio.create_task(last(supervised, request(1, update_every=8)))
    while not starter.timeouts:  # noqa: ASYNC110
        await asyncio.sleep(0)
    starter.go_on.set()
    assert len((await task).codes) == NUM_TOKENS
    assert starter.timeouts == [supervisor.MIN_START_SECONDS]


async def test_starts_that_fail_are_repeated(starter: FakeStarter, supervised: SupervisedEngine) -> None:
    starter.deaths, starter.failures = {2}, supervisor.MAX_FAILED_STARTS - 1
    assert len((await last(supervised, request(1, update_every=8))).codes) == NUM_TOKENS


async def test_it_gives_up_when_no_engine_starts(starter: FakeStarter, supervised: SupervisedEngine) -> None:
    starter.deaths, starter.failures = {2}, supervisor.MAX_FAILED_STARTS
    with pytest.raises(EngineStoppedError, match="3 starts of a new one failed"):
        await last(supervised, request(1, update_every=8))
    with pytest.raises(EngineStoppedError):
        await supervised.check_health()
    with pytest.raises(EngineStoppedError):
        await last(supervised, request(2))


async def test_it_gives_up_after_too_many_ends(starter: FakeStarter) -> None:
    supervised = SupervisedEngine(starter, NUM_TOKENS, RestartPolicy(max_restarts=2))
    for seed in (1, 2):
        starter.deaths = {starter.outputs + 1}
        await last(supervised, request(seed, update_every=8))
    starter.deaths = {starter.outputs + 1}
    with pytest.raises(EngineStoppedError, match="ended 3 times within 900 s, at most 2 restarts are allowed"):
        await last(supervised, request(3, update_every=8))
    assert len(starter.engines) == 3
    supervised.shutdown()


@pytest.mark.parametrize("count", [1, 2, 5, 16])
async def test_a_request_that_kills_its_engine_fails_alone(starter: FakeStarter, count: int) -> None:
    supervised = SupervisedEngine(starter, NUM_TOKENS)
    starter.poison = {count // 2}
    before = restarts()
    images = await asyncio.gather(
        *(last(supervised, request(seed, update_every=8)) for seed in range(count)), return_exceptions=True
    )
    culprit = images.pop(count // 2)
    assert isinstance(culprit, EngineError)
    assert not isinstance(culprit, EngineStoppedError)
    assert [len(image.codes) for image in images if isinstance(image, EngineOutput)] == [NUM_TOKENS] * (count - 1)
    assert restarts() - before <= 3 + math.ceil(math.log2(count))
    assert len((await last(supervised, request(100))).codes) == NUM_TOKENS
    supervised.shutdown()


async def test_a_request_that_is_abandoned_during_a_restart_leaves_nothing_behind(
    starter: FakeStarter, supervised: SupervisedEngine
) -> None:
    starter.hanging_starts, starter.deaths = 1, {2}
    task = asyncio.create_task(last(supervised, request(1, update_every=8)))
    while supervised.is_running:  # noqa: ASYNC110
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not supervised._runs
    starter.go_on.set()


async def test_requests_end_with_a_shutdown(starter: FakeStarter, supervised: SupervisedEngine) -> None:
    starter.engines[0].go_on.clear()
    task = asyncio.create_task(last(supervised, request(1)))
    await starter.engines[0].until_requested(1)
    supervised.shutdown()
    with pytest.raises(EngineStoppedError):
        await task


async def test_errors_of_a_request_do_not_end_the_engine(starter: FakeStarter, supervised: SupervisedEngine) -> None:
    starter.engines[0].error = EngineError("failed on this request")
    with pytest.raises(EngineError, match="failed on this request"):
        await last(supervised, request(1))
    assert supervised.is_running


@given(st.data())
def test_suspects_always_find_the_culprit(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 64))
    culprit = data.draw(st.integers(0, count - 1))
    waiting, suspects, ends = set(range(count)), Suspects[int](), 0
    while waiting:
        running = [run for run in sorted(waiting) if suspects.may_run(run)]
        assert running
        if culprit in running:
            ends += 1
            finished = {run for run in running if run != culprit and data.draw(st.booleans())}
            if suspects.after_end([run for run in running if run not in finished]) == culprit:
                finished.add(culprit)
        else:
            finished = set(running)
        for run in finished:
            suspects.discard(run)
            waiting.discard(run)
    assert ends <= 3 + math.ceil(math.log2(count))


def test_a_request_is_blamed_only_when_it_ran_alone() -> None:
    suspects = Suspects[str]()
    assert suspects.after_end(["a", "b"]) is None
    suspects.discard("b")
    assert suspects.after_end(["a", "c", "d"]) is None  # its second end, in company
    assert suspects.may_run("a")
    assert not suspects.may_run("c")
    assert suspects.after_end(["a"]) is None
    assert suspects.after_end(["a"]) == "a"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_restarts": -1}, "--max-restarts is -1"),
        ({"window": 0}, "--restart-window is 0"),
        ({"hang_timeout": 0.5}, "--hang-timeout is 0.5"),
    ],
)
def test_a_wrong_policy_is_named(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        RestartPolicy(**fields)  # type: ignore[arg-type]


async def until_replaced(starter: FakeStarter, supervised: SupervisedEngine, engines: int) -> None:
    while len(starter.engines) < engines or not supervised.is_running:  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def test_a_new_engine_gets_the_weights_of_the_last_update(
    starter: FakeStarter, supervised: SupervisedEngine
) -> None:
    await supervised.check_health()
    await supervised.update_weights(Path("/new"), 7)
    assert supervised.weights_version == 7
    starter.engines[0].dead = True
    await until_replaced(starter, supervised, 2)
    assert starter.engines[1].updates == [Path("/new")]
    assert starter.engines[1].weights_version == supervised.weights_version == 7


async def test_an_engine_whose_update_failed_is_replaced_by_one_with_the_old_weights(
    starter: FakeStarter, supervised: SupervisedEngine
) -> None:
    await supervised.update_weights(Path("/old"), 1)
    starter.engines[0].update_error = EngineError("half of them")
    with pytest.raises(EngineError, match="half of them"):
        await supervised.update_weights(Path("/new"), 2)
    assert starter.engines[0].killed
    await until_replaced(starter, supervised, 2)
    assert starter.engines[1].updates == [Path("/old")]
    assert supervised.weights_version == 1


async def test_an_update_waits_for_a_new_engine(starter: FakeStarter, supervised: SupervisedEngine) -> None:
    await supervised.check_health()
    starter.hanging_starts = 1
    starter.engines[0].dead = True
    while supervised.is_running:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    update = asyncio.create_task(supervised.update_weights(Path("/new"), 3))
    await asyncio.sleep(0.05)
    assert not update.done()
    while not starter.timeouts:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    starter.go_on.set()
    await update
    assert starter.engines[-1].updates == [Path("/new")]
    assert len(starter.engines) == 2


async def test_an_engine_that_ends_while_it_loads_weights_holds_nothing_up(
    starter: FakeStarter, supervised: SupervisedEngine
) -> None:
    """As vLLM, whose calls never return then."""
    await supervised.check_health()
    starter.engines[0].update_answers = False
    update = asyncio.create_task(supervised.update_weights(Path("/new"), 1))
    await asyncio.sleep(0.05)
    assert not update.done()
    starter.engines[0].dead = True
    with pytest.raises(EngineStoppedError, match="ended while it loaded new weights"):
        await update
    await until_replaced(starter, supervised, 2)
    assert starter.engines[1].updates == []
    await supervised.update_weights(Path("/new"), 1)
    assert starter.engines[1].updates == [Path("/new")]


async def test_an_update_that_is_cancelled_leaves_the_old_weights(
    starter: FakeStarter, supervised: SupervisedEngine
) -> None:
    await supervised.check_health()
    starter.engines[0].update_answers = False
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(supervised.update_weights(Path("/new"), 1), 0.05)
    assert starter.engines[0].killed
    await until_replaced(starter, supervised, 2)
    assert (starter.engines[1].updates, supervised.weights_version) == ([], 0)


async def test_a_new_engine_that_does_not_load_the_weights_is_given_up(
    starter: FakeStarter, supervised: SupervisedEngine
) -> None:
    await supervised.update_weights(Path("/new"), 1)
    supervised._start_timeout = 0.1
    starter.update_answers = False
    starter.engines[0].dead = True
    while len(starter.engines) < 3:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    starter.update_answers = starter.engines[2].update_answers = True
    await until_replaced(starter, supervised, 4)
    assert starter.engines[1].killed
    assert starter.engines[-1].updates == [Path("/new")]
