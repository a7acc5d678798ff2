"""Embeddings are made once, found again by content, and held in bounded memory."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from SemiSAMPlusLib.cohort.volume import Grid, Volume
from SemiSAMPlusLib.generalist.embeddings import EmbeddingStore, content_key

VOLUME = Volume(np.ones((1, 4, 4, 4), dtype=np.float32), Grid((4, 4, 4), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)))


class Plain:
    """A generalist whose embeddings cannot be kept on disk."""

    name, spacing = "plain", None

    def __init__(self) -> None:
        self.embedded = 0

    def embed(self, volume: Volume):
        self.embedded += 1
        return {"x": np.full(100, self.embedded, dtype=np.float64)}  # 800 bytes

    def answer(self, embedding, prompt_sets, region):
        raise NotImplementedError


class Kept(Plain):
    """One whose embeddings can."""

    name, preparation = "kept", "as it likes"

    def embed(self, volume: Volume):
        self.embedded += 1
        return {"0": torch.full((100,), 0.1 + self.embedded)}

    def dump(self, embedding):
        return dict(embedding)

    def load(self, tensors, read_volume):
        return dict(tensors)


class Reader:
    """Counts how often the volume is read."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self) -> Volume:
        self.reads += 1
        return VOLUME


def test_an_embedding_is_made_once_and_found_by_the_next_store(tmp_path: Path) -> None:
    generalist, read = Kept(), Reader()
    store = EmbeddingStore(tmp_path / "Einbettungen é", generalist, "f00d")
    first = store.get("case", read)
    assert store.get("case", read) is first
    assert (generalist.embedded, read.reads) == (1, 1)
    again = EmbeddingStore(tmp_path / "Einbettungen é", generalist, "f00d").get("case", read)
    assert (generalist.embedded, read.reads) == (1, 1)
    assert again["0"].dtype == torch.float16
    assert torch.equal(again["0"], first["0"].half())
    assert len(list((tmp_path / "Einbettungen é").iterdir())) == 1


def test_another_case_other_weights_and_another_preparation_are_other_files(tmp_path: Path) -> None:
    other = Kept()
    other.preparation = "otherwise"
    paths = {
        EmbeddingStore(tmp_path, Kept(), "f00d").path("case"),
        EmbeddingStore(tmp_path, Kept(), "f00d").path("another"),
        EmbeddingStore(tmp_path, Kept(), "beef").path("case"),
        EmbeddingStore(tmp_path, other, "f00d").path("case"),
    }
    assert len(paths) == 4
    assert EmbeddingStore(tmp_path, Kept(), "f00d").path("case") in paths


def test_what_cannot_be_kept_stays_in_memory_alone(tmp_path: Path) -> None:
    generalist = Plain()
    store = EmbeddingStore(tmp_path, generalist)
    assert store.get("case", Reader()) is store.get("case", Reader())
    assert store.path("case") is None
    assert not list(tmp_path.iterdir())


def test_the_least_recently_used_leaves_memory_first() -> None:
    generalist = Plain()
    store = EmbeddingStore(None, generalist, memory_bytes=1700)
    first, second = store.get("1", Reader()), store.get("2", Reader())
    assert store.get("1", Reader()) is first
    store.get("3", Reader())
    assert generalist.embedded == 3
    assert store.get("1", Reader()) is first
    assert store.get("2", Reader()) is not second
    assert generalist.embedded == 4


def test_the_case_at_hand_is_kept_however_large() -> None:
    generalist = Plain()
    store = EmbeddingStore(None, generalist, memory_bytes=1)
    assert store.get("1", Reader()) is store.get("1", Reader())
    assert generalist.embedded == 1


@pytest.mark.parametrize("when", ["asked again", "leaving memory", "closing"])
def test_what_an_embedding_gained_is_kept_too(tmp_path: Path, when: str) -> None:
    store = EmbeddingStore(tmp_path, Kept(), memory_bytes=1)
    store.get("case", Reader())["1"] = torch.ones(3)
    if when == "asked again":
        store.get("case", Reader())
    elif when == "leaving memory":
        store.get("another", Reader())
    else:
        store.close()
    fresh = Kept()
    assert EmbeddingStore(tmp_path, fresh).get("case", Reader()).keys() == {"0", "1"}
    assert fresh.embedded == 0


