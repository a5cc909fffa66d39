# SPDX-License-Identifier: BSD-3-Clause
"""Network files: the round trip, and that a damaged, foreign or hostile file is a clear error and nothing else."""

import json
import os
import pickle
import stat
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

import svdfast as sf
from svdfast import activations

ALL = [name for name in activations.__all__ if name != "Activation"]


def network(form="dense", dtype="float32"):
    net = sf.Network([4, 6, 5, 3], dtype=dtype, seed=0)
    if form == "factored":
        net.truncate(ranks=[2, None], force=True)
    return net


def same(a, b):
    assert a.layout == b.layout
    assert a.dtype == b.dtype and a.uint8_scale == b.uint8_scale
    np.testing.assert_array_equal(a.parameters, b.parameters)
    X = np.random.default_rng(0).standard_normal((7, a.sizes[0]))
    np.testing.assert_array_equal(a.predict(X), b.predict(X))


# ---- round trip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("as_text", [True, False])
def test_round_trip(form, dtype, as_text, tmp_path):
    net = network(form, dtype)
    path = tmp_path / "net.npz"
    net.save(str(path) if as_text else path)
    again = sf.load(str(path) if as_text else path)
    same(net, again)
    assert again.is_factored == (form == "factored")
    assert again.parameters.ctypes.data % 64 == 0 and again.parameters.flags.writeable
    sf.train(again, np.zeros((5, 4)), [0, 1, 2, 0, 1], epochs=1)
    assert os.listdir(tmp_path) == ["net.npz"]


@pytest.mark.parametrize("name", ALL)
def test_round_trip_of_all_activations(name, tmp_path):
    parameter = {"leaky_relu": (0.3,), "elu": (0.7,), "celu": (1.7,)}.get(name, ())
    function = getattr(activations, name)(*parameter)
    net = sf.Network([3, 4, 5, 2], hidden=[function, "tanh"], output=function, uint8_scale=0.3)
    net.save(tmp_path / "net.npz")
    again = sf.load(tmp_path / "net.npz")
    assert again.layers[0].activation == function == again.layers[2].activation
    same(net, again)


def test_round_trip_of_a_single_layer_and_of_extreme_numbers(tmp_path):
    net = sf.Network([2, 1], output="identity", dtype="float64")
    net.parameters[:] = [np.nextafter(0, 1), -1.7976931348623157e308, -0.0]
    net.save(tmp_path / "net.npz")
    again = sf.load(tmp_path / "net.npz")
    assert again.parameters.tobytes() == net.parameters.tobytes()


def test_saving_again_replaces_the_file(tmp_path):
    path = tmp_path / "net.npz"
    network().save(path)
    other = network("factored", "float64")
    other.save(path)
    same(sf.load(path), other)
    assert os.listdir(tmp_path) == ["net.npz"]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_the_file_has_the_permissions_of_a_new_file(tmp_path):
    network().save(tmp_path / "net.npz")
    (tmp_path / "other").write_bytes(b"")
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("net.npz", "other")]
    assert modes[0] == modes[1]


def test_the_file_is_plain_numpy(tmp_path):
    """Readable without svdfast, and without pickle."""
    net = network("factored")
    net.save(tmp_path / "net.npz")
    with np.load(tmp_path / "net.npz", allow_pickle=False) as archive:
        header = json.loads(str(archive["header"]))
        np.testing.assert_array_equal(archive["parameters"], net.parameters)
    assert header["sizes"] == [4, 6, 5, 3]
    assert header["ranks"] == [2, None, None]


# ---- saving that fails


