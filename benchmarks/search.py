"""Nearest neighbors: k-NN accuracy, and exact search beside approximate libraries.

    python benchmarks/search.py DATA FOLDER [PER_CLASS]

DATA has train/ and val/ with a folder per class. The starter's embeddings of PER_CLASS (100)
training pictures of each class, and of all validation pictures, are kept in FOLDER (run it
twice: the second run measures without the engine's threads in the process). For
100,000 vectors, real ones are filled up with mixtures of two real ones of the same class
(0.5 to 0.9 of the first). Libraries that are installed are measured: faiss, usearch, lancedb.

Times are CPU seconds of this process, all threads added, which other programs on the machine
do not change much; queries are the best of several.
"""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paired

from resnext import Classifier
from resnext.explore import neighbors
from resnext.explore.gather import gather
from resnext.explore.index import IndexDocument, Row, open_index, write

SIZE, QUERIES, COUNT = 100_000, 200, 10
BUILD_OF_PEERS = 20_000  # vectors: a graph over 100,000 takes too long to be run every time
Vectors = np.ndarray[Any, np.dtype[np.float32]]


def embed(data: str, folder: Path, part: str, per_class: int) -> tuple[Vectors, Any]:
    """Return embeddings and labels of a part of a data set, computed once."""
    place = folder / f"{part}.npz"
    if not place.exists():
        items = sorted(gather(data, part=part).items, key=lambda item: (item.label, item.name))
        counts: dict[int, int] = {}
        kept = []
        for item in items:
            counts[item.label] = counts.get(item.label, 0) + 1
            if counts[item.label] <= per_class:
                kept.append(item)
        with Classifier("starter") as classifier:
            rows = classifier.embed([item.source for item in kept])
        np.savez(place, rows=rows, labels=[item.label for item in kept])
    stored = np.load(place)
    return stored["rows"], stored["labels"]


def fill(rows: Vectors, labels: Any, size: int) -> Vectors:
    """Return `size` vectors of length 1: the rows, then mixtures within a class."""
    rng = np.random.default_rng(0)
    order = np.argsort(labels, kind="stable")
    first = rng.integers(0, len(rows), size - len(rows))
    step = rng.integers(1, 50, len(first))
    second = np.minimum(first + step, len(rows) - 1)  # most are of the same class
    share = rng.uniform(0.5, 0.9, (len(first), 1)).astype(np.float32)
    unit = neighbors.unit(rows)
    mixed = np.empty((size, rows.shape[1]), np.float32)
    mixed[: len(rows)] = unit
    for start in range(0, len(first), 10_000):
        some = slice(start, start + 10_000)
        one, other = unit[order[first[some]]], unit[order[second[some]]]
        mixture = share[some] * one + (1 - share[some]) * other
        place = len(rows) + start
        mixed[place : place + len(mixture)] = neighbors.unit(mixture)
    return mixed


def accuracy(train: tuple[Vectors, Any], val: tuple[Vectors, Any]) -> dict[str, float]:
    """Return top-1 of k-NN classification in percent, by k."""
    products, positions = neighbors.nearest(neighbors.unit(train[0]), neighbors.unit(val[0]), 200)
    classes = int(train[1].max()) + 1
    found = {}
    for count in (1, 10, 20, 50, 200):
        labels = train[1][positions[:, :count]]
        shares = neighbors.vote(labels, products[:, :count], classes, temperature=0.07)
        found[f"k = {count}"] = round(100 * float((shares.argmax(axis=1) == val[1]).mean()), 2)
    return found


def clocked(work: Callable[[], Any], *, times: int = 1) -> tuple[float, float, Any]:
    """Return the least CPU and wall seconds, and what the work returned."""
    best_cpu = best_wall = float("inf")
    for _ in range(times):
        cpu, wall = time.process_time(), time.perf_counter()
        result = work()
        best_cpu = min(best_cpu, time.process_time() - cpu)
        best_wall = min(best_wall, time.perf_counter() - wall)
    return best_cpu, best_wall, result


def ours(vectors: Vectors, queries: Vectors, folder: Path) -> dict[str, Any]:
    """Write, open and search an index; compare with a product in float64."""
    place = folder / "bench.index"
    # By hand: faiss beside OpenVINO in one process has ended it without a word.
    document = IndexDocument(
        model="starter", identity="", architecture="", preprocess={},
        embedding_size=vectors.shape[1],
    )  # fmt: skip
    rows = (Row(f"{n:06d}.jpg", vector) for n, vector in enumerate(vectors))
    build, build_wall, _ = clocked(lambda: write(place, document, rows))
    opening, opening_wall, index = clocked(lambda: open_index(place), times=3)
    one, one_wall, _ = clocked(lambda: index.nearest(queries[:1], COUNT), times=20)
    _, few_wall, _ = clocked(lambda: index.nearest(queries[:64], COUNT), times=5)
    many, many_wall, (_, found) = clocked(lambda: index.nearest(queries, COUNT), times=3)
    exact = np.argsort(-(queries.astype(float) @ vectors.T.astype(float)), axis=1)[:, :COUNT]
    return {
        "build_s": round(build, 2),
        "build_wall_s": round(build_wall, 2),
        "open_s": round(opening, 3),
        "open_wall_s": round(opening_wall, 3),
        "query_ms": round(1000 * one, 1),
        "query_wall_ms": round(1000 * one_wall, 1),
        "query_of_64_wall_ms": round(1000 * few_wall / 64, 2),
        "query_of_many_ms": round(1000 * many / len(queries), 2),
        "query_of_many_wall_ms": round(1000 * many_wall / len(queries), 2),
        "megabytes": round(place.stat().st_size / 1e6, 1),
        "recall_at_10": recall(found, exact),
    }


