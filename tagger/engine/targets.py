"""The collections a run writes to: model, taxonomy and settled rows of each."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import pyarrow as pa
import pyarrow.compute as pc

from tagger.collection import Collection, Config, Tagging
from tagger.engine.options import TagOptions
from tagger.engine.session import require_token
from tagger.engine.tagging import TagSettings
from tagger.errors import SETTLED_CODES, UsageError
from tagger.models import (
    ModelSpec,
    PreparedModel,
    default_backend,
    default_precision,
    find_model,
    prepare,
)
from tagger.settings import Settings
from tagger.source import Source
from tagger.spill import open_database
from tagger.storage import StorageOptions, canonical_uri, open_store
from tagger.tags import DEFAULT_THRESHOLD, DEFAULT_TOP_K, Taxonomy, load_taxonomy

_SETTLED_COLUMNS = ["image_id", "uri", "etag", "status", "error", "model_id"]
_JOB_FOLDER = "/working_dir_files/_ray_pkg_"
SETTLED_SCHEMA = pa.schema([(name, pa.string()) for name in [*_SETTLED_COLUMNS, "part"]])


@dataclass
class Target:
    """One collection of a run, its model, and the taxonomy that makes its tags.

    Attributes:
        collection: Where the rows go.
        spec: The model, by name.
        prepared: The model, made ready on the driver.
        taxonomy: Labels to tags and categories.
    """

    collection: Collection
    spec: ModelSpec
    prepared: PreparedModel
    taxonomy: Taxonomy

    def require_settings(self, options: TagOptions) -> None:
        """Refuse settings that differ from those of the rows that are there.

        Raises:
            CollectionError: They differ; the text names `tagger retag`.
        """
        self.collection.config.require_tagging(
            self.collection.uri,
            threshold=options.threshold,
            top_k=options.top_k,
            taxonomy_sha256=self.taxonomy.sha256 if options.taxonomy else None,
        )

    def settle(self, options: TagOptions) -> None:
        """Take over the collection's own taxonomy, under its lease; call it before tagging.

        Raises:
            CollectionError: The settings asked for are not those of the collection.
        """
        self.require_settings(options)
        self.taxonomy = self.collection.taxonomy()

    def prepare_for(self, *, gpu: bool, options: TagOptions, settings: Settings) -> PreparedModel:
        """Return the model as the cluster will run it: what counts are its GPUs, not those of the driver."""
        backend = _backend(options.backend) or ("torch" if gpu else default_backend(gpu=False))
        precision = _precision(options.precision) or default_precision(
            backend, cache_dir=settings.cache_dir, gpu=gpu and backend != "openvino"
        )
        if (self.prepared.backend, self.prepared.precision) != (backend, precision):
            self.prepared = prepare(self.spec, backend, cache_dir=settings.cache_dir, precision=precision)
        return self.prepared

    def tag_settings(self, run_id: str) -> TagSettings:
        """Return what the model actors need to make this collection's rows."""
        tagging = self.collection.config.tagging
        return TagSettings(
            prepared=self.prepared,
            taxonomy=self.taxonomy,
            threshold=tagging.threshold,
            top_k=tagging.top_k,
            run_id=run_id,
            source=self.collection.config.model,
        )

    def rows(self) -> pa.RecordBatchReader | None:
        """Return what the plan compares, and the part that holds each row; None for an empty table."""
        table = self.collection.table
        return table.scan(_SETTLED_COLUMNS, batch_rows=65_536, part_column=True) if table.rows else None

    def old_parts(self, image_ids: Sequence[str]) -> dict[str, set[str]]:
        """Find the live parts that hold rows of these images; reads the ids of the whole table."""
        table = self.collection.table
        wanted = pa.array(sorted(set(image_ids)), pa.string())
        found: dict[str, set[str]] = {}
        for batch in table.scan(["image_id"], batch_rows=65_536, part_column=True):
            for row in batch.filter(pc.is_in(batch.column("image_id"), value_set=wanted)).to_pylist():
                found.setdefault(row["part"], set()).add(row["image_id"])
        return found


def settled_rows(
    targets: Sequence[Target], *, spill_dir: Path, retry_failed: bool = False
) -> pa.RecordBatchReader | None:
    """Return the rows of the first collection for the plan to compare with.

    With several collections an image counts as settled only where all of them have settled it; the rows of
    others come without a model_id, so that the plan takes them up and still knows which part they are in.
    """
    rows = targets[0].rows()
    if rows is None or len(targets) == 1:
        return rows

    database = open_database(temp_directory=str(spill_dir), memory_limit="1GB")
    settled = ", ".join(f"'{code}'" for code in ([] if retry_failed else sorted(SETTLED_CODES)))
    failed = f" OR error IN ({settled})" if settled else ""
    query = "SELECT m.image_id, m.uri, m.etag, m.status, m.error, "
    joins, conditions = "", []
    for n, target in enumerate(targets[1:]):
        database.register(f"other_{n}", target.rows() or SETTLED_SCHEMA.empty_table())
        joins += (
            f" LEFT JOIN (SELECT image_id, etag FROM other_{n}"  # noqa: S608 - names of our own
            f" WHERE status = 'tagged'{failed}) o{n}"
            f" ON o{n}.image_id = m.image_id AND o{n}.etag IS NOT DISTINCT FROM m.etag"
        )
        conditions.append(f"o{n}.image_id IS NOT NULL")
    database.register("m", rows)
    query += (
        f"CASE WHEN {' AND '.join(conditions)} THEN m.model_id ELSE '' END AS model_id, m.part FROM m{joins}"
    )
    return database.sql(query).to_arrow_reader(65_536)