def test_a_damaged_file_is_made_anew(tmp_path: Path) -> None:
    store = EmbeddingStore(tmp_path, Kept())
    store.get("case", Reader())
    path = store.path("case")
    path.write_bytes(path.read_bytes()[:-20])
    fresh = Kept()
    EmbeddingStore(tmp_path, fresh).get("case", Reader())
    assert fresh.embedded == 1
    EmbeddingStore(tmp_path, fresh).get("case", Reader())
    assert fresh.embedded == 1


def test_a_generalist_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    class Failing(Kept):
        def embed(self, volume: Volume):
            raise RuntimeError("no")

    store = EmbeddingStore(tmp_path, Failing())
    with pytest.raises(RuntimeError):
        store.get("case", Reader())
    with pytest.raises(RuntimeError):
        store.get("case", Reader())
    assert not list(tmp_path.iterdir())


def test_embeddings_made_ahead_are_those_that_are_asked_for(tmp_path: Path) -> None:
    generalist, readers = Kept(), [Reader(), Reader(), Reader()]
    store = EmbeddingStore(tmp_path, generalist)
    store.make_ahead([(lambda key=key: key, reader) for key, reader in zip("abc", readers, strict=True)])
    store.make_ahead([(lambda: pytest.fail("a second going ahead"), Reader())])
    second = store.get("b", readers[1])
    deadline = time.monotonic() + 20
    while generalist.embedded < 3 and time.monotonic() < deadline:
        time.sleep(0.01)
    store.close()
    assert [reader.reads for reader in readers] == [1, 1, 1]
    assert store.get("b", readers[1])["0"] == pytest.approx(second["0"].half().float())
    assert generalist.embedded == 3


def test_what_fails_ahead_fails_where_it_is_asked_for_and_the_next_is_made() -> None:
    store, reader = EmbeddingStore(None, Plain()), Reader()

    def broken() -> Volume:
        raise OSError("gone")

    store.make_ahead([(lambda: "broken", broken), (lambda: "whole", reader)])
    with pytest.raises(OSError, match="gone"):
        store.get("broken", broken)
    deadline = time.monotonic() + 20
    while not reader.reads and time.monotonic() < deadline:
        time.sleep(0.01)
    store.close()
    assert reader.reads == 1


def test_closing_stops_going_ahead() -> None:
    generalist = Plain()
    store = EmbeddingStore(None, generalist)
    store.make_ahead((lambda number=number: str(number), Reader()) for number in range(100_000))
    store.close()
    made = generalist.embedded
    assert made < 100_000
    time.sleep(0.1)
    assert generalist.embedded == made


def test_all_are_made_on_one_thread() -> None:
    threads = set()

    class Noting(Plain):
        def embed(self, volume: Volume):
            threads.add((threading.get_ident(), torch.get_num_threads()))
            return {}

    store = EmbeddingStore(None, Noting())
    store.get("a", Reader())
    for key in "bc":
        other = threading.Thread(target=store.get, args=(key, Reader()))
        other.start()
        other.join()
    assert len(threads) == 1
    assert next(iter(threads))[1] == torch.get_num_threads()


def test_the_content_key_follows_content_and_order_alone(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    (tmp_path / "b").write_bytes(b"2")
    (tmp_path / "copy of a").write_bytes(b"1")
    series = tmp_path / "series"
    series.mkdir()
    (series / "1.dcm").write_bytes(b"1")
    (series / "2.dcm").write_bytes(b"2")
    a, b = tmp_path / "a", tmp_path / "b"
    assert content_key([a]) == content_key([tmp_path / "copy of a"])
    assert len({content_key(paths) for paths in ([a], [b], [a, b], [b, a], [series])}) == 5


@pytest.mark.parametrize(("name", "voxels"), [("a.mhd", "a.raw"), ("a.hdr", "a.img")])
def test_the_content_key_follows_voxels_that_lie_beside_their_header(tmp_path: Path, name: str, voxels: str) -> None:
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    sitk.WriteImage(image, str(tmp_path / name))
    before = content_key([tmp_path / name])
    assert content_key([tmp_path / name]) == before
    sitk.WriteImage(image + 1, str(tmp_path / name))
    assert (tmp_path / voxels).is_file()
    assert content_key([tmp_path / name]) != before
