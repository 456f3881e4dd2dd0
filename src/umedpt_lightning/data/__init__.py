"""Data of all tasks: readers, transforms, sampling, loaders."""
