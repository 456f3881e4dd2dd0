"""Which file ``--ckpt_path`` means."""

from __future__ import annotations

import re
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_warn

from umedpt_lightning.training.checkpoints import LAST, PREVIOUS, intact


def find_checkpoint(path: str | Path, run: Path, may_lack: bool = False) -> str | None:
    """A file, where ``best``, ``best_<task>`` and ``last`` are those of the run's folder.

    It is read to see that it is whole. Where ``last`` is damaged, the checkpoint before it is taken, with a message.
    There may be none yet with `may_lack`: the same command starts a run and, interrupted, goes on with it.

    Raises:
        CheckpointError: The file is damaged.
        FileNotFoundError: There is no such file.
    """
    folder = run / "checkpoints"
    if str(path) == "last":
        files = [folder / LAST, folder / PREVIOUS]
    else:
        files = [folder / f"{path}.ckpt" if re.fullmatch(r"best(_[^/.]+)?", str(path)) else Path(path)]
    there = [file for file in files if file.is_file()]
    if there:
        return str(intact(there, tell=rank_zero_warn))
    if str(path) == "last" and may_lack:
        return None
    known = sorted(str(f) for f in folder.glob("*.ckpt"))
    raise FileNotFoundError(
        f"--ckpt_path: there is no checkpoint {files[0]}. "
        + (
            f"In the run there are {', '.join(known)}."
            if known
            else "Give a file, or the run's folder by --run and `best` or `last`."
        )
    )
