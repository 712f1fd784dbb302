"""One library, measured on one set in a process of its own; its row is printed as one line of JSON: once it is built, and
again with each effort, so that what was measured is known even if the rest takes too long.

run.py starts this once for each engine, so that one engine's memory is never another's.

A row is: how long building took (seconds, and seconds of processor time), what it took in memory, and for each effort
(ef) of a ladder: recall@10, queries a second on one thread, the same by processor time, p50 and p99 of single calls,
and distances computed for each query where the library says so.

All queries are handed over in one call with one thread, so queries a second are the library's and not Python's; the
best of three passes counts. p50 and p99 are of calls with one query each and hold Python's 5 to 20 us a call.
"""
import argparse
import json
import resource
import time

import numpy as np

import sets

K = 10
LADDER = [10, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 128, 160, 192, 256, 384, 512, 768]
PASSES = 3
SINGLE_CALLS = 1000


def resident():
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Hnswlib:
    """Inner product of vectors of length 1, float32."""
    name = "hnswlib"

    def build(self, base, a):
        import hnswlib
        self.index = hnswlib.Index(space="ip", dim=base.shape[1])
        self.index.init_index(max_elements=len(base), ef_construction=a.ef_construction, M=a.m)
        self.index.add_items(base, np.arange(len(base)), num_threads=a.threads)

    def bytes(self):
        return self.index.index_file_size()

    def effort(self, ef):
        self.index.set_ef(ef)

    def search(self, queries):
        return self.index.knn_query(queries, k=K, num_threads=1)[0], None


class Usearch:
    name = "usearch"
    dtype = "f32"

    def build(self, base, a):
        from usearch.index import Index
        # Its i8 codes come with the cosine; for f32 the inner product of vectors of length 1 is the same and cheaper.
        metric = "cos" if self.dtype == "i8" else "ip"
        self.index = Index(ndim=base.shape[1], metric=metric, dtype=self.dtype, connectivity=a.m,
                           expansion_add=a.ef_construction)
        self.index.add(np.arange(len(base)), base, threads=a.threads)

    def bytes(self):
        return self.index.memory_usage

    def effort(self, ef):
        self.index.expansion_search = ef

    def search(self, queries):
        found = self.index.search(queries, K, threads=1)
        return found.keys.reshape(len(queries), -1), found.computed_distances / len(queries)


class UsearchI8(Usearch):
    """8-bit codes alone: nothing is compared again with the full vectors."""
    name = "usearch-i8"
    dtype = "i8"


