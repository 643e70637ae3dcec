"""Every endpoint, as an application calls it; answers are those of the Python API."""

from __future__ import annotations

import asyncio
import io
import json
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest
from PIL import Image
from serve_kit import HOSTILE, SAMPLES, TWO_THINGS, Server, put_photos, sample_photos, tag_photos

import tagger

PROBLEM = {"type", "title", "status", "detail", "request_id"}


def ids_of(answer):
    return [match["image_id"] for match in answer.json()["matches"]]


def as_json(found):
    return json.loads(json.dumps(found.to_json()))


def problem(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found = answer.json()
    assert set(found) - {"errors", "similar"} == PROBLEM
    assert found["status"] == status
    assert found["request_id"] == answer.headers["x-request-id"]
    return found["detail"]


@pytest.fixture(scope="module")
def opened(served):
    return tagger.open(str(served.collection))


def test_health_and_metrics(client):
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    client.post("/v1/search", json={"tag": "cat"})
    text = client.get("/metrics").text
    assert 'tagger_requests_total{endpoint="search",status="200"}' in text
    assert 'tagger_stage_seconds_bucket{le="0.001",stage="search"}' in text
    assert "tagger_index_images 41.0" in text


def test_collection(client, opened):
    about = client.get("/v1/collection").json()
    manifest = opened.opened_index().manifest
    assert about["images"] == manifest.count == 41
    assert (about["model"], about["model_id"]) == ("efficientnet_lite0", manifest.model_id)
    assert about["index_version"] == manifest.version
    assert about["explains"] is True
    assert about["framing"] == "crop"
    assert 0 < about["age_s"] < 3600


def test_search_is_that_of_the_python_api(client, opened, served):
    address = served.addresses["chelsea.jpg"]
    wanted = {
        "tag": {"tag": "cat", "k": 3},
        "image": {"image_id": address, "k": 7, "offset": 2},
        "images": {"image_id": [address, served.addresses["coffee.jpg"]], "k": 4, "fold": True},
        "filter": {"image_id": address, "k": 9, "filter": {"tags_any": ["dog", "bird"], "min_width_px": 10}},
        "both": {"image_id": address, "tag": "animal"},
    }
    for asked in wanted.values():
        answer = client.post("/v1/search", json=asked)
        assert answer.status_code == 200, answer.text
        assert answer.json() == as_json(opened.search(**asked))
    vector = opened.opened_index().vectors.take(np.array([3]))[0]
    answer = client.post("/v1/search", json={"embedding": vector.tolist(), "k": 3})
    assert answer.json() == as_json(opened.search(embedding=vector, k=3))
    batch = client.post("/v1/search/batch", json={"queries": [*wanted.values(), {"tag": "no such"}]}).json()
    assert batch["results"][:-1] == [as_json(opened.search(**asked)) for asked in wanted.values()]
    assert batch["results"][-1]["status"] == 404


def test_an_image_never_finds_itself_and_pages_follow_each_other(client, served):
    address = served.addresses["koala.jpg"]
    whole = ids_of(client.post("/v1/search", json={"image_id": address, "k": 100}))
    assert len(whole) == 40
    assert address not in whole
    paged, offset = [], 0
    while offset is not None:
        page = client.post("/v1/search", json={"image_id": address, "k": 7, "offset": offset})
        paged += ids_of(page)
        offset = page.json()["next_offset"]
    assert paged == whole


def test_an_uploaded_picture(client, opened, served):
    data = (SAMPLES / "chelsea.jpg").read_bytes()
    answer = client.post(
        "/v1/search",
        files={"file": ("any.jpg", data)},
        data={"k": "3", "fold": "true", "filter": '{"tags_any": ["animal"]}'},
    )
    assert answer.json() == as_json(
        opened.search(image=data, k=3, fold=True, filter={"tags_any": ["animal"]})
    )
    assert ids_of(answer)[0] == served.addresses["chelsea.jpg"]
    assert answer.json()["matches"][0]["score"] > 0.999
    assert "not an image" in problem(client.post("/v1/search", files={"file": ("x.jpg", b"words")}), 422)
    assert "field `file`" in problem(client.post("/v1/search", files={"picture": ("x.jpg", data)}), 422)
    assert "k: must be" in problem(
        client.post("/v1/search", files={"file": ("x.jpg", data)}, data={"k": "many"}), 422
    )
    broken = client.post(
        "/v1/search", content=b"--x\r\n", headers={"content-type": "multipart/form-data; boundary=x"}
    )
    assert problem(broken, 422 if broken.status_code == 422 else 400)


def test_many_pictures_at_once_are_each_answered_as_alone(served, opened):
    pictures = list(sample_photos(12).values())
    alone = [as_json(opened.search(image=data, k=3)) for data in pictures]

    async def together():
        async with httpx.AsyncClient(base_url=served.url, timeout=60) as caller:
            asked = [
                caller.post("/v1/search", files={"file": ("x.jpg", data)}, data={"k": "3"})
                for data in pictures
            ]
            asked.append(caller.post("/v1/search", files={"file": ("x.jpg", b"no picture")}))
            return await asyncio.gather(*asked)

    with ThreadPoolExecutor(1) as pool:  # the browser of other tests leaves an event loop running here
        *answers, bad = pool.submit(asyncio.run, together()).result()
    assert [answer.json() for answer in answers] == alone
    assert bad.status_code == 422


def test_recommend(client, opened, served):
    liked, disliked = served.addresses["chelsea.jpg"], served.addresses["hens.jpg"]
    asked = {
        "positive": [liked],
        "negative": [disliked],
        "k": 4,
        "diversity": 0.5,
        "filter": {"tags_any": ["animal"]},
    }
    answer = client.post("/v1/recommend", json=asked).json()
    found = opened.recommend([liked], [disliked], k=4, diversity=0.5, filter={"tags_any": ["animal"]})
    assert answer == as_json(found)
    assert {match["because"] for match in answer["matches"]} == {liked}
    assert "k:" in problem(client.post("/v1/recommend", json={**asked, "k": 201}), 422)
    assert "at once" in problem(client.post("/v1/recommend", json={**asked, "negative": [liked]}), 422)


def test_tags_complete(client):
    first = client.get("/v1/tags", params={"limit": 3}).json()
    assert first[0] == {"tag": "animal", "parent": None, "count": first[0]["count"]}
    assert [row["count"] for row in first] == sorted((row["count"] for row in first), reverse=True)
    assert "cat" in {row["tag"] for row in client.get("/v1/tags", params={"prefix": "CA"}).json()}
    assert "tiger cat" in {row["tag"] for row in client.get("/v1/tags", params={"prefix": "cat"}).json()}
    assert client.get("/v1/tags", params={"prefix": "zzz"}).json() == []


def test_what_is_known_of_an_image(client, served):
    found = client.get("/v1/image", params={"id": served.addresses["chelsea.jpg"]}).json()
    assert found["tags"][0]["tag"] in {"tiger cat", "Egyptian cat", "tabby"}
    assert found["tags"][0]["parents"][:1] == ["cat"]
    assert {row["tag"] for row in found["categories"]} >= {"cat", "animal"}
    assert found["colors"][0]["fraction"] > 0.1
    assert "there is no image" in problem(client.get("/v1/image", params={"id": "nothing"}), 404)


@pytest.mark.parametrize("name", ["chelsea.jpg", HOSTILE])
def test_pictures_are_encoded_anew(client, served, name):
    params = {"id": served.addresses[name], "size": 200}
    answer = client.get("/v1/image/thumbnail", params=params)
    assert answer.headers["content-type"] == "image/jpeg"
    assert max(Image.open(io.BytesIO(answer.content)).size) == 200
    original = Image.open(SAMPLES / (name if name != HOSTILE else "kitten.jpg"))
    whole = client.get("/v1/image", params={"id": params["id"]}, headers={"accept": "image/*,*/*;q=0.5"})
    shown = Image.open(io.BytesIO(whole.content)).convert("RGB")
    assert shown.size == original.size
    difference = np.abs(np.asarray(shown, np.int16) - np.asarray(original.convert("RGB"), np.int16))
    assert difference.mean() < 6
    again = client.get(
        "/v1/image/thumbnail", params=params, headers={"if-none-match": answer.headers["etag"]}
    )
    assert (again.status_code, again.content) == (304, b"")


def test_a_picture_that_is_gone_is_told(client, served):
    gone = served.addresses["gone.jpg"]
    assert "cannot be shown" in problem(client.get("/v1/image/thumbnail", params={"id": gone}), 404)
    assert client.get("/v1/image", params={"id": gone}).status_code == 200
    size = client.get("/v1/image/thumbnail", params={"id": gone, "size": 5000})
    assert "size" in problem(size, 422)


def test_a_heat_map_lies_where_the_thing_is(client, served):
    """A cat above a cup of coffee: each tag's heat is in its own half."""
    params = {"id": served.addresses[TWO_THINGS], "size": 300}
    thumbnail = Image.open(io.BytesIO(client.get("/v1/image/thumbnail", params=params).content))
    for tag, is_above in (("cat", True), ("animal", True), ("espresso", False)):
        answer = client.get("/v1/image/explain", params={**params, "tag": tag})
        assert answer.headers["content-type"] == "image/png", answer.text
        heat = Image.open(io.BytesIO(answer.content))
        assert (heat.mode, heat.size) == ("RGBA", thumbnail.size)
        pixels = np.asarray(heat, np.float64)
        alpha = pixels[:, :, 3] * (pixels[:, :, 0] > 0)  # a black veil lies on what the CNN did not see
        assert alpha.max() > 150
        rows = alpha.sum(axis=1) / alpha.sum()
        above = rows[: len(rows) // 2].sum()
        assert (above if is_above else 1 - above) > 0.7, (tag, above)
    assert "no tag" in problem(client.get("/v1/image/explain", params={**params, "tag": "catt"}), 404)


def test_ids_of_a_manifest_lead_to_their_pictures(tmp_path):
    photos = sample_photos(3)
    addresses = put_photos(tmp_path / "photos", photos)
    ids = {name: f"sku-{n}" for n, name in enumerate(photos)}
    tag_photos(tmp_path / "collection", addresses, photos, ids=ids)
    with Server(tmp_path / "collection") as server, server.client() as client:
        assert set(ids_of(client.post("/v1/search", json={"image_id": "sku-0"}))) == {"sku-1", "sku-2"}
        assert client.get("/v1/image/thumbnail", params={"id": "sku-1"}).status_code == 200


def test_wrong_questions_are_told_what_is_wrong(client, served):
    address = served.addresses["koala.jpg"]
    nan = client.post(
        "/v1/search",
        content=b'{"embedding": [' + b", ".join([b"NaN"] * 1280) + b"]}",
        headers={"content-type": "application/json"},
    )
    assert "NaN" in problem(nan, 422)
    cases = [
        ({"image_id": address, "k": 10**9}, 422, "k:"),
        ({"image_id": address, "k": 0}, 422, "k: must be greater than or equal to 1"),
        ({"image_id": 5}, 422, "image_id: must be a valid string, or must be a valid array"),
        ({"tag": "cat", "offset": 2000, "fold": True}, 422, "the body: offset must be at most"),
        ({"tag": "cat", "size": 3}, 422, "size: there is no such field"),
        ({"image_id": address, "k": "3"}, 422, "k:"),
        ({"image_id": address, "offset": 10**6}, 422, "offset:"),
        ({"image_id": address, "offset": 2000, "fold": True}, 422, "1,000 with fold"),
        ({"embedding": [1.0, 2.0]}, 409, "list of 1280 numbers"),
        ({"embedding": [1.0] * 1280, "model_id": "another"}, 409, "another"),
        ({"embedding": [0.0] * 1280}, 422, "zeros"),
        ({"tag": "catt"}, 404, "similar: cat"),
        ({"tag": "cat", "filter": {"color": "mauve"}}, 422, "filter.color"),
        ({"tag": "cat", "filter": {"colour": "red"}}, 422, "filter.colour"),
        ({"tag": "cat", "filter": {"tags_any": ["x" * 1000]}}, 422, "tags_any"),
        ({}, 422, "nothing to search for"),
        ({"image_id": "file:///etc/passwd"}, 404, "no image"),
        ({"image_id": "http://169.254.169.254/latest/meta-data"}, 404, "no image"),
        ([], 422, ""),
    ]
    for body, status, words in cases:
        assert words in problem(client.post("/v1/search", json=body), status)
    assert client.post("/v1/search", json={"tag": "catt"}).json()["similar"][0] == "cat"
    grey, gray = (
        client.post("/v1/search", json={"tag": "animal", "filter": {"color": color}}).json()["matches"]
        for color in ("grey", "Gray")
    )
    assert gray == grey
    assert "no such address" in problem(client.get("/v1/nothing"), 404)
    assert "another method" in problem(client.get("/v1/search"), 405)
    assert "Content-Type" in problem(client.post("/v1/search", content=b"{}"), 415)
    for text in (b"{", b"[" * 100_000, b"\xff\xfe", b'{"tag": "\\ud800"}'):
        answer = client.post("/v1/search", content=text, headers={"content-type": "application/json"})
        problem(answer, answer.status_code if answer.status_code in (400, 422) else 400)
