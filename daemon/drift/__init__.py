"""Noticing that the stream is no longer what the champion learned from."""
