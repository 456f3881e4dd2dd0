"""Which samples are read when."""

from __future__ import annotations

from collections import Counter
from itertools import chain, islice

import pytest

from umedpt_lightning.data.loading.sampling import (
    EvaluationSampler,
    RoundSampler,
    SampleKey,
    TaskSamples,
    TaskStream,
    derive_seed,
)
from umedpt_lightning.data.loading.schedule import RoundRobin, SomeTasks, TaskSize

SIZES = [1, 2, 7, 12]
BATCH_SIZES = [1, 3, 12, 30]
WORLD_SIZES = [1, 2, 3, 5]
any_size = pytest.mark.parametrize("size", SIZES)
any_batch_size = pytest.mark.parametrize("batch_size", BATCH_SIZES)
any_world_size = pytest.mark.parametrize("world_size", WORLD_SIZES)


def share(task: str = "a", size: int = 10, batch_size: int = 2, seed: int = 0) -> TaskSamples:
    return TaskSamples(TaskStream(task, size, seed), batch_size)


def sampler_of(*shares: TaskSamples, ranks: tuple[int, int] = (0, 1), **micro_batches: int) -> RoundSampler:
    """Every task in every round; `ranks` is the rank and their number."""
    by_task = {share.stream.task: share for share in shares}
    sizes = {task: TaskSize(share.stream.size, micro_batches.get(task, 1)) for task, share in by_task.items()}
    return RoundSampler(by_task, RoundRobin(sizes), *ranks)


def read(sampler: RoundSampler, rounds: int) -> list[list[SampleKey]]:
    """The micro-batches of the next rounds, which are counted."""
    batches = iter(sampler)
    return [batch for _ in range(rounds) for batch in islice(batches, len(sampler.advance().mine))]


def of(task: str, batches: list[list[SampleKey]]) -> list[SampleKey]:
    return [key for batch in batches for key in batch if key.task == task]


# --- the stream -----------------------------------------------------------------------------------------------------


@any_size
def test_each_pass_has_every_sample_exactly_once(size: int) -> None:
    stream = TaskStream("a", size, seed=3)
    for passed in range(5):
        assert sorted(stream[passed * size + i].item for i in range(size)) == list(range(size))


def test_passes_tasks_and_seeds_differ_in_order() -> None:
    streams = [TaskStream("a", 30, 0), TaskStream("b", 30, 0), TaskStream("a", 30, 1)]
    orders = [tuple(s[passed * 30 + i].item for i in range(30)) for s in streams for passed in range(3)]
    assert len(set(orders)) == len(orders)


def test_no_two_samples_of_any_pass_task_or_seed_share_an_augmentation_seed() -> None:
    keys = [TaskStream(t, 50, s)[i] for t in "ab" for s in range(2) for i in range(200)]
    assert len({key.seed for key in keys}) == len(keys)


def test_a_stream_is_a_function_of_its_arguments_wherever_one_starts() -> None:
    forward, backward = TaskStream("a", 7, 0), TaskStream("a", 7, 0)
    assert [forward[i] for i in range(40)] == [backward[i] for i in reversed(range(40))][::-1]
    assert TaskStream("a", 7, 0)[10**12] == forward[10**12]


def test_derived_seeds_tell_a_part_from_its_text_and_its_place() -> None:
    parts = [(1, 2), (2, 1), ("1", 2), (12,), (1, "2"), ("a", 1), ("a1",)]
    assert len({derive_seed(*p) for p in parts}) == len(parts)
    assert derive_seed(0, "a", 0) == 330081576  # so that runs of years ago can be repeated


# --- rounds ---------------------------------------------------------------------------------------------------------


@any_batch_size
@any_size
def test_micro_batches_read_every_sample_once_a_pass_also_where_they_are_larger_than_the_data(
    size: int, batch_size: int
) -> None:
    passes = 6
    batches = read(sampler_of(share(size=size, batch_size=batch_size)), passes * size)
    assert all(len(batch) == batch_size for batch in batches)
    items = [key.item for key in of("a", batches)][: passes * size]
    for passed in range(passes):
        assert sorted(items[passed * size : (passed + 1) * size]) == list(range(size))


@any_world_size
@any_batch_size
def test_the_ranks_together_read_what_one_process_reads(batch_size: int, world_size: int) -> None:
    rounds = 4
    ranks = [sampler_of(share(batch_size=batch_size), ranks=(rank, world_size)) for rank in range(world_size)]
    by_rank = [read(rank, rounds) for rank in ranks]
    together = [key for turn in zip(*by_rank, strict=True) for batch in turn for key in batch]
    alone = of("a", read(sampler_of(share(batch_size=batch_size * world_size)), rounds))
    assert together == alone
    assert all(rank.consumed == {"a": len(alone)} for rank in ranks)


@pytest.mark.parametrize("done", [0, 1, 5, 17])
def test_going_on_from_any_counter_is_as_never_having_stopped(done: int) -> None:
    def new() -> RoundSampler:
        return sampler_of(share("a", 5, 3), share("b", 11, 2), b=2)

    whole = new()
    read(whole, done)
    resumed = new()
    resumed.rounds, resumed.consumed = done, dict(whole.consumed)
    assert read(resumed, 9) == read(whole, 9)


def test_going_on_with_another_number_of_ranks_repeats_and_skips_nothing() -> None:
    first = [sampler_of(share(), ranks=(rank, 2)) for rank in range(2)]
    before = [key for turn in zip(*(read(s, 3) for s in first), strict=True) for batch in turn for key in batch]
    later = [sampler_of(share(), ranks=(rank, 3)) for rank in range(3)]
    for sampler in later:
        sampler.consumed = dict(first[0].consumed)
    after = [key for turn in zip(*(read(s, 2) for s in later), strict=True) for batch in turn for key in batch]
    stream = TaskStream("a", 10, 0)
    assert before + after == [stream[i] for i in range(len(before) + len(after))]