class FaissFlat:
    name = "faiss-hnsw"

    def build(self, base, a):
        import faiss
        self.faiss = faiss
        faiss.omp_set_num_threads(a.threads)
        self.make(base, a)
        faiss.omp_set_num_threads(1)

    def make(self, base, a):
        self.graph = self.index = self.faiss.IndexHNSWFlat(base.shape[1], a.m, self.faiss.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = a.ef_construction
        self.index.add(base)

    def bytes(self):
        return len(self.faiss.serialize_index(self.index))

    def effort(self, ef):
        self.graph.hnsw.efSearch = ef

    def search(self, queries):
        stats = self.faiss.cvar.hnsw_stats
        stats.reset()
        _, found = self.index.search(queries, K)
        return found, stats.ndis / len(queries)


def padded(x):
    """With zeros at the end of each row, which change no product, to a multiple of 16 components: of other lengths faiss
    compares 8-bit codes one component at a time, nearly four times slower."""
    lacks = -x.shape[1] % 16
    return np.pad(x, ((0, 0), (0, lacks))) if lacks else x


class FaissSq8(FaissFlat):
    """8-bit codes, one scale for each dimension, alone."""
    name = "faiss-sq8"

    def search(self, queries):
        return super().search(padded(queries))

    def make(self, base, a):
        base = padded(base)
        f = self.faiss
        self.graph = self.index = f.IndexHNSWSQ(base.shape[1], f.ScalarQuantizer.QT_8bit, a.m, f.METRIC_INNER_PRODUCT)
        self.index.hnsw.efConstruction = a.ef_construction
        self.index.train(base)
        self.index.add(base)


class FaissSq8Refine(FaissSq8):
    """The same, and the nearest 2k compared again with the full vectors, which are kept beside the codes. This is what
    loci does, so it is the fair one at high recall."""
    name = "faiss-sq8-refine"

    def make(self, base, a):
        super().make(base, a)
        f, base = self.faiss, padded(base)
        full = f.IndexFlat(base.shape[1], f.METRIC_INNER_PRODUCT)
        full.add(base)
        self.full = full
        self.index = f.IndexRefine(self.graph, full)
        self.index.k_factor = 2.0


class Exact:
    """Every record compared, by matrix product: what recall can be at most on these files."""
    name = "exact"

    def build(self, base, a):
        self.base = base

    def bytes(self):
        return self.base.nbytes

    def effort(self, ef):
        pass

    def search(self, queries):
        return sets.exact(self.base, queries, K), float(len(self.base))


ENGINES = {e.name: e for e in (Hnswlib, Usearch, UsearchI8, FaissFlat, FaissSq8, FaissSq8Refine, Exact)}


def recall(found, truth):
    hits = sum(len(set(f[:K].tolist()) & set(t[:K].tolist())) for f, t in zip(found, truth))
    return hits / (len(truth) * K)


def rung(engine, ef, queries, truth, passes):
    engine.effort(ef)
    found, distances = engine.search(queries)
    wall = cpu = float("inf")
    for _ in range(passes):
        wall_begun, cpu_begun = time.perf_counter(), time.process_time()
        engine.search(queries)
        wall = min(wall, time.perf_counter() - wall_begun)
        cpu = min(cpu, time.process_time() - cpu_begun)
    micros = []
    for query in queries[:SINGLE_CALLS]:
        begun = time.perf_counter()
        engine.search(query[None, :])
        micros.append((time.perf_counter() - begun) * 1e6)
    return dict(ef=ef, recall=recall(found, truth), qps=len(queries) / wall, qps_cpu=len(queries) / max(cpu, 1e-9),
                p50_us=float(np.percentile(micros, 50)), p99_us=float(np.percentile(micros, 99)), distances=distances)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("engine", choices=sorted(ENGINES))
    parser.add_argument("set")
    parser.add_argument("--m", type=int, default=16)
    parser.add_argument("--ef-construction", type=int, default=200)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--queries", type=int, default=0, help="only so many of the queries; 0: all")
    parser.add_argument("--passes", type=int, default=PASSES)
    parser.add_argument("--recall-max", type=float, default=0.9985, help="the ladder ends at the first rung beyond")
    a = parser.parse_args()

    base, queries, truth = sets.load(a.set)
    if a.queries:
        queries, truth = queries[:a.queries], truth[:a.queries]
    engine = ENGINES[a.engine]()
    before, begun, cpu_begun = resident(), time.perf_counter(), time.process_time()
    engine.build(base, a)
    seconds, cpu_seconds = time.perf_counter() - begun, time.process_time() - cpu_begun
    growth, growth_peak = resident() - before, peak() - before

    import importlib.metadata as metadata
    package = {"usearch-i8": "usearch", "exact": "numpy"}.get(a.engine, a.engine)
    package = "faiss-cpu" if package.startswith("faiss") else package
    row = dict(
        engine=a.engine, version=metadata.version(package), set=a.set.rstrip("/").split("/")[-1], n=len(base),
        d=base.shape[1], queries=len(queries), m=a.m, ef_construction=a.ef_construction, threads=a.threads,
        build_seconds=seconds, build_cpu_seconds=cpu_seconds, memory_bytes=growth, memory_peak_bytes=growth_peak,
        index_bytes=engine.bytes(), vector_bytes=base.nbytes, ladder=[])
    print(json.dumps(row), flush=True)
    for ef in LADDER if a.engine != "exact" else [0]:
        row["ladder"].append(rung(engine, ef, queries, truth, a.passes if ef else 1))
        print(json.dumps(row), flush=True)
        if row["ladder"][-1]["recall"] >= a.recall_max:
            break


if __name__ == "__main__":
    main()
