"""Volumes, NIfTI and DICOM, and their slices."""
