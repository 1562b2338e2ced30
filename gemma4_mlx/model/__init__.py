"""Gemma 4 in MLX. Read in this order: layers, attention, moe, decoder, vision, audio, gemma4."""
