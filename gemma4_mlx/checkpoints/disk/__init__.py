"""Weights that stay on disk and are read when they are needed.

``extents`` knows where an expert's bytes lie, ``reading`` reads them, ``slots`` decides which
experts of a layer are held in memory, and ``experts`` is the layer that computes with these.
"""
