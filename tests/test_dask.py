# SPDX-License-Identifier: BSD-3-Clause
"""Searches of scikit-learn on the workers of a Dask cluster: two processes of this machine."""

import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("distributed", reason="dask and distributed are not installed")
pytest.importorskip("joblib", reason="joblib is not installed")
pytest.importorskip("sklearn", reason="scikit-learn is not installed")

# In a process of its own, as Dask starts workers anew from the main module.
SEARCH = """
import json, os, warnings
warnings.simplefilter("ignore")
import numpy as np
from dask.distributed import Client, LocalCluster
from joblib import parallel_config
from sklearn.model_selection import GridSearchCV, RandomizedSearchCV
from svdfast.sklearn import SVDMLPClassifier

def threads():
    from svdfast._process.runtime import resolve_threads
    return resolve_threads(None)

def search(kind, **more):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 10)).astype("float32")
    model = SVDMLPClassifier((32, 32), max_iter=5, random_state=0, n_threads=1)
    found = kind(model, {"rank_fraction": [None, 0.25], "learning_rate_init": [1e-3, 1e-2]}, cv=2, **more)
    found.fit(X, X[:, :3].argmax(axis=1))
    return [float(score) for score in found.cv_results_["mean_test_score"]], found.best_params_

if __name__ == "__main__":
    kinds = ((GridSearchCV, {}), (RandomizedSearchCV, {"n_iter": 3, "random_state": 0}))
    alone = [search(kind, **more) for kind, more in kinds]
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster, Client(cluster) as client:
        with parallel_config("dask"):
            shared = [search(kind, **more) for kind, more in kinds]
        workers = client.run(threads)
        loaded = client.run(lambda: "svdfast.sklearn" in __import__("sys").modules)
    print(json.dumps([alone, shared, list(workers.values()), list(loaded.values())]))
"""


def test_searches_on_two_workers(tmp_path):
    script = tmp_path / "search.py"
    script.write_text(SEARCH)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, timeout=180, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    alone, shared, threads, loaded = json.loads(done.stdout.splitlines()[-1])
    assert shared == alone
    assert threads == [1, 1]  # so that trainings do not take the cores from each other
    assert loaded == [True, True]  # both have trained
