"""Which file ``--ckpt_path`` means."""

from __future__ import annotations

from pathlib import Path


def find_checkpoint(path: str | Path, run: Path, may_lack: bool = False) -> str | None:
    """`path`, where ``best`` and ``last`` are those of the run's folder.

    Args:
        path: ``best``, ``last`` or a file.
        run: The run's folder.
        may_lack: Whether there may be no ``last`` yet: the same command starts a run and, interrupted, goes on with it.

    Raises:
        FileNotFoundError: There is no such file.
    """
    file = run / "checkpoints" / f"{path}.ckpt" if str(path) in ("best", "last") else Path(path)
    if file.is_file():
        return str(file)
    if str(path) == "last" and may_lack:
        return None
    known = sorted(str(f) for f in (run / "checkpoints").glob("*.ckpt"))
    raise FileNotFoundError(
        f"--ckpt_path: there is no checkpoint {file}. "
        + (
            f"In the run there are {', '.join(known)}."
            if known
            else "Give a file, or the run's folder by --run and `best` or `last`."
        )
    )
