"""The state of optimizer and schedule in a run whose parameters, their order or their options may have changed."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any

import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

#: What an optimizer's saved state has beside torch's own: its class, and the options that its groups began with.
_CLASS, INITIAL = "class", "initial_options"
#: Options of torch's optimizers with which they keep more of each parameter, and read it without asking.
_KEEPS_MORE = ("amsgrad", "momentum", "centered")


def resumable(optimizer: Optimizer) -> Optimizer:
    """Makes an optimizer save what it is, and take up a saved state by the names of the parameters.

    Torch matches parameters by position alone, so that with tasks in another order heads of equal shape would take each
    other's moments, and it overwrites the options of the groups, so that a new learning rate would be ignored.

    Args:
        optimizer: Its groups name their parameters (``param_names``).
    """
    initial = [options_of(group) for group in optimizer.param_groups]

    def saved(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return state | {_CLASS: type(optimizer).__name__, INITIAL: initial}

    def taken_up(optimizer: Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        return match_optimizer_state(optimizer, state, initial)

    optimizer.register_state_dict_post_hook(saved)
    optimizer.register_load_state_dict_pre_hook(taken_up)
    return optimizer


def match_optimizer_state(
    optimizer: Optimizer, saved: Mapping[str, Any], initial: list[dict[str, Any]]
) -> dict[str, Any]:
    """A saved state for the parameters that an optimizer has now; options that the config has changed are the config's.

    Args:
        optimizer: Whose state it shall become.
        saved: With ``param_names`` in its groups; see `name_parameters` for that of an earlier release.
        initial: The options that the groups of `optimizer` began with.

    Returns:
        Parameters that were not there before have no state, which is how an optimizer begins.
    """
    now = {key: value for key, value in optimizer.state_dict().items() if key in ("state", "param_groups")}
    kind = saved.get(_CLASS, type(optimizer).__name__)
    if kind != type(optimizer).__name__:
        rank_zero_warn(f"The optimizer was {kind}, and {type(optimizer).__name__} begins without its state.")
        return now
    for option in _KEEPS_MORE:
        if any(group.get(option) for group in now["param_groups"]) and not any(
            group.get(option) for group in saved["param_groups"]
        ):
            rank_zero_warn(f"{kind} had no {option} before, and begins without its state.")
            return now
    by_name, group_of = _by_name(saved)
    shapes = {
        name: parameter.shape
        for group in optimizer.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }
    for index, name in _indices(now):
        found = by_name.get(name)
        if found and all(v.shape in (shapes[name], torch.Size()) for v in found.values() if isinstance(v, Tensor)):
            now["state"][index] = found
    for group, begun_with in zip(now["param_groups"], initial, strict=True):
        before = next((group_of[name] for name in group["param_names"] if name in group_of), None)
        if before is not None:
            began_with = saved[INITIAL][before] if INITIAL in saved else {}
            for key, value in options_of(saved["param_groups"][before]).items():
                # a schedule moves options on from where they began: that counts, unless the config has changed them
                if key in begun_with and began_with.get(key, begun_with[key]) == begun_with[key]:
                    group[key] = value
    return now


def name_parameters(saved: dict[str, Any], shapes: Mapping[str, torch.Size]) -> None:
    """Names the parameters in the optimizer state of an earlier release, which had AdamW, in place.

    Its groups were those of the encoder and of all else where these had different rates, and in each the matrices and
    the vectors where weights decayed; all in the order of the module.

    Args:
        saved: The state; one that has names is left as it is.
        shapes: Of the parameters that the checkpoint has, in its order.
    """
    groups = saved["param_groups"]
    if all("param_names" in group for group in groups):
        return
    for names in _groupings(shapes):
        if [len(group["params"]) for group in groups] == list(map(len, names)) and all(
            saved["state"][i]["exp_avg"].shape == shapes[name]
            for group, members in zip(groups, names, strict=True)
            for i, name in zip(group["params"], members, strict=True)
            if i in saved["state"]
        ):
            for group, members in zip(groups, names, strict=True):
                group["param_names"] = members
            return
    rank_zero_warn(
        "The checkpoint is of an earlier release, which did not name the parameters of its optimizer, and they cannot "
        "be told apart: the optimizer begins without state."
    )
    saved |= {"state": {}, "param_groups": [group | {"params": [], "param_names": []} for group in groups]}


def match_schedule(schedule: LRScheduler, saved: dict[str, Any], initial: Mapping[str, Any] | None) -> None:
    """Replaces in the saved state of a schedule that goes by a metric what the config has changed, in place.

    Args:
        schedule: New.
        saved: The state.
        initial: The state that the saved one began with; None where it is not known.
    """
    for key, value in schedule.state_dict().items():
        if initial is not None and initial.get(key) != value:
            saved[key] = value


def advance(optimizer: Optimizer, schedule: LRScheduler, rounds: int) -> list[dict[str, Any]]:
    """Brings a new schedule to where it would be had it been there for so many rounds.

    Most schedules go from one rate to the next, so that only the rounds before lead to the rate of a round.

    Args:
        optimizer: New, that of the schedule.
        schedule: One that goes by a metric begins, since it knows of none yet.
        rounds: As many as were trained.

    Returns:
        The options that the schedule has moved, by group of the optimizer.
    """
    before = [options_of(group) for group in optimizer.param_groups]
    if isinstance(schedule, ReduceLROnPlateau):
        rounds = 0
    elif isinstance(schedule, LambdaLR):  # goes by the number of the round alone
        schedule.last_epoch, schedule._step_count, rounds = rounds - 1, rounds, 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the optimizer has made no step
        for _ in range(rounds):
            schedule.step()
    return [
        {key: value for key, value in options_of(group).items() if key == "lr" or value != begun.get(key)}
        for group, begun in zip(optimizer.param_groups, before, strict=True)
    ]


def parameter_shapes(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, torch.Size]:
    """Shapes of the parameters in a saved state, in its order; buffers are known by those of the module."""
    buffers = {name.rpartition(".")[2] for name, _ in module.named_buffers()}
    return {
        name: value.shape
        for name, value in state.items()
        if name.rpartition(".")[2] not in buffers and value.is_floating_point()
    }


def options_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """The options of a group of an optimizer, without its parameters."""
    return {key: value for key, value in group.items() if key not in ("params", "param_names")}


def _indices(state: Mapping[str, Any]) -> Iterator[tuple[int, str]]:
    for group in state["param_groups"]:
        yield from zip(group["params"], group["param_names"], strict=True)


def _by_name(saved: Mapping[str, Any]) -> tuple[dict[str, dict[str, Any]], dict[str, int]]:
    """The state of every parameter, and the group that it was in."""
    states = {name: saved["state"][index] for index, name in _indices(saved) if index in saved["state"]}
    groups = {name: i for i, group in enumerate(saved["param_groups"]) for name in group["param_names"]}
    return states, groups


def _groupings(shapes: Mapping[str, torch.Size]) -> Iterator[list[list[str]]]:
    """How the parameters may have been grouped."""
    encoder = [name for name in shapes if name.startswith("model.encoder.")]
    others = [name for name in shapes if not name.startswith("model.encoder.")]
    for parts in ([list(shapes)], *map(list, permutations((others, encoder)))):
        yield parts
        yield [[n for n in part if (len(shapes[n]) > 1) == matrices] for part in parts for matrices in (True, False)]
