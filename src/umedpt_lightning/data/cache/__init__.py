"""Decoded samples and unpacked files, kept for later."""