@pytest.mark.parametrize("name", ["net", "net.npy", "net.npz.gz", ".npz", ""])
def test_other_names_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"\.npz"):
        network().save(tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        network().save(tmp_path / "nowhere" / "net.npz")
    assert os.listdir(tmp_path) == []


def test_a_folder_of_that_name_is_left(tmp_path):
    (tmp_path / "net.npz").mkdir()
    with pytest.raises(OSError, match=r"net\.npz"):
        network().save(tmp_path / "net.npz")
    assert os.listdir(tmp_path) == ["net.npz"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["savez", "fsync", "replace"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(where, error, tmp_path, monkeypatch):
    path = tmp_path / "net.npz"
    old = network()
    old.save(path)

    def fail(*args, **kwargs):
        if where == "savez":
            args[0].write(b"half a file")
        raise error

    monkeypatch.setattr(np if where == "savez" else os, where, fail)
    with pytest.raises(type(error)):
        network("factored", "float64").save(path)
    monkeypatch.undo()
    assert os.listdir(tmp_path) == ["net.npz"]
    same(sf.load(path), old)


def test_a_disk_that_takes_no_more(tmp_path):
    """An error of the system itself, in the midst of writing."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    path = tmp_path / "net.npz"
    old = network()
    old.save(path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"too large"):
            sf.Network([100, 100, 10], seed=0).save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(tmp_path) == ["net.npz"]
    same(sf.load(path), old)


# ---- loading what is not such a file


def refused(path):
    with pytest.raises(ValueError, match="is not a network file") as caught:
        sf.load(path)
    assert Path(path).name in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        sf.load(tmp_path / "net.npz")


def test_truncated_files(tmp_path):
    path = tmp_path / "net.npz"
    network().save(path)
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        refused(path)


def test_compressed_files_are_refused(tmp_path):
    """They could hold far more than their size."""
    path = tmp_path / "net.npz"
    network().save(path)
    with np.load(path) as archive:
        np.savez_compressed(tmp_path / "net", **archive)
    refused(path)


def test_damaged_files(tmp_path):
    """Any one byte changed: refused, or (a date, say) of no consequence; never another error, nor other numbers."""
    path = tmp_path / "net.npz"
    net = network("factored")
    net.save(path)
    whole = path.read_bytes()
    same(sf.load(path), net)
    n_refused = 0
    for i in range(len(whole)):
        for flip in (0x01, 0xFF):
            damaged = bytearray(whole)
            damaged[i] ^= flip
            path.write_bytes(damaged)
            try:
                again = sf.load(path)
            except ValueError as error:
                assert "is not a network file" in str(error)
                n_refused += 1
            else:
                same(again, net)
    assert n_refused > len(whole)  # of twice as many


def foreign(kind, path):
    net = network()
    if kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("hello")
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(net))
    elif kind == "npy":
        with open(path, "wb") as file:
            np.save(file, net.parameters)
    elif kind == "npz":
        np.savez(path, a=np.zeros(3))
    elif kind == "empty zip":
        zipfile.ZipFile(path, "w").close()
    elif kind == "zip of text":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("header", "{}")
            archive.writestr("parameters", "x")
    elif kind == "folder":
        path.mkdir()


@pytest.mark.parametrize(
    "kind", ["empty", "text", "pickle", "npy", "npz", "empty zip", "zip of text", "folder"]
)
def test_foreign_files(kind, tmp_path):
    path = tmp_path / "net.npz"
    foreign(kind, path)
    refused(path)


class Trap:
    """Unpickled, it leaves a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return Path.touch, (Path(self.path),)


@pytest.mark.parametrize("place", ["header", "parameters"])
def test_nothing_is_unpickled(place, tmp_path):
    path, trace = tmp_path / "net.npz", tmp_path / "trace"
    network().save(path)
    with np.load(path) as archive:
        content = dict(archive)
    trap = np.empty(1, dtype=object)
    trap[0] = Trap(trace)
    np.savez(path, **{**content, place: trap})
    refused(path)
    assert not trace.exists()
    np.load(path, allow_pickle=True)[place]
    assert trace.exists()  # the trap works


HEADERS = [
    dict(format="svdfast network 2"),
    dict(format=None),
    dict(sizes=[4]),
    dict(sizes=[]),
    dict(sizes=None),
    dict(sizes=[4, 6, 5, 4]),
    dict(sizes=[4, 6, 3]),
    dict(sizes=[4, 6, 5, 0]),
    dict(sizes=[4, -6, 5, 3]),
    dict(sizes=[4, 6, 5, "x"]),
    dict(sizes=[4, 6, 5, float("inf")]),
    dict(sizes=[4, 6, 5, float("nan")]),
    dict(sizes=[40_000, 20_000, 5, 3]),  # 6 GB, were it believed before the parameters are counted
    dict(sizes=[10**30, 10**30, 5, 3]),
    dict(ranks=[2, None]),
    dict(ranks=[0, None, None]),
    dict(ranks=[5, None, None]),
    dict(ranks=[-1, None, None]),
    dict(ranks=["a", None, None]),
    dict(ranks=[float("inf"), None, None]),
    dict(ranks=None),
    dict(activations=[]),
    dict(activations=[["relu", 1.0]] * 2),
    dict(activations=[["relu", 1.0]] * 4),
    dict(activations=[["swish", 1.0]] * 3),
    dict(activations=[["relu"]] * 3),
    dict(activations=[["relu", "x"]] * 3),
    dict(activations=["relu"] * 3),
    dict(activations=None),
    dict(activations=[["elu", -1.0]] * 3),
    dict(activations=[["celu", 0.0]] * 3),
    dict(activations=[["leaky_relu", float("nan")]] * 3),
    dict(uint8_scale=-1),
    dict(uint8_scale=0),
    dict(uint8_scale="x"),
    dict(uint8_scale=float("nan")),
    dict(uint8_scale=None),
]


def forge(path, parameters=None, text=None, drop=None, **changes):
    network().save(path)
    with np.load(path) as archive:
        header = json.loads(str(archive["header"]))
        kept = archive["parameters"]
    header.update(changes)
    header.pop(drop, None)
    content = json.dumps(header) if text is None else text
    np.savez(
        path,
        header=np.array(content),
        parameters=kept if parameters is None else np.asarray(parameters),
    )


@pytest.mark.parametrize("changes", HEADERS, ids=str)
def test_forged_headers(changes, tmp_path):
    path = tmp_path / "net.npz"
    forge(path)
    same(sf.load(path), network())  # forging works
    forge(path, **changes)
    refused(path)


def test_a_factored_output_layer_is_refused(tmp_path):
    """truncate leaves it dense, and so does everything else."""
    path = tmp_path / "net.npz"
    size = 4 * 6 + 6 * 5 + 2 * (5 + 3) + 14
    forge(path, ranks=[None, None, 2], parameters=np.zeros(size, "float32"))
    refused(path)


@pytest.mark.parametrize("drop", ["format", "sizes", "ranks", "activations", "uint8_scale"])
def test_headers_that_lack_something(drop, tmp_path):
    path = tmp_path / "net.npz"
    forge(path, drop=drop)
    refused(path)


@pytest.mark.parametrize("text", ["", "[1]", "3", "null", "{", "[" * 100_000, '"' + "x" * 10])
def test_headers_that_are_no_json_object(text, tmp_path):
    path = tmp_path / "net.npz"
    forge(path, text=text)
    refused(path)


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p[:-1],
        lambda p: np.append(p, p[:1]),
        lambda p: p[np.newaxis],
        lambda p: p[0],
        lambda p: p.astype(int),
        lambda p: p.astype("float16"),
        lambda p: p.astype(complex),
        lambda p: p.astype(str),
        lambda p: p.astype(p.dtype.newbyteorder()),
    ],
)
def test_forged_parameters(change, tmp_path):
    path = tmp_path / "net.npz"
    forge(path, parameters=change(network().parameters))
    refused(path)


def test_an_array_that_claims_more_than_the_file_holds(tmp_path):
    """4 TB by its own header, in a file that is whole by its checksums."""
    path = tmp_path / "net.npz"
    net = network()
    net.save(path)
    with np.load(path) as archive:
        header = archive["header"]
    with zipfile.ZipFile(path, "w") as archive:
        with archive.open("header.npy", "w") as file:
            np.lib.format.write_array(file, header)
        with archive.open("parameters.npy", "w") as file:
            claim = {"descr": "<f4", "fortran_order": False, "shape": (10**12,)}
            np.lib.format.write_array_header_1_0(file, claim)
            file.write(net.parameters.tobytes())
    refused(path)