def recall(found: Any, exact: Any) -> float:
    """Return the share of the exact neighbors that were found."""
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), exact.tolist(), strict=True)]
    return sum(hits) / exact.size


def faiss_hnsw(vectors: Vectors, folder: Path) -> tuple[Callable[[Vectors], Any], Path]:
    """Build faiss's HNSW graph over inner products."""
    import faiss

    index = faiss.IndexHNSWFlat(vectors.shape[1], 32, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = 200
    index.add(vectors)
    index.hnsw.efSearch = 64
    faiss.write_index(index, str(folder / "faiss.bin"))
    return (lambda queries: index.search(queries, COUNT)[1]), folder / "faiss.bin"


def usearch_hnsw(vectors: Vectors, folder: Path) -> tuple[Callable[[Vectors], Any], Path]:
    """Build usearch's HNSW graph over cosines in float16."""
    from usearch.index import Index

    index = Index(
        ndim=vectors.shape[1], metric="cos", dtype="f16", connectivity=32,
        expansion_add=200, expansion_search=64,
    )  # fmt: skip
    index.add(np.arange(len(vectors)), vectors)
    index.save(str(folder / "usearch.bin"))
    return (lambda queries: np.array(index.search(queries, COUNT).keys)), folder / "usearch.bin"


def lance(vectors: Vectors, folder: Path) -> tuple[Callable[[Vectors], Any], Path]:
    """Build LanceDB's IVF-PQ index, its usual one, and refine its answers."""
    import lancedb
    import pyarrow as pa
    from lancedb.index import IvfPq

    place = folder / "lance"
    shutil.rmtree(place, ignore_errors=True)  # it would keep what was there before
    column = pa.FixedSizeListArray.from_arrays(vectors.ravel(), vectors.shape[1])
    table = lancedb.connect(place).create_table(
        "v", pa.table({"id": np.arange(len(vectors)), "vector": column}), mode="overwrite"
    )
    table.create_index("vector", config=IvfPq(distance_type="cosine"))

    def search(queries: Vectors) -> Any:
        found = []
        for query in queries:
            asked = table.search(query).distance_type("cosine").nprobes(20).refine_factor(10)
            found.append(asked.limit(COUNT).to_arrow()["id"].to_numpy())
        return np.array(found)

    return search, place


PEERS = {"faiss": faiss_hnsw, "usearch": usearch_hnsw, "lancedb": lance}


def peer(name: str, vectors: Vectors, queries: Vectors, folder: Path) -> dict[str, Any]:
    """Build and search with a library."""
    exact = np.argsort(-(queries @ vectors.T), axis=1)[:, :COUNT]
    build, build_wall, (search, place) = clocked(lambda: PEERS[name](vectors, folder))
    one, one_wall, _ = clocked(lambda: search(queries[:1]), times=20)
    files = [file for file in (place.rglob("*") if place.is_dir() else [place]) if file.is_file()]
    return {
        "vectors": len(vectors),
        "build_s": round(build, 1),
        "build_wall_s": round(build_wall, 1),
        "query_ms": round(1000 * one, 2),
        "query_wall_ms": round(1000 * one_wall, 2),
        "megabytes": round(sum(file.stat().st_size for file in files) / 1e6, 1),
        "recall_at_10": recall(search(queries), exact),
    }


def main(data: str, place: str, per_class: str = "100") -> None:
    """Measure everything and write it down."""
    folder = Path(place)
    folder.mkdir(parents=True, exist_ok=True)
    train = embed(data, folder, "train", int(per_class))
    val = embed(data, folder, "val", 10**9)
    results: dict[str, Any] = {
        "real vectors": len(train[0]),
        "k-NN top-1": accuracy(train, val),
    }
    print(json.dumps(results), file=sys.stderr)
    chosen = np.random.default_rng(1).choice(len(val[0]), QUERIES, replace=False)
    queries = neighbors.unit(val[0][chosen])
    results["exact, 100,000"] = ours(fill(*train, SIZE), queries, folder)
    print(json.dumps(results), file=sys.stderr)
    for name in PEERS:
        if importlib.util.find_spec(name) is not None:
            some = neighbors.unit(train[0][:BUILD_OF_PEERS])
            results[name] = peer(name, some, queries, folder)
            print(json.dumps({name: results[name]}), file=sys.stderr)
    some = neighbors.unit(train[0][:BUILD_OF_PEERS])
    results["exact, 20,000"] = ours(some, queries, folder)
    paired.report("search", results)


if __name__ == "__main__":
    main(*sys.argv[1:])
