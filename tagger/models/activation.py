"""Where in a picture the CNN saw a class: class activation maps.

A CNN with global pooling averages its last features over the picture before its last layer weighs them. The
same weights on the features of one place tell what that place gives to a class (Zhou et al., Learning Deep
Features for Discriminative Localization, CVPR 2016). Networks with further layers
between pooling and the last one (MobileNetV3, ConvNeXt) have these applied to each place, too.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from tagger.errors import ModelError
from tagger.models.openvino_convert import import_openvino
from tagger.models.pixels import check_pixels

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy.typing as npt

    from tagger.models.head import Floats
    from tagger.models.prepared import PreparedModel

_POOLS: Final = frozenset({"ReduceMean", "AvgPool", "AdaptiveAvgPool"})
_CLOSE: Final = 1e-3  # of the largest feature: the two ways add in another order


class ActivationMaps:
    """Features of a model by place. Threads may share it.

    Args:
        prepared: A model prepared for the backend `openvino`.
        payload: From `prepared.payload()`.
        threads: CPU threads it may keep busy.

    Raises:
        ModelError: The network has no global pooling, so no place stands for a part of the picture.
    """

    def __init__(self, prepared: PreparedModel, payload: Mapping[str, bytes], *, threads: int = 1) -> None:
        self._size_px = prepared.framing.size_px
        openvino = import_openvino()
        core = openvino.Core()
        read = {"model": payload["body.xml"], "weights": payload["body.bin"]}
        config = {
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": str(threads),
            "ENABLE_CPU_PINNING": False,
        }
        refusal = ModelError(
            f"the model {prepared.name} has no global pooling over places of the picture, so it cannot be "
            "told where it saw a tag"
        )
        graph = core.read_model(**read)
        pool = _last_pool(graph)
        if pool is None:
            raise refusal
        self._channels_last = _axes(pool) == (1, 2)
        name = pool.get_friendly_name()
        graph.add_outputs([pool.input_value(0)])
        self._body = core.compile_model(graph, "CPU", config)
        # The same graph again, cut behind the pooling.
        graph = core.read_model(**read)
        pool = next(op for op in graph.get_ordered_ops() if op.get_friendly_name() == name)
        shape = pool.output(0).get_partial_shape()
        pooled = openvino.opset8.parameter(shape, np.float32)
        pool.output(0).replace(pooled.output(0))
        self._tail = core.compile_model(openvino.Model(graph.get_results(), [pooled]), "CPU", config)
        self._pooled_shape = [dimension.get_length() for dimension in shape]
        self._lock = threading.Lock()
        noise = np.random.default_rng(0).integers(0, 256, (self._size_px, self._size_px, 3), np.uint8)
        places, features = self._run(noise)
        again = self._behind_pooling(places.mean(axis=(0, 1))[None])[0]
        if not np.allclose(again, features, rtol=0, atol=_CLOSE * max(1.0, float(np.abs(features).max()))):
            raise refusal

    def features(self, pixels: npt.NDArray[np.uint8]) -> Floats:
        """Return what goes into the last layer, by place, shape (h, w, D); the top left place first.

        Args:
            pixels: One picture, RGB, shape (S, S, 3).

        Raises:
            ValueError: `pixels` has another shape or type.
        """
        check_pixels(pixels[None], self._size_px)
        with self._lock:
            places, _ = self._run(pixels)
            flat = self._behind_pooling(places.reshape(-1, places.shape[2]))
        return flat.reshape(*places.shape[:2], -1)

    def _run(self, pixels: npt.NDArray[np.uint8]) -> tuple[Floats, Floats]:
        """Return the features before pooling, shape (h, w, C), and those of the whole picture, shape (D,)."""
        batch = np.zeros(self._body.input(0).get_shape(), np.uint8)
        batch[0] = pixels
        found = self._body(batch)
        before: Floats = np.array(found[1][0], np.float32)
        return (before if self._channels_last else before.transpose(1, 2, 0)), np.array(found[0][0])

    def _behind_pooling(self, pooled: Floats) -> Floats:
        """Apply the layers between pooling and the last one to rows of shape (N, C)."""
        batch = self._pooled_shape[0]
        rows = []
        for start in range(0, len(pooled), batch):
            some = pooled[start : start + batch]
            full = np.zeros((batch, pooled.shape[1]), np.float32)
            full[: len(some)] = some
            rows.append(np.array(self._tail(full.reshape(self._pooled_shape))[0][: len(some)]))
        return np.concatenate(rows)


def _last_pool(graph: Any) -> Any:
    """Return the last operation that averages a map of places to one vector; None if there is none."""
    for op in reversed(graph.get_ordered_ops()):
        if op.get_type_name() not in _POOLS:
            continue
        before, after = op.input_value(0).get_partial_shape(), op.output(0).get_partial_shape()
        if len(before) != 4 or not before.is_static or not after.is_static:
            continue
        if _axes(op) in {(1, 2), (2, 3)}:
            return op
    return None


def _axes(op: Any) -> tuple[int, ...]:
    """Return the axes that an operation averages to one value; () where it keeps several."""
    before = [dimension.get_length() for dimension in op.input_value(0).get_partial_shape()]
    after = [dimension.get_length() for dimension in op.output(0).get_partial_shape()]
    if op.get_type_name() == "ReduceMean":
        constant = op.input_value(1).get_node()
        if constant.get_type_name() != "Constant":
            return ()
        return tuple(sorted(int(axis) % len(before) for axis in constant.get_data().ravel()))
    return (2, 3) if after[2:] == [1, 1] else ()
