"""How many labels a new task needs with an encoder: frozen and fine-tuned, at fractions of the labels."""
