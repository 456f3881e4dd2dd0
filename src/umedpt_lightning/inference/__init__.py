"""What goes through a trained model: files as it saw them in training, predictions and embeddings."""
