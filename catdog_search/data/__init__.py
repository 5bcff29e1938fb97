"""From photos on disk to packed pixels: sources, manifest, split, one resize, cache."""
