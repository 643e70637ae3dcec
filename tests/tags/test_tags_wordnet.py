"""The default table: complete, unique, and what derive_wordnet.py makes of the rules."""

from pathlib import Path

import pytest
from torchvision.models._meta import _IMAGENET_CATEGORIES

from tagger.tags import Taxonomy, load_taxonomy
from tagger.tags.derive_wordnet import derive, imagenet_classes, read_rules
from tagger.tags.taxonomy import walk_up
from tagger.tags.wordnet import TABLE, default_table

DATA_NOUN = Path("/usr/share/wordnet/data.noun")
WNIDS, LABELS = imagenet_classes()


@pytest.fixture(scope="module")
def taxonomy() -> Taxonomy:
    return load_taxonomy(None, LABELS, WNIDS)


def test_every_class_has_a_tag_and_a_category():
    table = default_table()
    assert list(table.tags) == WNIDS
    assert [wnid for wnid, (_, parents) in table.tags.items() if not parents] == []


def test_names_are_unique_over_tags_and_categories():
    table = default_table()
    names = [name.casefold() for name, _ in table.tags.values()] + [
        name.casefold() for name in table.categories
    ]
    assert len(set(names)) == len(names)


def test_categories_come_before_their_parents_and_every_parent_exists():
    order = list(default_table().categories)
    for name, parents in default_table().categories.items():
        for parent in parents:
            assert order.index(parent) > order.index(name)


def test_no_parent_is_said_twice():
    table = default_table()
    for name, parents in [*table.tags.values(), *table.categories.items()]:
        above = {one for parent in parents for one in walk_up(parent, table.categories)}
        assert not above & set(parents), name


def test_collisions_of_imagenet_are_told_apart(taxonomy: Taxonomy):
    by_label = dict(zip(_IMAGENET_CATEGORIES, taxonomy.names, strict=True))
    assert by_label["crane"] == "crane (machine)"
    assert by_label["crane bird"] == "crane (bird)"
    assert (by_label["Cardigan"], by_label["cardigan"]) == ("Cardigan (dog)", "cardigan")
    assert by_label["maillot"] == "maillot (tights)"
    assert by_label["maillot tank suit"] == "maillot (swimsuit)"
    assert (by_label["missile"], by_label["projectile"]) == ("missile", "projectile")
    assert (by_label["sunglass"], by_label["sunglasses"]) == ("sunglass (lens)", "sunglasses")


@pytest.mark.parametrize(
    ("tag", "above"),
    [
        ("tabby", {"cat", "pet", "mammal", "animal"}),
        ("tiger cat", {"cat", "animal"}),
        ("lion", {"big cat", "mammal"}),
        ("golden retriever", {"retriever", "dog", "pet"}),
        ("goldfish", {"fish", "pet"}),
        ("robin", {"songbird", "bird"}),
        ("banana", {"fruit", "food", "food and drink"}),
        ("espresso", {"coffee", "drink", "food and drink"}),
        ("missile", {"rocket", "weapon", "vehicle"}),
        ("convertible", {"car", "motor vehicle", "vehicle"}),
        ("rocking chair", {"chair", "furniture"}),
        ("running shoe", {"shoe", "footwear", "clothing"}),
        ("violin", {"string instrument", "musical instrument"}),
        ("grand piano", {"keyboard instrument", "string instrument", "percussion instrument"}),
        ("castle", {"building", "architecture"}),
        ("hammer", {"tool"}),
        ("laptop", {"computer", "electronics"}),
    ],
)
def test_parents_a_person_expects(taxonomy: Taxonomy, tag: str, above: set[str]):
    assert above <= set(taxonomy.ancestors(tag))


@pytest.mark.parametrize(
    ("tag", "never"),
    [
        ("convertible", "container"),
        ("Brittany spaniel", "toy dog"),
        ("banana", "plant"),
        ("espresso", "food"),
        ("soccer ball", "game"),
        ("sunglasses", "optical instrument"),
        ("mouse (computer)", "animal"),
        ("ring-tailed lemur", "cat"),
    ],
)
def test_parents_that_would_surprise(taxonomy: Taxonomy, tag: str, never: str):
    assert tag in taxonomy.names
    assert never not in taxonomy.ancestors(tag)


def test_abstract_words_are_left_out():
    assert not set(default_table().categories) & {
        "entity",
        "physical entity",
        "object",
        "whole",
        "artifact",
        "instrumentality",
        "matter",
        "abstraction",
        "causal agent",
        "device",
        "covering",
    }


@pytest.mark.skipif(not DATA_NOUN.exists(), reason="needs Debian's wordnet-base")
def test_the_table_is_what_the_script_derives():
    assert derive(DATA_NOUN.read_bytes(), WNIDS, LABELS, read_rules()) == TABLE.read_text(encoding="utf-8")


def test_rules_are_refused_when_they_repeat_or_misspell(tmp_path: Path):
    rules = tmp_path / "rules.tsv"
    rules.write_text("keep\tn02121620\tcat\nkeep\tn02121620\tfelines\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: a second `keep`"):
        read_rules(rules)
    rules.write_text("# a comment\nkeeps\tn02121620\tcat\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: not a rule"):
        read_rules(rules)
