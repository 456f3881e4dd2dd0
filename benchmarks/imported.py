"""What the server of fresh processes imports, once, where each of them would need seconds for it."""

from __future__ import annotations

import gc

import umedpt_lightning.cli.training
import umedpt_lightning.data.datamodule
import umedpt_lightning.training  # noqa: F401

gc.freeze()  # a collection would write to what the processes share, and so copy it
