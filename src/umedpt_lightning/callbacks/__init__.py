"""What happens beside the training: pictures, progress, reports."""
