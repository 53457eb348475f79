"""``llamagen convert``: makes a model directory from the files of the official repository."""

from llamagen_server.convert.convert import add_arguments, run

__all__ = ["add_arguments", "run"]
