"""Taxonomy files: what they do, every way they can be wrong, and the stored form."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from tagger.errors import TaxonomyError
from tagger.tags import Entry, Taxonomy, load_taxonomy
from tagger.tags.derive_wordnet import imagenet_classes

WNIDS, LABELS = imagenet_classes()
PLAIN = load_taxonomy(None, LABELS, WNIDS)
DOC = Path(__file__).parents[2] / "docs" / "taxonomy.md"


def load(tmp_path: Path, text: str, name: str = "shop.tsv", labels=LABELS, wnids=WNIDS) -> Taxonomy:
    file = tmp_path / name
    file.write_text(text, encoding="utf-8")
    return load_taxonomy(file, labels, wnids)


def by_name(taxonomy: Taxonomy) -> dict[str, Entry]:
    return {entry.name: entry for entry in (*taxonomy.tags, *taxonomy.nodes)}


# What a file can say


def test_rename_shows_another_name_everywhere(tmp_path: Path):
    taxonomy = load(tmp_path, "rename\ttabby\tstriped cat\nrename\tcat\tfeline friend\n")
    assert "tabby" not in taxonomy.names
    assert "feline friend" in taxonomy.ancestors("striped cat")
    assert set(taxonomy.descendants("feline friend")) >= {"striped cat", "tiger cat"}


def test_two_labels_may_swap_names(tmp_path: Path):
    taxonomy = load(tmp_path, "rename\ttabby\ttiger cat\nrename\ttiger cat\ttabby\n")
    position = PLAIN.names.index("tabby")
    assert taxonomy.names[position : position + 2] == ("tiger cat", "tabby")


@pytest.mark.parametrize("name", ["mouse (computer)", "mouse", "n03793489"])
def test_a_label_is_named_by_its_tag_its_word_or_its_wordnet_id(tmp_path: Path, name: str):
    assert by_name(load(tmp_path, f"threshold\t{name}\t0.7\n"))["mouse (computer)"].threshold == 0.7


def test_a_word_shared_with_a_category_means_the_category(tmp_path: Path):
    # The model's word for the vehicle is `amphibian`, which tagger shows as `amphibian (vehicle)`.
    taxonomy = load(tmp_path, "hide\tamphibian\n")
    assert by_name(taxonomy)["amphibian"].hidden
    assert not by_name(taxonomy)["amphibian (vehicle)"].hidden


def test_own_categories_take_labels_categories_and_each_other(tmp_path: Path):
    taxonomy = load(
        tmp_path,
        "category\tcat\tPet shop\ncategory\tespresso\tPet shop\ncategory\tespresso\tCoffee corner\n"
        "category\tPet shop\tEverything\n",
    )
    assert {"Pet shop", "Coffee corner", "Everything", "coffee"} <= set(taxonomy.ancestors("espresso"))
    assert {"Pet shop", "Everything", "animal"} <= set(taxonomy.ancestors("tabby"))
    assert "Pet shop" not in taxonomy.ancestors("lion")


def test_a_label_can_join_a_default_category(tmp_path: Path):
    assert "pet" in load(tmp_path, "category\tlion\tpet\n").ancestors("lion")


def test_defaults_off_leaves_only_own_categories_with_free_names(tmp_path: Path):
    taxonomy = load(tmp_path, "defaults\toff\ncategory\tmammal\tanimal\ncategory\tbird\tanimal\n")
    assert taxonomy.categories == ("animal",)
    assert taxonomy.ancestors("tabby") == taxonomy.ancestors("robin") == ("animal",)
    assert taxonomy.ancestors("goldfish") == ()


def test_defaults_off_an_own_category_may_share_a_default_name_and_go_on(tmp_path: Path):
    taxonomy = load(tmp_path, "defaults\toff\ncategory\tcat\tcat\ncategory\tlion\tcat\ncategory\tcat\tHome\n")
    assert taxonomy.ancestors("tabby") == taxonomy.ancestors("lion") == ("cat", "Home")


def test_a_model_with_its_own_labels_gets_categories_from_the_file(tmp_path: Path):
    taxonomy = load(tmp_path, "category\tsneaker\tShoes\n", labels=["sneaker", "boot"], wnids=None)
    assert taxonomy.names == ("sneaker", "boot")
    assert taxonomy.categories == ("Shoes",)
    assert taxonomy.descendants("Shoes") == ("sneaker",)


def test_labels_that_share_a_word_get_numbers():
    taxonomy = load_taxonomy(None, ["crane", "Crane", "", "crane (2)", "a\tb"])
    assert taxonomy.names == ("crane", "Crane (2)", "label 2", "crane (2) (2)", "ab")


def test_a_model_with_some_wordnet_ids_keeps_names_unique():
    taxonomy = load_taxonomy(None, ["x", "dog", "tabby"], ["n02123045", "n99999999", "n99999998"])
    assert taxonomy.names == ("tabby", "dog", "tabby (2)")
    assert set(taxonomy.categories) == {"cat", "pet", "mammal", "animal"}


def test_the_examples_of_the_documentation_work_and_say_the_same(tmp_path: Path):
    found = re.findall(
        r"<!-- example: (\S+) -->\n```\w+\n(.*?)```", DOC.read_text(encoding="utf-8"), re.DOTALL
    )
    assert [name for name, _ in found] == ["shop.tsv", "shop.yaml"]
    tsv, yaml = (load(tmp_path, text, name) for name, text in found)
    assert tsv == yaml
    assert tsv.sha256 == yaml.sha256 != PLAIN.sha256
    assert {"Coffee corner", "Kitchen and dining", "groceries"} <= set(tsv.ancestors("espresso"))


def test_windows_line_ends_and_a_byte_order_mark_are_fine(tmp_path: Path):
    assert by_name(load(tmp_path, "\ufeffthreshold\ttabby\t0.5\r\n"))["tabby"].threshold == 0.5


# Every way it can be wrong, with its line

WRONG_TSV = {
    "unknown label": ("hide\ttabby\nhide\ttabbi\n", 2, "did you mean 'tabby'"),
    "wrong case": ("hide\tTabby\n", 1, "did you mean 'tabby'"),
    "unknown and nothing near": ("hide\tqqqqqqqq\n", 1, "unknown label or category 'qqqqqqqq'$"),
    "name after renaming": ("rename\ttabby\tkitty\nhide\tkitty\n", 2, "write 'tabby', its name before"),
    "doubled rename to one name": (
        "rename\ttabby\tkitty\nrename\ttiger cat\tkitty\n",
        2,
        "given on line 1",
    ),
    "rename onto a tag": ("\nrename\ttabby\tespresso\n", 2, "'espresso' is the name of a tag"),
    "rename onto a category": ("rename\ttabby\tDog\n", 1, "upper and lower case"),
    "own category onto a category": ("category\ttabby\tCat\n", 1, "'Cat' is the name of .*, 'cat'; upper"),
    "own category onto a new name": (
        "rename\ttabby\tkitty\ncategory\tlion\tKitty\n",
        2,
        "given on line 1 already, 'kitty'",
    ),
    "category named as a tag": ("category\ttabby\tespresso\n", 1, "'espresso' is a tag"),
    "renamed twice": ("rename\ttabby\ta\nrename\ttabby\tb\n", 2, "a second 'rename' of 'tabby', .*line 1"),
    "threshold twice, named differently": (
        "threshold\ttabby\t0.1\nthreshold\tn02123045\t0.2\n",
        2,
        "a second 'threshold'",
    ),
    "hidden twice": ("hide\ttabby\nhide\ttabby\n", 2, "a second 'hide'"),
    "same category twice": ("category\ttabby\tX\ncategory\ttabby\tX\n", 2, "a second 'category'"),
    "defaults twice": ("defaults\ton\ndefaults\ton\nhide\ttabby\n", 2, "a second 'defaults'"),
    "ring of own": ("category\tlion\tA\ncategory\tA\tB\ncategory\tB\tA\n", 3, "B → A → B"),
    "ring through default": ("category\tdog\tX\ncategory\tX\tterrier\n", 2, "X → terrier → dog → X"),
    "ring of one": ("category\tdog\tdog\n", 1, "dog → dog"),
    "rename of an own category": ("category\tdog\tX\nrename\tX\tY\n", 2, "name this file gives"),
    "number": ("threshold\ttabby\thigh\n", 1, "from 0 to 1, got 'high'"),
    "percent": ("threshold\ttabby\t50%\n", 1, "got '50%'"),
    "comma": ("threshold\ttabby\t0,5\n", 1, "got '0,5'"),
    "above one": ("threshold\ttabby\t1.01\n", 1, "from 0 to 1"),
    "below zero": ("threshold\ttabby\t-0.1\n", 1, "from 0 to 1"),
    "not a number": ("threshold\ttabby\tnan\n", 1, "from 0 to 1"),
    "infinite": ("threshold\ttabby\t1e999\n", 1, "from 0 to 1"),
    "too few columns": ("# x\nrename\ttabby\n", 2, "needs 3 columns .*got 2"),
    "too many columns": ("hide\ttabby\tnow\n", 1, "needs 2 columns .*got 3"),
    "spaces for tabs": ("hide tabby\n", 1, "after 'hide' must be separated by one tab"),
    "unknown kind": ("hides\ttabby\n", 1, "did you mean 'hide'"),
    "empty name": ("rename\ttabby\t \n", 1, "a name is empty"),
    "unprintable name": ("rename\ttabby\ta\x07b\n", 1, "printable"),
    "long name": (f"rename\ttabby\t{'x' * 201}\n", 1, "200 characters"),
    "defaults": ("defaults\tno\n", 1, "on or off"),
    "defaults off and a default": ("hide\tcat\ndefaults\toff\n", 1, "defaults off"),
    "empty": ("", 1, "empty"),
    "only comments": ("# nothing\n\n", 1, "empty"),
}

WRONG_YAML = {
    "not YAML": ("hide:\n  - [tabby\n", 3, "not YAML"),
    "a list": ("- hide\n", 1, "the file must be a mapping"),
    "a word": ("hello\n", 1, "the file must be a mapping"),
    "empty": ("# nothing\n", 1, "empty"),
    "unknown section": ("hide: [tabby]\nrenames: {tabby: x}\n", 2, "did you mean 'rename'"),
    "section twice": ("hide: [tabby]\nhide: [lion]\n", 2, "a second time, first on line 1"),
    "key twice": ("rename:\n  tabby: a\n  tabby: b\n", 3, "a second time, first on line 2"),
    "hide is no list": ("hide:\n  tabby: yes\n", 2, "hide must be a list"),
    "hide is nothing": ("hide:\n", 1, "hide must be a list"),
    "rename is a list": ("rename:\n  - tabby\n", 2, "rename must be a mapping"),
    "category of one word": ("categories:\n  Pets: cat\n", 2, "'Pets' must be a list"),
    "category of nothing": ("categories:\n  Pets: []\n", 2, "'Pets' must be a list"),
    "nested name": ("hide:\n  - [tabby]\n", 2, "a single name"),
    "name read as true": ("categories:\n  Pets: [yes]\n", 2, "put it in quotes"),
    "unknown label": ("categories:\n  Pets:\n    - cat\n    - dgo\n", 4, "did you mean"),
    "threshold": ("threshold:\n  tabby: high\n", 2, "got 'high'"),
    "a Python object": ("hide: [!!python/object/apply:os.system [ls]]\n", 1, "a single name"),
    "a tagged name": ("hide: [!!python/name:os.system tabby]\n", 1, "in quotes"),
    "two documents": ("hide: [tabby]\n---\nhide: [lion]\n", 2, "not YAML"),
    "a control character": ("hide: [tabby]\nrename: {lion: 'a\x01'}\n", 2, "not YAML"),
    "deep nesting": ("[" * 5000, 1, "nested|not YAML"),
}


@pytest.mark.parametrize("case", WRONG_TSV)
def test_a_wrong_tsv_names_file_and_line(tmp_path: Path, case: str):
    text, line, says = WRONG_TSV[case]
    with pytest.raises(TaxonomyError, match=says) as caught:
        load(tmp_path, text)
    assert str(caught.value).startswith(f"{tmp_path / 'shop.tsv'}, line {line}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("case", WRONG_YAML)
def test_a_wrong_yaml_names_file_and_line(tmp_path: Path, case: str):
    text, line, says = WRONG_YAML[case]
    with pytest.raises(TaxonomyError, match=says) as caught:
        load(tmp_path, text, "shop.yml")
    assert str(caught.value).startswith(f"{tmp_path / 'shop.yml'}, line {line}: ")
    assert "\n" not in str(caught.value)


def test_other_encodings_are_refused_with_their_line(tmp_path: Path):
    file = tmp_path / "shop.tsv"
    file.write_bytes(
        "\ufeffhide\ttabby\nrename\tlion\tLöwe\n".encode("utf-8-sig").replace("ö".encode(), b"\xf6")
    )
    with pytest.raises(TaxonomyError, match="line 2: not UTF-8"):
        load_taxonomy(file, LABELS, WNIDS)
    file.write_text("hide\ttabby\n", encoding="utf-16")
    with pytest.raises(TaxonomyError, match="line 1: not UTF-8"):
        load_taxonomy(file, LABELS, WNIDS)


def test_files_that_are_no_taxonomy_are_refused(tmp_path: Path):
    with pytest.raises(TaxonomyError, match="cannot be read: No such file"):
        load_taxonomy(tmp_path / "missing.tsv", LABELS, WNIDS)
    (tmp_path / "folder.tsv").mkdir()
    with pytest.raises(TaxonomyError, match="cannot be read"):
        load_taxonomy(tmp_path / "folder.tsv", LABELS, WNIDS)
    with pytest.raises(TaxonomyError, match=r"must end in \.tsv"):
        load(tmp_path, "hide\ttabby\n", "shop.csv")


def test_a_word_that_several_labels_share_is_ambiguous(tmp_path: Path):
    with pytest.raises(TaxonomyError, match="means several labels"):
        load(tmp_path, "hide\tx\n", labels=["x", "x"], wnids=["n02123045", "n02123159"])


def test_labels_must_fit(tmp_path: Path):
    with pytest.raises(TaxonomyError, match="no labels"):
        load_taxonomy(None, [])
    with pytest.raises(TaxonomyError, match="2 labels, but 1 WordNet ids"):
        load_taxonomy(None, ["a", "b"], ["n02123045"])


# The graph and the stored form


def test_descendants_and_ancestors_mirror_each_other():
    for node in PLAIN.categories:
        for below in PLAIN.descendants(node):
            assert node in PLAIN.ancestors(below)
    assert (
        PLAIN.descendants("tabby") == PLAIN.descendants("no such tag") == PLAIN.ancestors("no such tag") == ()
    )
    assert PLAIN.ancestors("tabby")[:2] == ("cat", "pet")


def test_the_stored_form_comes_back_whole(tmp_path: Path):
    text = "rename\ttabby\tkätzchen\nhide\tlion\nthreshold\tdog\t0.25\ncategory\tdog\tPet shop\n"
    taxonomy = load(tmp_path, text)
    (tmp_path / "shop.tsv").unlink()
    again = Taxonomy.from_json(taxonomy.to_json())
    assert again == taxonomy
    assert again.sha256 == taxonomy.sha256
    assert again.to_json() == taxonomy.to_json()
    values = np.random.default_rng(0).dirichlet(np.full(1000, 0.01), 20).astype(np.float32)
    assert [one.to_pylist() for one in again.assign(values, source="m")] == [
        one.to_pylist() for one in taxonomy.assign(values, source="m")
    ]


def test_the_order_of_lines_does_not_change_the_fingerprint(tmp_path: Path):
    lines = ["hide\tlion", "rename\ttabby\tkitty", "category\tdog\tPet corner", "threshold\tcat\t0.2"]
    one, two = ("\n".join(order) for order in (lines, lines[::-1]))
    assert load(tmp_path, one).sha256 == load(tmp_path, two).sha256


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(format=2),
        lambda content: content.pop("tags"),
        lambda content: content["tags"][0].pop("name"),
        lambda content: content["tags"][0].update(name=7),
        lambda content: content["tags"][0].update(name="\ud800"),
        lambda content: content["tags"][0].update(name=content["tags"][1]["name"].upper()),
        lambda content: content["tags"][0].update(parents="cat"),
        lambda content: content["tags"][0].update(parents=["no such category"]),
        lambda content: content["tags"][0].update(threshold=2),
        lambda content: content["tags"][0].update(threshold=True),
        lambda content: content["tags"][0].update(hidden="yes"),
        lambda content: content["categories"][0].update(parents=[content["categories"][0]["name"]]),
        lambda content: content["categories"].append({"name": "empty", "parents": []}),
        lambda content: content["categories"].extend(
            [{"name": "one", "parents": ["two"]}, {"name": "two", "parents": ["one"]}]
        ),
        lambda content: content.update(tags=3),
    ],
)
def test_an_altered_stored_form_is_refused(change):
    content = json.loads(PLAIN.to_json())
    change(content)
    with pytest.raises(TaxonomyError):
        Taxonomy.from_json(json.dumps(content))


@pytest.mark.parametrize("text", ["", "null", "[]", "{", "3", "[" * 100_000])
def test_what_is_no_stored_form_is_refused(text: str):
    with pytest.raises(TaxonomyError):
        Taxonomy.from_json(text)
