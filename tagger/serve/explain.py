"""Where the CNN saw a tag: a heat map to be laid over the picture."""

from __future__ import annotations

import io
import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tagger.errors import ModelError, UnknownName
from tagger.index.filters import shown
from tagger.models import find_model, load_head, prepare
from tagger.models.activation import ActivationMaps
from tagger.serve.images import Rendered, SharedDecoder, fitted
from tagger.tags import probabilities
from tagger.vision.framing import place

if TYPE_CHECKING:
    import numpy.typing as npt

    from tagger.models import PreparedModel
    from tagger.serve.images import Renderer
    from tagger.serve.served import Loaded
    from tagger.settings import Settings
    from tagger.tags import Taxonomy
    from tagger.vision import Facts, Framing

    Floats = npt.NDArray[np.float32]

_COLORS: Final = np.array([[88, 28, 135], [190, 24, 93], [234, 88, 12], [250, 204, 21], [254, 249, 195]])
"""From cool to hot; each step is lighter than the one before, so that it reads without colours, too."""

_OPAQUE: Final = 0.75  # at the hottest place: what is below stays to be seen
_ALPHA_POWER: Final = 1.3
_UNSEEN: Final = (0, 0, 0, 110)
"""A veil over what the framing cuts off: the CNN never saw it."""


class Explainer:
    """Draws heat maps; loads what it needs for the first. Threads may share it.

    Args:
        images: Where pictures come from.
        settings: What the environment says.
    """

    def __init__(self, images: Renderer, settings: Settings) -> None:
        self._images = images
        self._settings = settings
        self._lock = threading.Lock()
        self._ready: tuple[ActivationMaps, Any, PreparedModel, SharedDecoder] | None = None
        self._refusal: ModelError | None = None

    def explains(self, loaded: Loaded) -> bool:
        """Tell whether the collection's model can say where it saw a tag."""
        try:
            self._model(loaded)
        except ModelError:
            return False
        return True

    def heat_map(self, loaded: Loaded, image_id: str, tag: str, size_px: int) -> Rendered:
        """Return a PNG with alpha, of the shape of the picture at `size_px`.

        Raises:
            UnknownName: There is no such image, or no such tag among the model's.
            ModelError: The model cannot tell.
            ImageError, StoreUnavailable: The picture cannot be read.
        """
        word = loaded.index.vocabulary.require(tag)
        uri, etag = loaded.address(image_id)
        key = ("heat", uri, etag, word, size_px, loaded.index.manifest.taxonomy_file)
        found = self._images.cache.get(key)
        if found is not None:
            return found
        maps, head, prepared, decoder = self._model(loaded)
        labels = _labels_of(word, loaded.collection.taxonomy())
        square, facts = decoder.decode(self._images.read(uri, etag))
        features = maps.features(square)
        logits = features @ head.weight.T
        overall = probabilities((logits.mean(axis=(0, 1)) + head.bias)[None], prepared.activation)[0]
        share = overall[labels] / max(float(overall[labels].sum()), 1e-12)
        heat = logits[..., labels] @ share.astype(np.float32)
        drawn = Rendered.of(_draw(heat, facts, prepared.framing, size_px))
        self._images.cache.put(key, drawn)
        return drawn

    def close(self) -> None:
        """End the child process."""
        if self._ready is not None:
            self._ready[3].close()

    def _model(self, loaded: Loaded) -> tuple[ActivationMaps, Any, PreparedModel, SharedDecoder]:
        with self._lock:
            if self._refusal is not None:
                raise self._refusal
            if self._ready is None:
                config = loaded.collection.config
                try:
                    prepared = prepare(
                        find_model(config.model), "openvino", cache_dir=self._settings.cache_dir
                    )
                    maps = ActivationMaps(prepared, prepared.payload(), threads=self._settings.cpus)
                except ModelError as error:
                    self._refusal = error
                    raise
                self._ready = maps, load_head(prepared), prepared, SharedDecoder(prepared.framing)
            return self._ready


def _labels_of(word: str, taxonomy: Taxonomy) -> list[int]:
    """Return the outputs of the model that a tag or category stands for."""
    meant = {name.casefold() for name in (word, *taxonomy.descendants(word))}
    labels = [place for place, name in enumerate(taxonomy.names) if name.casefold() in meant]
    if not labels:
        raise UnknownName(f"{shown(word)} is not a tag that the model itself gives, so there is no map of it")
    return labels


def _draw(heat: Floats, facts: Facts, framing: Framing, size_px: int) -> bytes:
    """Return heat by place of the model's square as a PNG over the whole picture."""
    from PIL import Image

    width, height = fitted(facts.width_px, facts.height_px, size_px)
    box, to, at = place(framing, facts.width_px, facts.height_px)
    heat = np.maximum(heat, 0)
    heat /= max(float(heat.max()), 1e-12)
    side = framing.size_px
    smooth = np.asarray(Image.fromarray(heat).resize((side, side), Image.Resampling.BICUBIC))
    smooth = smooth[at[1] : at[1] + to[1], at[0] : at[0] + to[0]]
    across, down = width / facts.width_px, height / facts.height_px
    left, top = max(0, round(box[0] * across)), max(0, round(box[1] * down))
    right = min(width, max(left + 1, round(box[2] * across)))
    bottom = min(height, max(top + 1, round(box[3] * down)))
    inner = Image.fromarray(smooth).resize((right - left, bottom - top), Image.Resampling.BILINEAR)
    whole = np.zeros((height, width), np.float32)
    whole[top:bottom, left:right] = np.clip(np.asarray(inner), 0, 1)
    steps = np.linspace(0, 1, len(_COLORS))
    channels = [np.interp(whole, steps, _COLORS[:, channel]) for channel in range(3)]
    channels.append(255 * _OPAQUE * whole**_ALPHA_POWER)
    drawn = np.stack(channels, axis=2).astype(np.uint8)
    unseen = np.ones(whole.shape, np.bool_)
    unseen[top:bottom, left:right] = False
    drawn[unseen] = _UNSEEN
    out = io.BytesIO()
    Image.fromarray(drawn).save(out, "PNG", compress_level=3)
    return out.getvalue()
