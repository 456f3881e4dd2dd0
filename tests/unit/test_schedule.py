"""Which tasks are in which round."""

from __future__ import annotations

import json
import math
from collections import Counter
from functools import partial
from itertools import pairwise

import pytest

from umedpt_lightning.data.loading.follow_validation import FollowValidation
from umedpt_lightning.data.loading.sampling import RoundSampler, TaskSamples, TaskStream
from umedpt_lightning.data.loading.schedule import (
    Fixed,
    Proportional,
    RoundRobin,
    Schedule,
    ScheduleFactory,
    SomeTasks,
    TaskSize,
    rounds_until,
)
from umedpt_lightning.types import TaskRate

#: From a hundred samples to a hundred thousand, some of one size.
SIZES = {f"t{i}": TaskSize(100 * 10 ** (i % 4), 1 + i % 3) for i in range(7)}
SCHEDULES: dict[str, ScheduleFactory] = {
    "round_robin": RoundRobin,
    "fixed": partial(Fixed, micro_batches={task: 1 + i for i, task in enumerate(SIZES)}),
    "one_task": partial(SomeTasks, per_round=1),
    "three_tasks": partial(SomeTasks, per_round=3),
    "all_but_one": partial(SomeTasks, per_round=6),
    "all_tasks": partial(SomeTasks, per_round=7),
    "by_size": partial(Proportional, per_round=64),
    "tempered": partial(Proportional, temperature=5.0, per_round=16),
    "one_micro_batch": partial(Proportional, temperature=5.0, per_round=1),
    "following": FollowValidation,
    "even": partial(Proportional, temperature=math.inf),
}
any_schedule = pytest.mark.parametrize("factory", SCHEDULES.values(), ids=SCHEDULES)


def realised(schedule: Schedule, rounds: range) -> Counter[str]:
    """Micro-batches of each task in some rounds."""
    return sum((Counter(schedule.round(number)) for number in rounds), Counter())


@any_schedule
def test_after_a_thousand_rounds_every_share_is_within_a_percent_and_never_off_by_more_than_two_turns(
    factory: ScheduleFactory,
) -> None:
    schedule = factory(SIZES)
    found: Counter[str] = Counter()
    for rounds in range(1, 1001):
        found.update(schedule.round(rounds - 1))
        for task, rate in schedule.rates.items():
            assert abs(found[task] / rate.micro_batches - rounds * rate.turns) < 2.5
    for task, rate in schedule.rates.items():
        requested = 1000 * rate.turns * rate.micro_batches
        # where one micro-batch more is more than a percent, it is that one
        assert abs(found[task] / requested - 1) <= 0.01 or abs(found[task] - requested) < 2.5, task


@any_schedule
def test_a_round_depends_on_its_number_alone(factory: ScheduleFactory) -> None:
    forward, backward = factory(SIZES), factory(SIZES)
    assert [forward.round(n) for n in range(60)] == [backward.round(n) for n in reversed(range(60))][::-1]
    assert factory(SIZES).round(10**9) == forward.round(10**9)


@any_schedule
@pytest.mark.parametrize("number", [0, 1, 6, 7, 50, 20_000, 10**9])
def test_a_round_is_what_lies_between_two_counts(factory: ScheduleFactory, number: int) -> None:
    schedule = factory(SIZES)
    earlier, later = (
        Counter({task: turns * schedule.rates[task].micro_batches for task, turns in schedule.before(n).items()})
        for n in (number, number + 30)
    )
    assert realised(schedule, range(number, number + 30)) == later - earlier
    assert all(
        list(schedule.rates).index(a) < list(schedule.rates).index(b) for a, b in pairwise(schedule.round(number))
    )


@any_schedule
def test_no_task_waits_much_longer_than_its_share_says(factory: ScheduleFactory) -> None:
    schedule = factory(SIZES)
    last = dict.fromkeys(SIZES, -1)
    for number in range(1000):
        for task in schedule.round(number):
            last[task] = number
        for task, rate in schedule.rates.items():
            assert number - last[task] <= 2 / rate.turns + 2, task


