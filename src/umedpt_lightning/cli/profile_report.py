"""What a run will cost, as a page of text."""

from __future__ import annotations

from datetime import timedelta

from rich import box
from rich.console import Console
from rich.table import Table

from umedpt_lightning.cli.run_cost import RunCost

_WIDEST = 400


def show(cost: RunCost) -> None:
    """Prints a table of the tasks and what follows from it."""
    console, table = Console(), _table(cost)
    # numbers that are cut off say nothing: a line that the terminal breaks does
    console.width = max(console.width, console.measure(table, options=console.options.update(width=_WIDEST)).maximum)
    console.print(table)
    for line in _lines(cost):
        print(line)


def _table(cost: RunCost) -> Table:
    title = f"milliseconds and MiB a micro-batch on {cost.device}, {cost.precision}"
    table = Table("task", title=title, title_justify="left", show_footer=True)
    table.box, table.padding = box.SIMPLE_HEAD, (0, 1, 0, 0)
    table.columns[0].footer = "a round"
    count = sum(task.micro_batches for task in cost.tasks.values())
    footers = {"a round": f"{count:g}"}
    phases = {"load": "load", "wait": "waiting", "copy": "transfer", "forward": "forward", "backward": "backward"}
    footers |= {heading: _ms(cost.per_round(phase)) for heading, phase in phases.items()}
    on_device = any(task.device_bytes for task in cost.tasks.values())
    headings = ["images", "a round", *phases, "batch", "saved", *(["device"] if on_device else [])]
    for heading in headings:
        table.add_column(heading, footers.get(heading, ""), justify="right", no_wrap=True)
    for name, task in cost.tasks.items():
        batch, channels, height, width = task.images
        load = cost.loading.get(name)
        cells = [f"{batch}x{channels}x{height}x{width}", f"{task.micro_batches:g}"]
        cells += ["none" if load is None else _ms(load)]
        cells += map(_ms, (task.waiting, task.transfer, task.forward, task.backward))
        cells += map(_mib, (task.batch_bytes, task.saved_bytes))
        table.add_row(name, *cells, *([_mib(task.device_bytes)] if on_device else []))
    return table


def _lines(cost: RunCost) -> list[str]:
    lines = [
        f"round:  {_ms(cost.round)} ms = micro-batches {_ms(cost.compute - cost.step)}, optimizer and the rest "
        f"{_ms(cost.step)}, waiting for data {_ms(cost.waiting)}; {cost.samples_per_second:.0f} samples/s",
        f"bound:  by the {_bound(cost)}",
    ]
    epoch = f"epoch:  {_time(cost.epoch)} = {cost.epoch_rounds:,} rounds"
    if cost.validations_per_epoch:
        epoch += f" and {cost.validations_per_epoch:g} times {_time(cost.validation)} of validation"
    lines += [epoch, f"run:    {_time(cost.run)} for {cost.run_rounds:,} rounds"]
    memory = ", ".join(f"{_mib(peak)} MiB of the {where}" for where, peak in cost.peak_bytes.items())
    lines.append(f"memory: at most {memory}; workers have their own")
    if unseen := [name for name in cost.samples if name not in cost.tasks]:
        lines.append(f"not measured, since they did not come up: {', '.join(unseen)}. Give more --rounds.")
    return lines


def _bound(cost: RunCost) -> str:
    load = cost.per_round("load")
    if cost.bound == "model":
        return f"model; reading a round takes a process {_ms(load)} ms, and data.num_workers is {cost.workers}"
    return (
        f"loader: data.num_workers is {cost.workers}, and reading a round takes a process {_ms(load)} ms. "
        f"{cost.workers_needed} with a core each would keep up"
    )


def _ms(seconds: float) -> str:
    milliseconds = 1000 * seconds
    return f"{milliseconds:.2f}" if milliseconds < 10 else f"{milliseconds:,.0f}"


def _mib(size: int) -> str:
    mib = size / 2**20
    return f"{mib:.2f}" if mib < 10 else f"{mib:,.0f}"


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds < 60 else str(timedelta(seconds=round(seconds)))
