"""Lightning's strategy for blocks that are shared out, with checkpoints as every run has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, cast

import lightning.pytorch as pl
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.strategies import ModelParallelStrategy, Strategy, StrategyRegistry
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor
from torch.distributed.constants import default_pg_timeout
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.training.sharding.blocks import check_sharding, sharded_modules, share_out_blocks


class ShardedStrategy(ModelParallelStrategy):
    """Each rank keeps a part of parameters, gradients and optimizer state of the shared blocks: ``strategy: sharded``.

    A checkpoint is one file with whole tensors, so that a run goes on with any number of ranks and by any strategy.
    Validation puts the parameters together once, as ranks have different numbers of micro-batches there.

    Args:
        process_group_backend: As for `lightning.pytorch.strategies.DDPStrategy`.
        timeout: Likewise.
    """

    strategy_name = "sharded"

    def __init__(
        self, process_group_backend: str | None = None, timeout: timedelta | None = default_pg_timeout
    ) -> None:
        super().__init__("auto", 1, False, process_group_backend, timeout)

    def connect(self, model: pl.LightningModule) -> None:
        """Has the model shared out when Lightning lets it be made.

        By the strategy and not by the module, since callbacks warn of every module that has this hook of its own.
        """
        super().connect(model)
        model.configure_model = self._share_out  # type: ignore[method-assign]

    def _share_out(self) -> None:
        trainer, module = self._module.trainer, self._module
        if trainer.strategy is self and trainer.world_size > 1:
            check_sharding(trainer, module, getattr(trainer, "datamodule", None))
            share_out_blocks(cast(MultiTaskModel, module.model), self.device_mesh["data_parallel"], self.root_device)

    def setup_environment(self) -> None:
        """All ranks share out, none computes a part of a layer."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    @property
    def restore_checkpoint_after_setup(self) -> bool:
        """The optimizer is made after the config was compared with the checkpoint, as with other strategies."""
        return False

    @property
    def lightning_restore_optimizer(self) -> bool:
        """By `load_optimizer_state_dict`."""
        return True

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """Whole tensors on the first rank; all ranks must ask."""
        return self._whole(self._module.state_dict)

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """Whole tensors on the first rank; all ranks must ask."""
        return self._whole(
            (optimizer._optimizer if isinstance(optimizer, LightningOptimizer) else optimizer).state_dict
        )

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """The whole file, on every rank."""
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """Takes this rank's part of each tensor."""
        shards = self._shards()
        state = {n: _part(v, shards[n]) if n in shards else v for n, v in checkpoint["state_dict"].items()}
        self._module.load_state_dict(state, strict=strict)

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """Takes this rank's part of each tensor."""
        shards = self._shards()
        for saved in checkpoint["optimizer_states"]:
            names = ((i, n) for g in saved["param_groups"] for i, n in zip(g["params"], g["param_names"], strict=True))
            for index, name in names:
                if index in saved["state"] and name in shards:
                    saved["state"][index] = {key: _part(v, shards[name]) for key, v in saved["state"][index].items()}
        Strategy.load_optimizer_state_dict(self, checkpoint)

    def on_validation_start(self) -> None:
        """Puts the parameters together."""
        self._keep_whole(True)

    def on_validation_end(self) -> None:
        """Shares them out again."""
        self._keep_whole(False)

    def on_test_start(self) -> None:
        """As in validation."""
        self._keep_whole(True)

    def on_test_end(self) -> None:
        """As in validation."""
        self._keep_whole(False)

    @property
    def _module(self) -> pl.LightningModule:
        module: Any = self.lightning_module
        return module  # type: ignore[no-any-return]

    def _shards(self) -> dict[str, DTensor]:
        return {name: one for name, one in self._module.named_parameters() if isinstance(one, DTensor)}

    def _keep_whole(self, whole: bool) -> None:
        # what is made here lives on in training
        with torch.inference_mode(False), torch.no_grad():
            for module in sharded_modules(self._module):
                module.set_reshard_after_forward(not whole, recurse=False)
                if whole:
                    module.unshard()
                else:
                    module.reshard()

    def _whole(self, state_of: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """A state with whole tensors in place of shards, one after the other, so that one is on the device."""

        def gathered(shard: DTensor) -> Tensor:
            tensor = shard.full_tensor()
            return tensor.cpu() if self.is_global_zero else tensor.new_empty(0)

        # a checkpoint may be written at the end of a validation, and shards have to live on in training
        with torch.inference_mode(False), torch.no_grad():
            whole: dict[str, Any] = apply_to_collection(state_of(), DTensor, gathered)
        return whole


def _part(value: Any, shard: DTensor) -> Any:
    if not isinstance(value, Tensor) or isinstance(value, DTensor) or value.shape != shard.shape:
        return value  # of an optimizer's steps, or of a block that is new
    return distribute_tensor(value, shard.device_mesh, shard.placements, src_data_rank=None)


StrategyRegistry.register(ShardedStrategy.strategy_name, ShardedStrategy, description=ShardedStrategy.__doc__ or "")
