"""Measurements of tagger against the limit of the machine and against its peers: `python -m bench`."""
