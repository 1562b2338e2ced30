"""Making studies: corpora read one document after another, by a model on MLX."""
