"""relearnd: the service that scores a stream, notices drift, has a model learn, proves it better and swaps it in."""

__version__ = "0.1.0"
