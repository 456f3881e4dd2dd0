"""A page on this machine to try a model on images; nothing leaves it."""
