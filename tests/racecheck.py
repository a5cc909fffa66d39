# SPDX-License-Identifier: BSD-3-Clause
"""Small trainings of two threads under valgrind's helgrind: no thread touches what another one may be writing.

Run as `python tests/racecheck.py`; it fails, with helgrind's report, where a race has a compiled module of svdfast in its stack, and says
how many parallel regions it saw. helgrind knows what pthreads' own functions order, but not the waiting of libgomp. So the five calls of
OpenMP that svdfast makes are given by THREADS, a library of pthreads alone. The engine is the build as it is installed; nothing is
suppressed. Elsewhere: memory (memcheck.py).
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

THREADS = r"""
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

static __thread int number;
static __thread struct team *own;
static int regions;
struct team { pthread_barrier_t barrier; int size; void (*run)(void *); void *data; };
struct member { struct team *team; int number; };

static void *work(void *given)
{
    struct member *member = given;
    number = member->number;
    own = member->team;
    own->run(own->data);
    own = NULL;
    number = 0;
    return NULL;
}

void GOMP_parallel(void (*run)(void *), void *data, unsigned size, unsigned flags)
{
    struct team team = {.size = size ? (int)size : 1, .run = run, .data = data};
    struct member members[64];
    pthread_t threads[64];
    (void)flags;
    pthread_barrier_init(&team.barrier, NULL, (unsigned)team.size);
    for (int i = 0; i < team.size; i++) {
        members[i] = (struct member){&team, i};
        if (i > 0 && pthread_create(&threads[i], NULL, work, &members[i]) != 0)
            abort();
    }
    regions += team.size > 1;
    work(&members[0]);
    for (int i = 1; i < team.size; i++)
        pthread_join(threads[i], NULL);
    pthread_barrier_destroy(&team.barrier);
}

void GOMP_barrier(void) { if (own != NULL && !getenv("SVDFAST_NO_BARRIER")) pthread_barrier_wait(&own->barrier); }
int omp_get_thread_num(void) { return number; }
int omp_get_num_threads(void) { return own != NULL ? own->size : 1; }
int omp_get_max_threads(void) { return 2; }
__attribute__((destructor)) static void tell(void) { if (regions > 0) fprintf(stderr, "parallel regions: %d\n", regions); }
"""


def trainings():
    """Both ways to form gradients, of each kind of network, with all that lies between the engine's barriers."""
    import numpy as np
    from scipy.sparse import csr_array

    import svdfast as sf
    from svdfast import layers as L

    rng = np.random.default_rng(0)
    method = sf.Factoring(0.3, force=True, pretrain_fraction=1 / 3, recompose_fraction=1 / 3)

    def train(net, X, y, batch_size, **settings):
        settings = {"epochs": 3, "factoring": method, "n_threads": 2, "seed": 0} | settings
        sf.train(net, X, y, batch_size=batch_size, **settings)
        net.predict(X, n_threads=2)
        net.evaluate(X, y, n_threads=2)

    # Weights' gradients by weights, and by tiles; each batch with work enough for two threads.
    for p, batch_size, hidden in ((170, 160, (150, 90)), (1100, 1040, (40, 33))):
        sizes = [19, *hidden, 3]
        X, y = rng.random((p, 19), "f4"), rng.integers(0, 3, p)
        for settings in ({}, {"reproducible": True}, {"clip_norm": 0.1, "precision": "bfloat16"}):
            train(sf.Network(sizes, seed=0), X, y, batch_size, l2=0.01, **settings)
        train(sf.Network(sizes, dtype="float64", seed=0), X, y, batch_size, sample_weight=rng.random(p))
        S = csr_array(X * (X < 0.1))
        train(sf.Network(sizes, seed=0), S, y, batch_size)
        train(sf.Network(sizes, seed=0), S, y, batch_size, optimizer="sgd")
    # Few samples: threads share the outputs of each operation.
    for dtype in ("float32", "float64"):
        net = sf.Network([300, 900, 700, 5], dtype=dtype, seed=0)
        for n in (1, 9):
            net.predict(rng.random((n, 300)).astype(dtype), n_threads=2)
    X, y = rng.random((300, 24), "f4"), rng.integers(0, 3, 300)
    images = [L.Conv2d(40, 3, "relu"), L.Dropout(0.2), L.MaxPool2d(2), L.Flatten(), L.Linear(60, "tanh"), L.Linear(3, "softmax")]
    train(sf.Network(sf.Input(6, 4, 1), images, seed=0), X, y, 290)
    sequences = [L.Masking(), L.LSTM(12, bidirectional=True, return_sequences=True), L.LayerNorm(), L.GRU(12), L.Linear(3, "softmax")]
    train(sf.Network(sf.Input(4, 6), sequences, seed=0), X, y, 290)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trainings", action="store_true", help="only the trainings, without valgrind")
    parser.add_argument("--no-barriers", action="store_true", help="without the engine's barriers, which has to be seen")
    arguments = parser.parse_args()
    if arguments.trainings:
        trainings()
        return
    from memcheck import ENVIRONMENT, errors

    valgrind, compiler = shutil.which("valgrind"), shutil.which("cc")
    if valgrind is None or compiler is None:
        sys.exit("valgrind or a C compiler is not here")
    with tempfile.TemporaryDirectory() as folder:
        report, source, library = Path(folder, "report.xml"), Path(folder, "threads.c"), Path(folder, "threads.so")
        source.write_text(THREADS)
        subprocess.run([compiler, "-O1", "-g", "-shared", "-fPIC", "-o", library, source, "-lpthread"], check=True)
        command = [
            valgrind, "--tool=helgrind", "--error-limit=no", "--num-callers=20", "--history-level=approx", "--xml=yes",
            f"--xml-file={report}", sys.executable, "-P", __file__, "--trainings",
        ]  # fmt: skip
        environment = os.environ | ENVIRONMENT | {"LD_PRELOAD": str(library)}
        if arguments.no_barriers:
            environment["SVDFAST_NO_BARRIER"] = "1"
        done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True)
        found = list(errors(report)) if done.returncode == 0 else []
    for line in found:
        print(line)
    regions = re.search(r"parallel regions: (\d+)", done.stderr)
    if done.returncode != 0 or regions is None:
        sys.exit(f"the trainings ended with {done.returncode}: {done.stderr[-500:]}")
    print(f"helgrind: {regions[1]} parallel regions, {len(found)} races in svdfast")
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
