"""Open a checkpoint from a local folder, the Hub or an object store, by its headers alone."""
