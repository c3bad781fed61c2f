"""Where a checkpoint is and what its headers say: a folder, the Hub, an object store."""
