"""What a run with a frozen encoder keeps: the embedding of each image of its bags."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from umedpt_lightning.blocks.frozen import KeptEmbeddings, is_frozen
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training.sharding import is_shard

#: Bytes that embeddings may take in the memory of each rank.
_MOST = 1 << 30


def keep_embeddings(model: MultiTaskModel, tasks: Mapping[str, Any]) -> str | None:
    """Lets a model keep the embeddings of the images of bags during a run, if its encoder stays as it is.

    Images that are augmented differ in each pass, so that those of the training are not kept.

    Args:
        model: In place.
        tasks: The `TaskData` of each task, as far as they are known.

    Returns:
        A sentence on it; None where there are no bags, or the encoder learns.
    """
    model.kept = None
    bags = {name: data for name, data in tasks.items() if name in model.tasks and model.task(name).spec.bag}
    if not bags or not is_frozen(model.encoder) or any(map(is_shard, model.encoder.parameters())):
        return None
    # ranks that share out an encoder must use it equally often, whatever images each of them has seen
    again = [name for name, data in bags.items() if data.augments]
    count = sum(
        sum(reader.sizes)
        for name, data in bags.items()
        for part, reader in data.readers.items()
        if part == "val" or (part == "train" and name not in again)
    )
    size = count * 4 * model.encoder.embedding_channels
    if size > _MOST:
        return (
            f"The encoder is frozen, but embeddings of {count:,} images of bags would take {size / 2**30:.1f} GiB, "
            f"more than the {_MOST / 2**30:.1f} that are kept: they are computed anew in each pass."
        )
    model.kept = KeptEmbeddings(count, frozenset(bags) - frozenset(again))
    text = f"The encoder is frozen, so that each image of the bags of {', '.join(bags)} is embedded once"
    if again:
        text += f", but training images of {', '.join(again)} in each pass: they are augmented."
        text += " Leave `augment` out to keep them"
    return f"{text}."
