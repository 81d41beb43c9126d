"""W&B runs that were exported to files, as dr_wandb writes them: parquet or JSON lines."""
