"""Models whose shared blocks do not fit on one device: each rank keeps a part of their parameters."""

from umedpt_lightning.training.sharding.blocks import check_sharding, is_shard, own_part, share_out_blocks
from umedpt_lightning.training.sharding.gradients import ShardedGradients
from umedpt_lightning.training.sharding.strategy import ShardedStrategy

__all__ = ["ShardedGradients", "ShardedStrategy", "check_sharding", "is_shard", "own_part", "share_out_blocks"]
