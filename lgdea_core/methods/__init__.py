"""One file a method: its configuration, modules, part of the batch, terms, scores and map. See `method.Method`."""
