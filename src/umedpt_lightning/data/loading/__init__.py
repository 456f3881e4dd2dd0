"""From readers to rounds: sampling, transforms' seeds, workers, batches."""

from umedpt_lightning.data.loading.follow_validation import FollowValidation

__all__ = ["FollowValidation"]
