"""From readers to rounds: sampling, transforms' seeds, workers, batches."""
