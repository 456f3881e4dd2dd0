"""Which parameters learn at which share of the learning rate, which decay, and which do not learn at all."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

from torch import nn

from umedpt_lightning.training.sharding import is_shard

_ENCODER = "model.encoder."


class ParameterGroup(NamedTuple):
    """Parameters that an optimizer treats alike.

    Attributes:
        rate: Their share of the learning rate.
        decays: Whether they have the optimizer's weight decay, or none.
        parameters: By name.
    """

    rate: float
    decays: bool
    parameters: dict[str, nn.Parameter]


class ParameterGroups:
    """Groups by the part of the model and by shape; norms and biases do not decay.

    One of your own overrides `rate` or `decays`.

    Args:
        encoder_share: The encoder learns with this share of the rate.
        layer_decay: The rate of each stage of the encoder over that of the next deeper one, whose last has
            `encoder_share`; 1 for the same in all. Clark et al., ELECTRA, ICLR 2020, section 3.1 (by layers).
        frozen_stages: So many stages of the encoder, from the image on, or ``all``, stay as they are, their running
            statistics too.

    Raises:
        ValueError: A share is not positive, or the number of stages negative.
    """

    def __init__(
        self, encoder_share: float = 1.0, layer_decay: float = 1.0, frozen_stages: int | Literal["all"] = 0
    ) -> None:
        for name, share in (("encoder_share", encoder_share), ("layer_decay", layer_decay)):
            if share <= 0:
                raise ValueError(
                    f"optimization.{name} must be positive, but it is {share}. Write 0.1 for a tenth."
                    + (" To keep the encoder as it is, freeze its stages." if name == "encoder_share" else "")
                )
        if frozen_stages != "all" and frozen_stages < 0:
            raise ValueError(f"frozen_stages must not be negative, but it is {frozen_stages}.")
        self.encoder_share, self.layer_decay, self.frozen_stages = encoder_share, layer_decay, frozen_stages

    def rate(self, name: str, parameter: nn.Parameter, stage: int | None, stages: int) -> float:
        """The share of the learning rate.

        Args:
            name: The parameter's, such as ``model.encoder.net.stem_0.weight``.
            parameter: Itself.
            stage: Of the encoder, counted from the image; None outside of the stages.
            stages: How many there are.
        """
        share = self.encoder_share if name.startswith(_ENCODER) else 1.0
        return share if stage is None else share * self.layer_decay ** (stages - 1 - stage)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Whether weight decay is for the parameter: norms' scales and shifts, and biases, are vectors."""
        return parameter.ndim > 1

    def split(self, module: nn.Module, by_decay: bool = True) -> list[ParameterGroup]:
        """The groups of all parameters that learn: the highest rate first, and of these first those that decay.

        Args:
            module: Whose encoder is ``module.model.encoder``; its frozen stages are frozen by this.
            by_decay: Whether there is a weight decay, by which to tell groups apart.

        Raises:
            ValueError: More stages are frozen than the encoder has, or a rate is no share.
        """
        stages = self._stages(module)
        count = len(stages) if self.frozen_stages == "all" else self.frozen_stages
        frozen = [parameter for stage in stages[:count] for parameter in stage]
        for parameter in frozen:
            parameter.requires_grad_(False)
        for part in module.modules() if frozen else ():
            own = list(part.parameters())
            if own and not any(parameter.requires_grad for parameter in own):
                part.eval()  # nor do running statistics move, and nothing is dropped at random
        stage_of = {parameter: number for number, stage in enumerate(stages) for parameter in stage}
        groups: dict[tuple[float, bool, bool], dict[str, nn.Parameter]] = {}
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                rate = self.rate(name, parameter, stage_of.get(parameter), len(stages))
                if not isinstance(rate, int | float) or not 0 <= rate < math.inf:
                    raise ValueError(
                        f"optimization.groups: {type(self).__name__}.rate gives {rate!r} for {name}. Return a share of "
                        "the learning rate, 0 or above."
                    )
                decays = by_decay and self.decays(name, parameter)
                # torch's optimizers do not step whole parameters and shards together
                groups.setdefault((rate, decays, is_shard(parameter)), {})[name] = parameter
        # the log shows the rate of the first
        return [ParameterGroup(*key[:2], groups[key]) for key in sorted(groups, key=lambda key: (-key[0], -key[1]))]

    def _stages(self, module: Any) -> list[list[nn.Parameter]]:
        """The parameters of each stage of the encoder, where they are asked for."""
        if self.layer_decay == 1 and not self.frozen_stages:
            return []
        stages = [[parameter for _, parameter in stage] for stage in module.model.encoder.parameter_stages()]
        if self.frozen_stages != "all" and self.frozen_stages > len(stages):
            raise ValueError(
                f"optimization.groups: frozen_stages is {self.frozen_stages}, but the encoder has {len(stages)} "
                "stages. Give at most so many."
            )
        return stages
