"""The time until an event, such as death or a relapse, which is not seen of all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.labels.base import Figures, TaskSpec
from umedpt_lightning.labels.findings import CORRECT_READER, Finding
from umedpt_lightning.labels.numbers import as_vector, quantiles
from umedpt_lightning.labels.views import Bar, Line, Number, PageView, View
from umedpt_lightning.labels.wording import percent, readable_spread, spread

_TARGET = ("time", "event")


@dataclass(frozen=True, kw_only=True)
class SurvivalSpec(TaskSpec):
    """The time until an event; a target is ``(2,)`` float32: the time, and 1 for an event or 0 for a censored time.

    A prediction is ``(1 + T,)``: the risk, which is the share of the time until the last of `edges` that is expected to
    be lost, and the probability that nothing has happened until each of `shown_times`.

    Attributes:
        time_unit: In what times are, such as months.
        intervals: Time is cut into so many, with about as many events in each; fewer where there are few events.
        times: At which predictions state the survival, in that unit; empty for three quartiles of the events.
        edges: ``(K,)`` where the intervals end; the last is the time of the last event.
        events: ``(K,)`` how many were seen in each interval.
        survivors: ``(K,)`` of how many it is known that they had none in it.
        samples_seen: How many samples these are of.
    """

    kind: ClassVar[str] = "survival"
    title: ClassVar[str] = "time to an event"  # `hub_type` stays "other"

    time_unit: str
    intervals: int = 10
    times: tuple[float, ...] = ()
    edges: tuple[float, ...] = field(default=(), compare=False)
    events: tuple[int, ...] = field(default=(), compare=False)
    survivors: tuple[int, ...] = field(default=(), compare=False)
    samples_seen: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.time_unit:
            raise ValueError("Times need a unit: give `unit`, such as months.")
        if self.intervals < 1:
            raise ValueError(f"intervals is {self.intervals}, but time is cut into at least one.")
        if any(not 0 < time < np.inf for time in self.times):
            raise ValueError(f"times are {list(self.times)}, but survival is stated at times above 0. Correct them.")

    @property
    def names(self) -> tuple[str, ...]:
        """What must have been seen."""
        return ("event",)

    @property
    def titles(self) -> tuple[str, ...]:
        """Of the numbers of a prediction."""
        return ("risk", *(f"survival at {time:.4g} {self.time_unit}" for time in self.shown_times))

    @property
    def shown_times(self) -> tuple[float, ...]:
        """At which predictions state the survival."""
        if self.times or not self.edges:
            return self.times
        last = len(self.edges) - 1
        return tuple(dict.fromkeys(self.edges[round(last * part)] for part in (0.25, 0.5, 0.75)))

    def prepared(self, target: Any, size: tuple[int, int]) -> NDArray[np.float32]:
        """In float32."""
        return as_vector(target, _TARGET)

    def with_statistics(self, targets: NDArray[Any]) -> Self:
        """With the intervals of ``(N, 2)`` times and events, and what happened in each.

        Raises:
            ValueError: No event was seen.
        """
        times, events = targets[:, 0].astype(np.float64), targets[:, 1] > 0
        if not events.any():
            raise ValueError(
                f"All {len(times)} times of this part are censored, so that nothing of the event can be learned or "
                "measured. Add samples with an event, or correct the column that says whether it was seen."
            )
        parts = np.arange(1, self.intervals + 1) / self.intervals
        found = np.unique(np.quantile(times[events], parts, method="inverted_cdf"))
        edges = found[found > 0] if (found > 0).any() else np.ones(1)  # all events at 0: any interval holds them
        survived, at = lived_through(times, events, edges)
        seen = np.bincount(at[events & (at < len(edges))], minlength=len(edges))
        return replace(
            self,
            edges=tuple(edges.tolist()),
            events=tuple(seen.tolist()),
            survivors=tuple(survived.sum(axis=0).tolist()),
            samples_seen=len(times),
        )

    def lacking(self, targets: NDArray[Any]) -> tuple[str, ...]:
        """An event."""
        return () if (targets[:, 1] > 0).any() else ("No event was seen.",)

    def strata(self, targets: NDArray[Any], least: float) -> tuple[NDArray[np.bool_], list[str]]:
        """Events, which no part may lack, and the times with and without one in quantiles."""
        times, events = targets[:, 0].astype(np.float64), targets[:, 1] > 0
        parts = [quantiles(np.where(kind, times, np.nan), least) for kind in (events, ~events) if kind.any()]
        return np.hstack([events[:, None], *parts]), ["events"] if events.any() else []

    @property
    def columns(self) -> int:
        """Time and event."""
        return len(_TARGET)

    def inspect(self, target: Any, size: tuple[int, int]) -> tuple[list[Finding], Figures | None]:
        """Times below 0 and events that are neither 0 nor 1 are errors, as is what is not known."""
        try:
            row = as_vector(target, _TARGET)
        except ValueError as error:
            return [Finding("label", str(error).removesuffix(f". {CORRECT_READER}"), CORRECT_READER)], None
        if not 0 <= row[0] < np.inf:
            return [Finding("label", f"its time is {row[0]:g}", f"Write the {self.time_unit}, from 0 on.")], None
        if row[1] not in (0, 1):
            return [Finding("label", f"its event is {row[1]:g}", "Write 1 where it was seen, else 0.")], None
        return [], row

    def samples(self, rows: Figures) -> dict[str, int]:
        """Those with an event."""
        return {"event": int((rows[:, 1] > 0).sum())}

    def statistics(self, rows: Figures) -> dict[str, Any]:
        """Events, and the spread of times with and without one."""
        seen = rows[:, 1] > 0
        censored = rows[:, 1] == 0
        return {
            "samples": self.samples(rows),
            "unit": self.time_unit,
            "time_of_event": spread(rows[seen, 0]),
            "time_censored": spread(rows[censored, 0]),
        }

    def check_lines(self, statistics: Mapping[str, Any], samples: int) -> dict[str, str]:
        """Events, and the spread of times with and without one."""
        events = statistics["samples"]["event"]
        return {
            "  event": f"{events:,}{percent(events, samples)}",
            f"    until the event ({self.time_unit})": readable_spread(statistics["time_of_event"]),
            f"    until censored ({self.time_unit})": readable_spread(statistics["time_censored"]),
        }

    def truth_view(self, target: Any) -> View:
        """In words."""
        seen = "event" if target[1] > 0 else "no event until"
        return View((Line(f"{seen} {'at ' if target[1] > 0 else ''}{target[0]:.4g} {self.time_unit}"),))

    def prediction_view(self, prediction: Any) -> View:
        """The risk, and the survival at each time."""
        risk, *survival = zip(self.titles, prediction, strict=True)
        return View((Line(f"{risk[0]}: {risk[1]:.3f}"), *(Line(f"{name}: {share:.0%}") for name, share in survival)))

    def page_view(self, prediction: Any, min_score: float) -> PageView:
        """The risk as a number, the survival as bars."""
        risk, *survival = zip(self.titles, map(float, prediction), strict=True)
        bars = tuple(Bar(name, share, stands_out=False) for name, share in survival)
        return PageView(bars=bars, numbers=(Number(*risk),))


def lived_through(
    times: NDArray[np.floating], events: NDArray[np.bool_], edges: NDArray[np.floating]
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Which intervals each sample was known to get through without an event.

    Args:
        times: ``(N,)``.
        events: ``(N,)``; of a sample with one, its last interval does not count.
        edges: ``(K,)`` where the intervals end. A time that is equal to an edge belongs to the interval before it.

    Returns:
        ``(N, K)``, and ``(N,)`` how many, which is the number of the interval with the event; K for one after all.
    """
    ends = edges[None] < times[:, None]
    survived = ends | (~events[:, None] & (edges[None] == times[:, None]))
    return survived, survived.sum(axis=1)
