"""The sweep engine. Imports no torch, so it starts in under a second."""
