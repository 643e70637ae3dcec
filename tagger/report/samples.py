"""The best pictures of each tag, found in one pass: the candidates of the contact sheets."""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True, slots=True)
class Picture:
    """An image that the report shows.

    Attributes:
        image_id: Its id.
        uri: Where its bytes are.
        etag: Version of the bytes that was tagged, or None.
    """

    image_id: str
    uri: str
    etag: str | None


@dataclass(frozen=True, slots=True)
class Sample(Picture):
    """An image on a contact sheet.

    Attributes:
        score: Score of the sheet's tag, in [0, 1].
    """

    score: float


class BestSamples:
    """Keeps the best `n` images of every tag, none of them twice in different copies.

    Best score first; equal scores in the order of the perceptual hash, which does not depend on the order of
    the table and mixes names well. Of images with the same hash only one is kept.

    Args:
        n: Images to keep for each tag.
    """

    def __init__(self, n: int) -> None:
        self._n = n
        self._best: list[dict[int, tuple[float, Sample]]] = []  # by tag: hash → (least first, sample)
        self._bar = np.full(64, -np.inf)  # score an image must reach to be kept, by tag

    def add(self, batch: pa.RecordBatch, codes: np.ndarray, rows: np.ndarray, scores: np.ndarray) -> None:
        """Look at the tags of a batch.

        Args:
            batch: Columns image_id, uri, etag, phash.
            codes: Number of the tag of each entry, shape (E,).
            rows: Row of `batch` each entry belongs to, shape (E,).
            scores: Score of each entry, shape (E,).
        """
        top = int(codes.max(initial=-1)) + 1
        while len(self._bar) < top:
            self._bar = np.concatenate([self._bar, np.full(len(self._bar), -np.inf)])
        self._best.extend({} for _ in range(top - len(self._best)))
        chosen = np.flatnonzero(scores >= self._bar[codes])  # few, once the bars are high
        if len(chosen) == 0:
            return
        codes, rows, scores = codes[chosen], rows[chosen], scores[chosen]
        hashes = _hashes(batch, rows)
        order = np.lexsort((hashes, -scores, codes))
        codes, rows, scores, hashes = codes[order], rows[order], scores[order], hashes[order]
        # Copies lie next to each other; of the others, no more than can be kept are looked at one by one.
        fresh = np.ones(len(codes), bool)
        fresh[1:] = (codes[1:] != codes[:-1]) | (hashes[1:] != hashes[:-1]) | (scores[1:] != scores[:-1])
        codes, rows, scores, hashes = codes[fresh], rows[fresh], scores[fresh], hashes[fresh]
        starts = np.flatnonzero(np.concatenate([[True], codes[1:] != codes[:-1]]))
        place = np.arange(len(codes)) - np.repeat(starts, np.diff(np.append(starts, len(codes))))
        near = place < 4 * self._n
        self._keep(batch, codes[near], rows[near], scores[near], hashes[near])

    def of(self, code: int | None) -> list[Sample]:
        """Return the best images of a tag, best first; none for a tag that never came."""
        if code is None or code >= len(self._best):
            return []
        ranked = sorted((-score, key, sample) for key, (score, sample) in self._best[code].items())
        return [sample for _, _, sample in ranked]

    def _keep(
        self,
        batch: pa.RecordBatch,
        codes: np.ndarray,
        rows: np.ndarray,
        scores: np.ndarray,
        hashes: np.ndarray,
    ) -> None:
        names = batch.select(["image_id", "uri", "etag"]).take(pa.array(rows, pa.int64())).to_pylist()
        touched = set()
        for code, score, key, name in zip(
            codes.tolist(), scores.tolist(), hashes.tolist(), names, strict=True
        ):
            best = self._best[code]
            old = best.get(key)
            if old is None or (-score, name["image_id"]) < (-old[0], old[1].image_id):
                best[key] = (score, Sample(name["image_id"], name["uri"], name["etag"], score))
                touched.add(code)
        for code in touched:
            best = self._best[code]
            if len(best) >= self._n:
                ranked = sorted(best, key=lambda key: (-best[key][0], key))
                for key in ranked[self._n :]:
                    del best[key]
                self._bar[code] = best[ranked[self._n - 1]][0]


def _hashes(batch: pa.RecordBatch, rows: np.ndarray) -> np.ndarray:
    """Return the perceptual hash of each entry as uint64; a hash of the id where it has none."""
    take = pa.array(rows, pa.int64())
    texts = batch.column("phash").take(take).to_pylist()
    if None in texts:
        ids = batch.column("image_id").take(take).to_pylist()
        texts = [text if text is not None else one for text, one in zip(texts, ids, strict=True)]
    return np.fromiter((_number(text) for text in texts), np.uint64, len(texts))


def _number(text: str) -> int:
    """Return 64 bits of a text: its own if it is 16 hex digits, else of its SHA-256."""
    if len(text) == 16:
        try:
            return int(text, 16)
        except ValueError:
            pass
    import hashlib

    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
