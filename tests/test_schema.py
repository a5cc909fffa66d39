# SPDX-License-Identifier: BSD-3-Clause
"""Files that are written against the schemas that the documentation gives (docs/schema). A change of either is another version.

Elsewhere: what reading refuses (test_io.py, test_checkpoint.py).
"""

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

import svdfast as sf
from svdfast import layers as L
from svdfast.data.preparation import Categorical, Numeric, Preparation, Target
from svdfast.interop import files
from svdfast.model.network import Network
from svdfast.model.origin import Origin
from svdfast.training import checkpoint

SCHEMAS = Path(__file__).resolve().parent.parent / "docs" / "schema"

pytestmark = pytest.mark.skipif(
    not SCHEMAS.is_dir(), reason="the documentation is not beside the tests"
)


def schema(name):
    return json.loads((SCHEMAS / f"{name}.json").read_text(encoding="utf-8"))


def validator(name):
    package = pytest.importorskip("jsonschema", reason="jsonschema is not installed")
    package.Draft202012Validator.check_schema(schema(name))
    return package.Draft202012Validator(schema(name))


def factored():
    net = sf.Network([8, 6, 5, 3], seed=0)
    net.truncate(ranks=[2, None], force=True)
    return net


def with_table():
    preparation = Preparation(
        (Numeric("age", 38.0), Categorical("sex", ("f", "m"))),
        (Target("pay", ("high", "low", "none")),),
    )
    net = sf.Network([3, 4, 3], seed=0)
    origin = Origin(
        ("high", "low", "none"),
        preparation.feature_names,
        mean=(-1.0, 0.0, 2.0),
        deviation=(1.0, 0.5, 2.0),
        preparation=preparation,
    )
    return Network.of(*net.state, net.uint8_scale, origin)


def with_classes():
    net = sf.Network([3, 4, 2], seed=0, dtype="float64")
    origin = Origin(classes=(False, True), feature_names=("a", "b", "c"))
    return Network.of(*net.state, net.uint8_scale, origin)


def images():
    parts = [
        L.Conv2d(4, 3),
        L.MaxPool2d(2),
        L.Flatten(),
        L.LayerNorm(),
        L.Dropout(0.5),
        L.Linear(3, "softmax"),
    ]
    return sf.Network(sf.Input(8, 8, 1), parts, seed=0)


def sequences():
    parts = [L.Masking(), L.GRU(8, return_sequences=True), L.LSTM(8), L.Linear(2, "softmax")]
    net = sf.Network(sf.Input(None, 3), parts, seed=0)
    net.truncate(ranks=[None, 2, None, None], force=True)
    return net


NETWORKS = [factored, with_table, with_classes, images, sequences]


def header_of(path):
    if path.suffix == ".npz":
        with np.load(path, allow_pickle=False) as archive:
            return json.loads(str(archive["header"]))
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    return json.loads(json.loads(content[8 : 8 + length])["__metadata__"]["svdfast"])


@pytest.mark.parametrize("suffix", files.SUFFIXES)
@pytest.mark.parametrize("make", NETWORKS)
def test_network_files_are_as_the_schema_says(make, suffix, tmp_path):
    if suffix == ".safetensors":
        pytest.importorskip("safetensors", reason="safetensors is not installed")
    path = tmp_path / f"net{suffix}"
    sf.save(make(), path)
    validator("network").validate(header_of(path))
    assert sf.load(path) is not None


def test_the_schema_has_the_version_of_the_files(tmp_path):
    sf.save(factored(), tmp_path / "net.npz")
    properties = schema("network")["properties"]
    written = header_of(tmp_path / "net.npz")
    assert {name: written[name] for name in ("format", "version")} == {
        name: properties[name]["const"] for name in ("format", "version")
    }
    assert schema("network")["title"].endswith(f"version {written['version']}")


@pytest.mark.parametrize(
    "change",
    [
        dict(version=1), dict(format="else"), dict(more=0), dict(layers=[]), dict(origin=None), dict(uint8_scale=0),
        dict(layers=[{"n_in": 8, "n_out": 2, "weight": {"structure": "Dense"}}]), dict(input=[4, 4, 4, 4]),
    ],
)  # fmt: skip
def test_the_schema_refuses_others(change, tmp_path):
    sf.save(factored(), tmp_path / "net.npz")
    assert not validator("network").is_valid(header_of(tmp_path / "net.npz") | change)


def checkpoint_content(path):
    content = path.read_bytes()
    start, _, rest = content.partition(b"\n")
    return start.decode(), json.loads(rest[8 : 8 + int.from_bytes(rest[:8], "little")])


@pytest.mark.parametrize(
    "optimizer, factoring, stopping",
    [
        ("adam", sf.Factoring(1 / 4, force=True), None),
        (sf.GradientDescent(sf.schedules.Cosine(0.1, 20), momentum=0.9), None, None),
        ("adam", "auto", sf.EarlyStopping(patience=2)),
    ],
    ids=["factored", "schedule", "auto"],
)  # fmt: skip
def test_checkpoints_are_as_the_schema_says(optimizer, factoring, stopping, tmp_path):
    X = np.random.default_rng(0).random((60, 7))
    y = X[:, :3].argmax(axis=1)
    path = tmp_path / "training.ckpt"
    sf.train(
        sf.Network([7, 30, 20, 3], seed=0), X, y, epochs=6, batch_size=20, n_threads=1, optimizer=optimizer, factoring=factoring,
        early_stopping=stopping, validation=(X, y) if stopping else None, checkpoint=path,
    )  # fmt: skip
    start, values = checkpoint_content(path)
    validator("checkpoint").validate(values)
    assert schema("checkpoint")["title"].endswith(
        f"version {start.removeprefix('svdfast checkpoint ')}"
    )


def test_records_have_the_fields_of_the_schema():
    """If one has another field, older files can't be read: the format's version has to change, and the schema."""
    given = {
        name: [item["title"] for item in definition["prefixItems"]]
        for name, definition in schema("checkpoint")["$defs"].items()
        if name[0].isupper()
    }
    assert given == {
        name: [field.name for field in fields(kind)] for name, kind in checkpoint._RECORDS.items()
    }
