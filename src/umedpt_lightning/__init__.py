"""One encoder trained on many small biomedical data sets at once."""
