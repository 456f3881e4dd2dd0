"""Images that are too large to be seen at once, tile by tile as if they were."""
