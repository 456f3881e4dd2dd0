"""Predictions for files: images of any size, volumes and slides, and what is written of them."""
