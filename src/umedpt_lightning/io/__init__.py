"""Files on their way to the disk and back."""
