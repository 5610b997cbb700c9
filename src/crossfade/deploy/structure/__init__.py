"""Two networks, whatever they come from, as lists of the same kind of layer: aligned, compared field by field, and graded."""