@any_schedule
@pytest.mark.parametrize("world_size", [1, 3])
def test_after_as_many_rounds_as_promised_every_task_has_been_read_once_and_one_earlier_not(
    factory: ScheduleFactory, world_size: int
) -> None:
    sizes = {task: size._replace(samples=size.samples // 10) for task, size in SIZES.items()}
    shares = {task: TaskSamples(TaskStream(task, size.samples, 0), 4) for task, size in sizes.items()}
    sampler = RoundSampler(shares, factory(sizes), 0, world_size)
    rounds = sampler.rounds_in_a_pass()
    for _ in range(rounds - 1):
        sampler.advance()
    assert any(sampler.consumed[task] < size.samples for task, size in sizes.items())
    sampler.advance()
    assert all(sampler.consumed[task] >= size.samples for task, size in sizes.items())


def test_by_default_every_task_is_in_every_round_with_its_micro_batches() -> None:
    assert RoundRobin(SIZES).round(5) == {task: size.micro_batches for task, size in SIZES.items()}


@pytest.mark.parametrize("per_round", [1, 2, 3, 5, 7])
def test_some_tasks_come_in_passes_each_in_another_order_and_never_twice_in_a_round(per_round: int) -> None:
    schedule = SomeTasks(SIZES, per_round)
    rounds = [schedule.round(number) for number in range(7 * 30)]
    for round_ in rounds:
        assert round_ == {task: SIZES[task].micro_batches for task in round_}
        assert len(round_) == per_round
    for passes in range(1, 7 * 30 * per_round // 7):  # at its end every task has been there so many times, or is now
        turns = schedule.before(passes * 7 // per_round)
        assert set(turns.values()) <= {passes - 1, passes}
    orders = [tuple(schedule._order(cycle)) for cycle in range(5)]
    passes = [order[i : i + 7] for order in orders for i in range(0, len(order), 7)]
    assert all(sorted(order) == sorted(SIZES) for order in passes)
    assert len(set(passes)) >= len(passes) - 1
    assert SomeTasks(SIZES, 2, seed=1).round(0) != SomeTasks(SIZES, 2, seed=2).round(0)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, math.inf])
def test_a_share_is_a_power_of_the_size(temperature: float) -> None:
    rates = Proportional({"small": TaskSize(100, 9), "large": TaskSize(1600, 9)}, temperature, 10).rates
    assert rates["large"].turns / rates["small"].turns == pytest.approx(16 ** (1 / temperature))
    assert sum(p.turns for p in rates.values()) == pytest.approx(10)
    assert {p.micro_batches for p in rates.values()} == {1}


def test_tasks_of_equal_share_do_not_come_all_at_once() -> None:
    sizes = {"large": TaskSize(6300)} | {f"small{i}": TaskSize(100) for i in range(63)}
    schedule = Proportional(sizes, per_round=8)
    assert all(3 <= schedule.round(number)["large"] <= 5 for number in range(200))


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (partial(Fixed, micro_batches={"a": 1, "c": 1}), r"data\.schedule: Fixed names 'c'.*There are a, b"),
        (partial(Fixed, micro_batches={"a": 1, "b": 0}), r"data\.schedule: Fixed gives task 'b' 0 micro-batches"),
        (partial(Fixed, micro_batches={"a": 1}), r"data\.schedule: Fixed gives task 'b' no micro-batches"),
        (partial(SomeTasks, per_round=3), r"data\.schedule: SomeTasks .* 3 tasks.* there are 2 .*from 1 to 2"),
        (partial(SomeTasks, per_round=0), r"data\.schedule: SomeTasks .* 0 tasks"),
        (partial(Proportional, temperature=0), r"data\.schedule: the temperature .* positive, but it is 0"),
        (partial(Proportional, temperature=math.nan), r"data\.schedule: the temperature .* it is nan"),
        (partial(Proportional, temperature=0.05), r"data\.schedule: the share of task 'a' is practically zero"),
        (partial(Proportional, per_round=0), r"data\.schedule: Proportional .* 0 micro-batches a round"),
    ],
)
def test_what_does_not_fit_the_tasks_is_told(factory: ScheduleFactory, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        factory({"a": TaskSize(10), "b": TaskSize(100)})


@pytest.mark.parametrize("smallest", [1, 2, 3, 7, 8, 9, 1000])
def test_the_first_number_of_rounds_that_is_enough_is_found(smallest: int) -> None:
    assert rounds_until(lambda rounds: rounds >= smallest) == smallest


def test_schedules_of_earlier_releases_work_and_are_told_of_the_new_name() -> None:
    from umedpt_lightning import types

    with pytest.warns(FutureWarning, match="Pace is `TaskRate` now"):
        old = types.Pace

    class Own(Schedule):
        def __init__(self) -> None:
            self.pace = {"a": old(1.0, 2)}

        def before(self, number: int) -> dict[str, int]:
            return {"a": number}

    with pytest.warns(FutureWarning, match="Schedule.pace is called `rates`"):
        own = Own()
    assert own.round(0) == {"a": 2}
    with pytest.warns(FutureWarning, match="Schedule.pace is called `rates`"):
        assert own.pace == own.rates == {"a": TaskRate(1.0, 2)}


# --- one that follows validation --------------------------------------------------------------------------------------

THREE = {name: TaskSize(10, micro_batches) for name, micro_batches in (("done", 1), ("lags", 2), ("learns", 1))}


def followed(validations: int, per_round: int | None = None) -> FollowValidation:
    """One task does not fall any more, one falls slowly, one quickly; ten rounds from one validation to the next."""
    schedule = FollowValidation(THREE, per_round)
    for number in range(validations):
        schedule.follow({"done": 0.5, "lags": 1 - 0.01 * number, "learns": 0.8**number}, 10 * (number + 1))
    return schedule


def test_what_lags_gets_more_turns_and_what_has_stopped_gets_fewer_within_bounds() -> None:
    amounts = followed(4).amounts
    assert amounts["done"] < 1 < amounts["lags"]
    assert amounts["learns"] == 1
    schedule = followed(30)
    assert schedule.amounts == {"done": 0.5, "lags": 2.0, "learns": 1.0}
    turns = realised(schedule, range(300, 1000))
    assert turns["lags"] / 2 / turns["done"] == pytest.approx(4, rel=0.02)  # two micro-batches a turn
    assert turns["done"] + turns["lags"] / 2 + turns["learns"] == 700 * 3


@pytest.mark.parametrize("per_round", [1, 3, 8])
def test_rounds_before_a_change_stay_as_they_were_and_no_turn_is_lost(per_round: int) -> None:
    schedule, turns = FollowValidation(THREE, per_round), Counter[str]()
    for number in range(200):
        if number and number % 10 == 0:
            before = schedule.before(number)
            schedule.follow({"done": 0.5, "lags": 1 - 0.001 * number, "learns": 0.99**number}, number)
            assert schedule.before(number) == before
        in_round = {task: count // schedule.rates[task].micro_batches for task, count in schedule.round(number).items()}
        assert sum(in_round.values()) == per_round
        turns.update(in_round)
        assert Counter(schedule.before(number + 1)) == turns


def test_it_goes_on_exactly_and_takes_tasks_that_come_and_go() -> None:
    schedule, again = followed(6), FollowValidation(THREE)
    again.load_state_dict(json.loads(json.dumps(schedule.state_dict())))
    assert [again.round(number) for number in range(60, 160)] == [schedule.round(n) for n in range(60, 160)]
    losses = {"done": 0.4, "lags": 0.9, "learns": 0.1}
    assert again.follow(losses, 160) == schedule.follow(losses, 160)
    assert again.state_dict() == schedule.state_dict()
    other = FollowValidation({"lags": THREE["lags"], "new": THREE["done"]})
    other.load_state_dict(schedule.state_dict())
    assert other.amounts == {"lags": schedule.amounts["lags"], "new": 1.0}
    assert sum(other.before(170).values()) - sum(other.before(160).values()) == 20
    other.load_state_dict({})  # of another schedule
    assert other.amounts["new"] == 1.0


def test_a_loss_that_is_not_finite_and_a_task_without_validation_change_nothing() -> None:
    schedule = FollowValidation(THREE)
    for number in range(1, 6):
        assert not schedule.follow({"done": math.nan, "other": 1.0}, number)
    assert set(schedule.amounts.values()) == {1.0}


def test_a_task_has_stopped_where_it_has_not_been_better_than_its_best_for_some_validations() -> None:
    schedule, amounts = FollowValidation(THREE), []
    for number, loss in enumerate([1.0, 0.5, math.nan, 0.8, 0.4999, 0.3]):  # the last but one is hardly better
        schedule.follow({"done": loss}, number)
        amounts.append(schedule.amounts["done"])
    assert amounts == [1, 1, 1, 1, 0.8, 0.8]


@pytest.mark.parametrize("options", [{"lowest": 0.0}, {"highest": 0.9}, {"factor": 1.0}, {"patience": 0}])
def test_bounds_that_make_no_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="of FollowValidation lowest must be above 0"):
        FollowValidation(THREE, **options)  # type: ignore[arg-type]
