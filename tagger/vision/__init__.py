"""Bytes of an image file to pixels and facts, or to a reason why not."""

from tagger.vision.decoder import DecodedChunk, Decoder
from tagger.vision.framing import Framing
from tagger.vision.picture import Color, DecodeLimits, Facts, Picture

__all__ = ["Color", "DecodeLimits", "DecodedChunk", "Decoder", "Facts", "Framing", "Picture"]
