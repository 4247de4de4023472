"""Objects in a store: the only place that knows fsspec."""
