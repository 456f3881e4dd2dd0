"""What is written of predictions: tables, COCO files, masks and overlays."""
