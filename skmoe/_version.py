"""The version of skmoe."""

__version__ = "0.1.0.dev0"
