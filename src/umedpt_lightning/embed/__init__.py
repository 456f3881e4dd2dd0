"""Embeddings of many images, volumes and slides, in a table."""

from umedpt_lightning.embed.pieces import Cut, Pieces
from umedpt_lightning.embed.run import Machine, embed
from umedpt_lightning.embed.store import Store

__all__ = ["Cut", "Machine", "Pieces", "Store", "embed"]
