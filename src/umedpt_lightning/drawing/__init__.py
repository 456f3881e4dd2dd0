"""Pictures of samples and of predictions, in numpy and Pillow."""
