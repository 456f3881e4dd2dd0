"""Whole slides, their tissue, tiles and annotations."""
