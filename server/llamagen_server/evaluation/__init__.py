"""Quality of samples (FID and its relatives, CLIP score) and of image tokenizers (codebook, reconstruction)."""