def require_possible(source: Source, collection: str, options: TagOptions, settings: Settings) -> None:
    """Refuse what can be told from the source and the options alone, before anything is made or measured.

    Raises:
        UsageError: A cluster that anybody could use, a place that goes with a job, a second collection that
            would list itself, or a prune that could not know what is gone.
    """
    require_token(options.address or settings.ray_address, settings)
    for place in (source.uri, canonical_uri(collection), *(canonical_uri(also) for _, also in options.also)):
        if _JOB_FOLDER in place:
            raise UsageError(
                f"{place} lies in the folder that Ray unpacked for this job and that goes with it: "
                "name a bucket, or a path that begins with /"
            )
    for _, also in options.also:
        if canonical_uri(also).startswith(f"{source.uri.rstrip('/')}/"):
            raise UsageError(f"the collection {also} lies under the source: put it somewhere else")
    if options.prune and source.is_manifest:
        raise UsageError(
            f"--prune cannot tell from a manifest which images are gone, and {source.uri} is one: name the "
            "bucket, prefix or folder, or leave --prune out"
        )


@dataclass(frozen=True)
class Wish:
    """A collection as the options ask for it, before it is opened.

    Attributes:
        uri: Where it is, or will be.
        spec: The model, by name.
        prepared: The model, made ready on the driver.
        taxonomy: Labels to tags and categories.
        config: What a new collection gets.
    """

    uri: str
    spec: ModelSpec
    prepared: PreparedModel
    taxonomy: Taxonomy
    config: Config


def wishes(collection: str, options: TagOptions, storage: StorageOptions, settings: Settings) -> list[Wish]:
    """Return every collection of a run; the first is the one named on the command line.

    Raises:
        UsageError: An unknown model, a bad taxonomy, two collections that are the same.
    """
    wanted = [(options.model, collection), *options.also]
    uris = [open_store(uri, storage).uri for _, uri in wanted]
    if len(set(uris)) < len(uris):
        raise UsageError("--also must name another collection for each model")
    return [_wish(model, uri, options, settings) for model, uri in wanted]


def _wish(model: str, uri: str, options: TagOptions, settings: Settings) -> Wish:
    spec = find_model(model)
    prepared = prepare(
        spec, _backend(options.backend), cache_dir=settings.cache_dir, precision=_precision(options.precision)
    )
    taxonomy = load_taxonomy(options.taxonomy, prepared.labels, prepared.wnids)
    config = Config(
        model_id=prepared.model_id,
        model=prepared.name,
        dim=prepared.dim,
        labels=prepared.labels,
        activation=prepared.activation,
        head_sha256=prepared.head_sha256,
        wnids=prepared.wnids,
        tagging=Tagging.of(
            taxonomy,
            threshold=DEFAULT_THRESHOLD if options.threshold is None else options.threshold,
            top_k=DEFAULT_TOP_K if options.top_k is None else options.top_k,
        ),
    )
    return Wish(uri, spec, prepared, taxonomy, config)


def open_targets(wanted: Sequence[Wish], options: TagOptions, storage: StorageOptions) -> list[Target]:
    """Open or create every collection of a run.

    Raises:
        UsageError: Another model or taxonomy than a collection's.
    """
    for one in wanted if len(wanted) > 1 else ():  # before one is made: wrong usage leaves nothing behind
        Collection.find(one.uri, one.config, storage)
    targets = []
    for one in wanted:
        opened = Collection.create_or_open(
            one.uri, one.config, storage, taxonomy=one.taxonomy, head=one.prepared.head
        )
        target = Target(opened, one.spec, one.prepared, one.taxonomy)
        target.require_settings(options)
        targets.append(target)
    return targets


def find_targets(wanted: Sequence[Wish], options: TagOptions, storage: StorageOptions) -> list[Target] | None:
    """Open the collections of a run without making any; None where one would have to be made.

    Raises:
        UsageError: As for `open_targets`.
    """
    targets = []
    for one in wanted:
        found = Collection.find(one.uri, one.config, storage)
        if found is not None:
            targets.append(Target(found, one.spec, one.prepared, one.taxonomy))
            targets[-1].require_settings(options)
    return targets if len(targets) == len(wanted) else None


def _backend(name: str | None) -> Literal["openvino", "torch"] | None:
    return cast("Literal['openvino', 'torch'] | None", name)


def _precision(name: str | None) -> Literal["f32", "bf16", "fp16"] | None:
    return cast("Literal['f32', 'bf16', 'fp16'] | None", name)
