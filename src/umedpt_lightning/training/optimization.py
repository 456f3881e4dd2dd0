"""One AdamW for all parameters, and its learning rate over the steps."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR


@dataclass
class Optimization:
    """AdamW with a warm-up and a cosine, clipped.

    Attributes:
        learning_rate: Its peak.
        encoder_share: The encoder learns with this share of the rate; below 1 it keeps more of the weights it starts
            from, while heads and decoders, which are new, learn at full speed.
        weight_decay: Decoupled weight decay; none on norms and biases.
        betas: Decay rates of AdamW's two moments.
        warmup: Rounds until the peak; below 1 a share of all rounds.
        final: The last learning rate, as a share of the peak.
        clip: Largest norm of all gradients together; None for no clipping.
    """

    learning_rate: float = 3e-4
    encoder_share: float = 1.0
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    warmup: float = 0.05
    final: float = 0.01
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        if self.learning_rate <= 0 or self.warmup < 0 or not 0 <= self.final <= 1:
            raise ValueError(
                "optimization: learning_rate must be positive, warmup not negative and final between 0 and 1, but they "
                f"are {self.learning_rate}, {self.warmup} and {self.final}."
            )
        if self.encoder_share <= 0:
            raise ValueError(
                f"optimization.encoder_share must be positive, but it is {self.encoder_share}. Write 0.1 for a tenth."
            )
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"optimization.clip must be positive, or null for no clipping, but it is {self.clip}.")

    def optimizer(self, module: nn.Module, fused: bool) -> AdamW:
        """AdamW over the trainable parameters of `module`, whose encoder is ``module.model.encoder``."""
        groups: dict[tuple[float, float], list[tuple[str, nn.Parameter]]] = {}  # by learning rate and weight decay
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                rate = self.learning_rate * (self.encoder_share if name.startswith("model.encoder.") else 1.0)
                # norms' scales and shifts, and biases, are vectors
                decay = self.weight_decay if parameter.ndim > 1 else 0.0
                groups.setdefault((rate, decay), []).append((name, parameter))
        ordered = sorted(
            groups.items(), key=lambda item: (-item[0][0], -item[0][1])
        )  # the log shows the rate of the first
        described = [{"params": params, "lr": rate, "weight_decay": decay} for (rate, decay), params in ordered]
        return AdamW(described, lr=self.learning_rate, betas=self.betas, fused=fused)

    def schedule(self, optimizer: AdamW, steps: int) -> LambdaLR:
        """The schedule over `steps` steps; the last rate holds afterwards.

        Linear from 0 to the peak, then half a cosine: Loshchilov & Hutter, SGDR, ICLR 2017.
        """
        warmup = self.warmup if self.warmup >= 1 else self.warmup * steps

        def factor(step: int) -> float:
            if step < warmup:
                return (step + 1) / (warmup + 1)
            progress = min(1.0, (step - warmup) / max(1.0, steps - warmup))
            return self.final + (1 - self.final) * (1 + math.cos(math.pi * progress)) / 2

        return LambdaLR(optimizer, factor)
