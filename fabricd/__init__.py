"""fabricd keeps one node's part of an IPsec fabric as the records say it should be."""

__version__ = "0.1.0"
