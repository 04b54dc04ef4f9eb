"""Training a network by a recipe. Needs torch alone: no Snakemake, no DVC, no pydantic."""
