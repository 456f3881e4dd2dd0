"""The model card: what a folder's README says of the model in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from umedpt_lightning.blocks import BaseEncoder, EncoderCard
from umedpt_lightning.tasks import Task

_TO_FILL_IN = "*To be filled in.*"


def model_card(
    encoder: BaseEncoder, tasks: Mapping[str, Task], data: Mapping[str, str], metrics: Mapping[str, Any]
) -> ModelCard:
    """The card of a model, with what is known of each task's data, and what is in a run's ``metrics.json``."""
    about = encoder.card()
    results = [
        EvalResult(
            task_type=task.spec.hub_type,
            dataset_type=name,
            dataset_name=name,
            dataset_split=part,
            metric_type=task.main_metric,
            metric_value=value,
        )
        for name, task, part, value, _ in _main(tasks, metrics)
    ]
    front = ModelCardData(
        library_name="umedpt-lightning",
        license="unknown",
        pipeline_tag="image-feature-extraction",
        tags=["medical", "multi-task", *about.tags, "pytorch"],
        model_name=f"umedpt-{about.name}",
        eval_results=results or None,
    )
    return ModelCard(f"---\n{front.to_yaml()}\n---\n\n{_text(about, tasks, data, metrics)}")


def _text(encoder: EncoderCard, tasks: Mapping[str, Task], data: Mapping[str, str], metrics: Mapping[str, Any]) -> str:
    first = next(iter(tasks))
    return f"""# {encoder.name}, trained on {len(tasks)} tasks together

One shared encoder with a small head for each task, trained by umedpt-lightning.

## Tasks

| task | label kind | channels | intensities | names |
| --- | --- | --- | --- | --- |
{chr(10).join(_row(task, head) for task, head in tasks.items())}

## Data

{chr(10).join(f"- **{task}**: {data.get(task) or _TO_FILL_IN}" for task in tasks)}

## Metrics

{_metrics(tasks, metrics)}

## Licence

{_TO_FILL_IN} Here and as `license:` at the top; the licences of the data count too.

## Intended use

Research on biomedical images like those above: as a starting point for new tasks with few labels, and for the tasks
above. It is not a medical device, and nothing about images of other devices, stains, ages or diseases has been shown.

## How to load it

```python
from umedpt_lightning.model import MultiTaskModel

model = MultiTaskModel.from_pretrained("path/of/this/folder")
predictions = model.predict([{"[first_image, second_image]" if tasks[first].spec.bag else "image"}], "{first}")
```

Images are arrays `(H, W)` or `(H, W, C)` as they are stored, of any size; of a task of bags a list for each bag.

{encoder.loading}
"""


def _row(name: str, task: Task) -> str:
    spec, title = task.spec, task.spec.title or type(task.spec).__name__
    low, high = spec.value_range
    cells = (name, title, spec.channels, f"{low:g} to {high:g}", ", ".join(map(str, spec.titles)))
    return f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in cells)} |"


def _metrics(tasks: Mapping[str, Task], metrics: Mapping[str, Any]) -> str:
    rows = [
        f"| {name} | {task.main_metric} | {part} | {value:.3f} | {baseline:.3f} |"
        for name, task, part, value, baseline in _main(tasks, metrics)
    ]
    if not rows:
        return _TO_FILL_IN
    head = (
        "`baseline` is the majority baseline, which sees no image.\n\n"
        "| task | metric | part | value | baseline |\n| --- | --- | --- | --- | --- |"
    )
    return "\n".join([head, *rows])


def _main(tasks: Mapping[str, Task], metrics: Mapping[str, Any]) -> Iterator[tuple[str, Task, str, float, float]]:
    """Every task's main metric in every part where it is known, with that of the majority baseline, NaN for none."""
    for name, task in tasks.items():
        for part, found in metrics.items():
            baselines = found.get("baseline", found.get("trivial", {}))  # older files call it so
            key = f"{name}/{task.main_metric}"
            if (value := found.get("metrics", {}).get(key)) is not None:
                baseline = baselines.get(key)
                yield name, task, part, value, math.nan if baseline is None else baseline