def test_the_iterator_goes_from_the_counters_as_they_were_when_it_was_made() -> None:
    sampler = sampler_of(share())
    iterator = iter(sampler)
    sampler.advance()
    assert next(iterator) == [TaskStream("a", 10, 0)[i] for i in range(2)]


def test_one_more_task_changes_nothing_for_the_others() -> None:
    few = sampler_of(share("a"), share("c", 7))
    many = sampler_of(share("a"), share("b", 3, 5), share("c", 7))
    batches = read(few, 10), read(many, 10)
    for task in "ac":
        assert of(task, batches[0]) == of(task, batches[1])


def test_a_round_has_each_tasks_micro_batches_one_task_after_the_other() -> None:
    sampler = sampler_of(share("a"), share("b"), a=2)
    assert [[key.task for key in batch] for batch in read(sampler, 2)] == [["a"] * 2, ["a"] * 2, ["b"] * 2] * 2
    assert sampler.consumed == {"a": 8, "b": 4}
    assert sampler.rounds == 2


@any_world_size
@any_batch_size
@any_size
def test_as_many_rounds_as_promised_read_the_longest_task_once_and_one_fewer_does_not(
    size: int, batch_size: int, world_size: int
) -> None:
    sampler = sampler_of(share("a", size, batch_size), share("b", 1, 1), ranks=(0, world_size), a=2)
    rounds = sampler.rounds_in_a_pass()
    in_a_round = batch_size * world_size * 2
    assert rounds * in_a_round >= size
    assert (rounds - 1) * in_a_round < size


# --- evaluation -----------------------------------------------------------------------------------------------------


@any_world_size
@any_batch_size
def test_evaluation_reads_every_sample_exactly_once_over_all_ranks(batch_size: int, world_size: int) -> None:
    sizes = {"a": 7, "b": 1, "c": 12}
    samplers = [EvaluationSampler(sizes, dict.fromkeys(sizes, batch_size), r, world_size) for r in range(world_size)]
    assert len(samplers[0].batches) == len(samplers[0])  # Lightning goes by it, and must do the same on all ranks
    assert all(len(sampler.batches) <= len(sampler) == len(samplers[0]) for sampler in samplers)
    batches = list(chain.from_iterable(samplers))
    found = Counter((key.task, key.item) for batch in batches for key in batch)
    assert found == Counter((task, i) for task, size in sizes.items() for i in range(size))
    assert all(0 < len(batch) <= batch_size and len({key.task for key in batch}) == 1 for batch in batches)


def test_the_ranks_have_the_same_number_of_samples_give_or_take_one() -> None:
    counts = [sum(map(len, EvaluationSampler({"a": 17}, {"a": 4}, rank, 5))) for rank in range(5)]
    assert max(counts) - min(counts) <= 1


def test_evaluation_shows_every_task_in_its_first_turn() -> None:
    sizes = {"a": 100, "b": 3, "c": 50}
    batches = list(EvaluationSampler(sizes, {"a": 2, "b": 2, "c": 4}))
    assert [batch[0].task for batch in batches[:3]] == ["a", "b", "c"]


def test_evaluation_reads_the_same_every_time() -> None:
    sampler = EvaluationSampler({"a": 9}, {"a": 2})
    assert list(sampler) == list(sampler)
    assert [key.item for batch in sampler for key in batch] == list(range(9))


# --- ranks that share out tasks -------------------------------------------------------------------------------------


def sharing_tasks(rank: int, world_size: int) -> RoundSampler:
    shares = {"a": share("a", 5, 3), "b": share("b", 11, 2), "c": share("c", 4, 4)}
    sizes = {task: TaskSize(s.stream.size, 2 if task == "b" else 1) for task, s in shares.items()}
    return RoundSampler(shares, SomeTasks(sizes, 2), rank, world_size, "tasks")


@any_world_size
def test_ranks_that_share_out_tasks_read_together_what_one_process_reads(world_size: int) -> None:
    ranks = [sharing_tasks(rank, world_size) for rank in range(world_size)]
    for sampler in ranks:
        sampler.costs = {"a": 1.0, "b": 0.1, "c": 3.0}
    rounds = 12
    by_rank, alone = [read_whole(sampler, rounds) for sampler in ranks], read_whole(sharing_tasks(0, 1), rounds)
    for number in range(rounds):
        assert sorted(chain.from_iterable(rank[number] for rank in by_rank)) == sorted(alone[number])
    assert all(sampler.consumed == ranks[0].consumed and sampler.rounds == rounds for sampler in ranks)
    assert ranks[0].rounds_in_a_pass() == sharing_tasks(0, 1).rounds_in_a_pass()


def read_whole(sampler: RoundSampler, rounds: int) -> list[list[list[SampleKey]]]:
    """The micro-batches of this rank, by round."""
    batches = iter(sampler)
    return [list(islice(batches, len(sampler.advance().mine))) for _ in range(rounds)]


def test_going_from_shared_tasks_to_shared_samples_and_back_repeats_and_skips_nothing() -> None:
    before = [sharing_tasks(rank, 2) for rank in range(2)]
    keys = [key for sampler in before for batch in chain.from_iterable(read_whole(sampler, 5)) for key in batch]
    after = RoundSampler(before[0].tasks, before[0].schedule)
    after.rounds, after.consumed = 5, dict(before[0].consumed)
    keys += [key for batch in chain.from_iterable(read_whole(after, 5)) for key in batch]
    for task, shared in after.tasks.items():
        expected = [shared.stream[i] for i in range(after.consumed[task])]
        assert sorted(of(task, [keys])) == sorted(expected)
