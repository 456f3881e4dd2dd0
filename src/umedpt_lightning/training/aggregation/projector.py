"""UPGrad without a solver of quadratic programs of its own."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor
from torchjd.linalg import DualConeProjector, PSDMatrix


class NonNegativeProjector(DualConeProjector):
    """The projection of UPGrad and DualProj by non-negative least squares.

    For each row u of U the least ``vᵀ G v`` with ``v >= u`` is wanted. With ``G = Rᵀ R`` and ``v = u + z`` that is the
    least ``|R z + R u|`` with ``z >= 0``: Lawson & Hanson, Solving least squares problems, 1974, chapter 23. TorchJD's
    own takes quadprog, whose licence is the GPL.

    Args:
        regularisation: Added to the diagonal of G over its trace, so that there is one answer.
    """

    def __init__(self, regularisation: float = 1e-4) -> None:
        self.regularisation = regularisation

    def __call__(self, U: Tensor, G: PSDMatrix) -> Tensor:  # noqa: N803  # the names of the base class
        """``(…, T)`` weights for ``(…, T)`` rows and ``(T, T)`` inner products."""
        matrix = G.detach().double().cpu().numpy()
        matrix = matrix / max(np.trace(matrix), 1e-300) + self.regularisation * np.eye(len(matrix))
        root = np.linalg.cholesky(matrix).T
        rows = U.detach().double().cpu().numpy().reshape(-1, len(matrix))
        weights = np.stack([row + nnls(root, -root @ row)[0] for row in rows])
        return torch.from_numpy(weights).to(U).view_as(U)
