"""One process each: ours, and what people would use instead, on the same files, modules, weights, batch and epochs."""
