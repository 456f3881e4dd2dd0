"""A Lightning module whose batches are rounds, without what Lightning does around each of them in vain."""

from __future__ import annotations

import inspect
import os
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor

from umedpt_lightning.types import Round


class RoundModule(pl.LightningModule):
    """What Lightning does around a round, for less: it counts where rounds are short.

    A round moves its micro-batches to the device itself, one by one. So the hooks for moving a batch are not called for
    rounds; they are for the micro-batches of validation, test and prediction.
    """

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        # Lightning looks in every round whether the step wants the batch's index
        cls.training_step.__signature__ = inspect.signature(cls.training_step)  # type: ignore[attr-defined]

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "_current_fx_name":  # two dozen times a round; torch would look whether it is a parameter
            object.__setattr__(self, name, value)
        else:
            super().__setattr__(name, value)

    def on_fit_start(self) -> None:
        """Lets torch look for GPUs, as it does in every step of an optimizer, without loading NVIDIA's library anew.

        Lightning has it ask that library, so that processes can still be forked. Where there is no GPU, the other way
        does no harm either, and takes 2 µs in place of 80 to 400.
        """
        if not torch.accelerator.is_available():
            os.environ.pop("PYTORCH_NVML_BASED_CUDA_CHECK", None)

    def backward(self, loss: Tensor, gradient: Tensor | None = None) -> None:
        """Adds the gradients of a loss, or of several, times `gradient`.

        Lightning's `manual_backward` asks every callback before and after, which takes 0.15 ms of a micro-batch's 10.
        So their hooks around the backward pass are not called here; those around the step are.
        """
        torch.autograd.backward(loss, gradient)

    def _on_before_batch_transfer(self, batch: Any, dataloader_idx: int = 0) -> Any:
        return batch if isinstance(batch, Round) else super()._on_before_batch_transfer(batch, dataloader_idx)

    def _apply_batch_transfer_handler(
        self, batch: Any, device: torch.device | None = None, dataloader_idx: int = 0
    ) -> Any:
        return (
            batch if isinstance(batch, Round) else super()._apply_batch_transfer_handler(batch, device, dataloader_idx)
        )
