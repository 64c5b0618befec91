"""From native files to batches: prepared caches, the loader, augmentation."""
