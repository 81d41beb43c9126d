"""W&B runs in PostgreSQL, as dr_wandb mirrors them."""

from dde.sources.postgres.store import PostgresStore

__all__ = ["PostgresStore"]
