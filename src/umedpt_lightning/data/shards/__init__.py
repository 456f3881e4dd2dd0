"""Samples of any reader in tar files, which are read from anywhere, one sample at a time."""
