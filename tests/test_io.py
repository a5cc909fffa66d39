# SPDX-License-Identifier: BSD-3-Clause
"""Network files: the round trip, and that a damaged, foreign or hostile file is a clear error and nothing else."""

import json
import os
import pickle
import stat
import struct
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest

import svdfast as sf
from svdfast.data.preparation import Categorical, Numeric, Preparation, Target
from svdfast.model import activations
from svdfast.model.origin import Origin

SUFFIXES = [".npz", ".safetensors"]
REASON = "safetensors is not installed"
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


@pytest.fixture(params=SUFFIXES)
def path(request, tmp_path):
    """Where a network is saved, in either format."""
    if request.param == ".safetensors":
        pytest.importorskip("safetensors", reason=REASON)
    return tmp_path / f"net{request.param}"


# ---- round trip


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", ["dense", "factored"])
@pytest.mark.parametrize("as_text", [True, False])
def test_round_trip(form, dtype, as_text, path):
    net = network(form, dtype)
    sf.save(net, str(path) if as_text else path)
    again = sf.load(str(path) if as_text else path)
    same(net, again)
    assert again.is_factored == (form == "factored")
    assert again.parameters.ctypes.data % 64 == 0 and again.parameters.flags.writeable
    sf.train(again, np.zeros((5, 4)), [0, 1, 2, 0, 1], epochs=1)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize("name", ALL)
def test_round_trip_of_all_activations(name, path):
    parameter = {"leaky_relu": (0.3,), "elu": (0.7,), "celu": (1.7,), "clipped_relu": (0.5,), "hardtanh": (0.5,)}.get(name, ())
    function = getattr(activations, name)(*parameter)
    net = sf.Network([3, 4, 5, 2], hidden=[function, "tanh"], output=function, uint8_scale=0.3)
    sf.save(net, path)
    again = sf.load(path)
    assert again.layers[0].activation == function == again.layers[2].activation
    same(net, again)


def test_round_trip_of_a_single_layer_and_of_extreme_numbers(path):
    net = sf.Network([2, 1], output="identity", dtype="float64")
    net.parameters[:] = [np.nextafter(0, 1), -1.7976931348623157e308, -0.0]
    sf.save(net, path)
    again = sf.load(path)
    assert again.parameters.tobytes() == net.parameters.tobytes()


def test_saving_again_replaces_the_file(path):
    sf.save(network(), path)
    other = network("factored", "float64")
    sf.save(other, path)
    same(sf.load(path), other)
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.skipif(sys.platform == "win32", reason="permissions of POSIX")
def test_the_file_has_the_permissions_of_a_new_file(path):
    sf.save(network(), path)
    other = path.with_name("other")
    other.write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(other.stat().st_mode)


def test_the_file_is_plain_numpy(tmp_path):
    """Readable without svdfast, and without pickle."""
    net = network("factored")
    sf.save(net, tmp_path / "net.npz")
    with np.load(tmp_path / "net.npz", allow_pickle=False) as archive:
        header = json.loads(str(archive["header"]))
        np.testing.assert_array_equal(archive["parameters"], net.parameters)
    assert [(layer["n_in"], layer["n_out"]) for layer in header["layers"]] == [(4, 6), (6, 5), (5, 3)]
    dense = {"structure": "Dense"}
    assert [layer["weight"] for layer in header["layers"]] == [{"structure": "LowRank", "rank": 2}, dense, dense]
    assert header["version"] == 2 and header["svdfast"] == sf.__version__


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_file_is_plain_safetensors(dtype, tmp_path):
    """Readable without svdfast, a tensor by its name; and its sizes are in the header."""
    safetensors = pytest.importorskip("safetensors.numpy", reason=REASON)
    net = network("factored", dtype)
    sf.save(net, tmp_path / "net.safetensors")
    tensors = safetensors.load_file(tmp_path / "net.safetensors")
    first, second, third = net.layers
    expected = {
        "layers.0.W1": first.W1, "layers.0.W2": first.W2, "layers.0.b": first.b,
        "layers.1.W": second.W, "layers.1.b": second.b, "layers.2.W": third.W, "layers.2.b": third.b,
    }  # fmt: skip
    assert tensors.keys() == expected.keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == net.dtype
        np.testing.assert_array_equal(tensor, expected[name])
    with safetensors.safe_open(tmp_path / "net.safetensors", "numpy") as file:
        header = json.loads(file.metadata()["svdfast"])
    weight = {"structure": "LowRank", "rank": 2}
    assert header["layers"][0] == {"n_in": 4, "n_out": 6, "weight": weight, "activation": ["relu", 1.0]}


def test_the_format_is_seen_from_the_content(path):
    net = network("factored")
    sf.save(net, path)
    for name in ("net", "net.bin", "net.safetensors", "net.npz"):
        other = path.with_name(name)
        path.rename(other)
        path = other
        same(sf.load(other), net)


def test_what_is_known_of_the_data(path):
    net = sf.Network([2, 3], seed=0)
    for classes in ((5, -(2**63), 2**63 - 1), ("yes", "no", "né"), (0.5, 1.5, 2.5)):
        columns = Numeric("a", 2.5), Categorical("b", ("c",))
        preparation = None if isinstance(classes[0], bool | float) else Preparation(columns, (Target("y", classes),))
        net.origin = Origin(classes, ("a", "b=c"), (0.1, -1e300), (5e-324, 3.0), preparation)
        sf.save(net, path)
        again = sf.load(path)
        same(again, net)
        assert again.origin == net.origin == net.copy().origin == pickle.loads(pickle.dumps(net)).origin
        assert (again.classes, again.feature_names) == (classes, ("a", "b=c"))
    with pytest.raises(ValueError, match="classes: expected 3 different ones, as the network tells apart, got 2"):
        net.origin = Origin(classes=(1, 2))
    with pytest.raises(TypeError, match="origin: expected an Origin, got str"):
        net.origin = "iris"
    assert net.origin == again.origin


def test_without_the_package(tmp_path, monkeypatch):
    pytest.importorskip("safetensors", reason=REASON)
    path = tmp_path / "net.safetensors"
    sf.save(network(), path)
    monkeypatch.setitem(sys.modules, "safetensors", None)
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    for call in (lambda: sf.load(path), lambda: sf.save(network(), tmp_path / "other.safetensors")):
        with pytest.raises(ImportError, match=r'pip install "svdfast\[safetensors\]"'):
            call()
    assert os.listdir(tmp_path) == ["net.safetensors"]
    (tmp_path / "text").write_text("A" * 20)
    refused(tmp_path / "text")  # what is no such file asks for nothing


# ---- saving that fails


@pytest.mark.parametrize("name", ["net", "net.npy", "net.npz.gz", ".npz", "", ".safetensors", "net.SAFETENSORS"])
def test_other_names_are_refused(name, tmp_path):
    with pytest.raises(ValueError, match=r"\.npz or \.safetensors"):
        sf.save(network(), tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(OSError, match="nowhere"):
        sf.save(network(), tmp_path / "nowhere" / "net.npz")
    assert os.listdir(tmp_path) == []


def test_a_folder_of_that_name_is_left(tmp_path):
    (tmp_path / "net.npz").mkdir()
    with pytest.raises(OSError, match=r"net\.npz"):
        sf.save(network(), tmp_path / "net.npz")
    assert os.listdir(tmp_path) == ["net.npz"]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("where", ["content", "fsync", "replace"])
def test_a_failed_save_leaves_the_old_file_and_nothing_else(where, error, path, monkeypatch):
    old = network()
    sf.save(old, path)

    def fail(*args, **kwargs):
        if where == "content" and path.suffix == ".npz":
            args[0].write(b"half a file")
        raise error

    if where != "content":
        monkeypatch.setattr(os, where, fail)
    elif path.suffix == ".npz":
        monkeypatch.setattr(np.lib.format, "write_array", fail)
    else:
        monkeypatch.setattr("safetensors.numpy.save", fail)
    with pytest.raises(type(error)):
        sf.save(network("factored", "float64"), path)
    monkeypatch.undo()
    assert os.listdir(path.parent) == [path.name]
    same(sf.load(path), old)


def test_a_disk_that_takes_no_more(path):
    """An error of the system itself, in the midst of writing."""
    resource = pytest.importorskip("resource", reason="limits of POSIX")
    old = network()
    sf.save(old, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(OSError, match=r"too large"):
            sf.save(sf.Network([100, 100, 10], seed=0), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert os.listdir(path.parent) == [path.name]
    same(sf.load(path), old)


# ---- loading what is not such a file


def refused(path):
    with pytest.raises(ValueError, match="is not a network file") as caught:
        sf.load(path)
    assert Path(path).name in str(caught.value)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        sf.load(tmp_path / "net.npz")


def test_truncated_files(path):
    sf.save(network(), path)
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        refused(path)


def test_files_with_something_after_their_end(path):
    """Zip archives may have a comment; safetensors files may not."""
    net = network()
    sf.save(net, path)
    path.write_bytes(path.read_bytes() + b"\0")
    if path.suffix == ".npz":
        same(sf.load(path), net)
    else:
        refused(path)


def test_compressed_files_are_refused(tmp_path):
    """They could hold far more than their size."""
    path = tmp_path / "net.npz"
    sf.save(network(), path)
    with np.load(path) as archive:
        np.savez_compressed(tmp_path / "net", **archive)
    refused(path)


def test_damaged_files(path):
    """Any one byte changed: refused, or (a date, say) of no consequence; never another error, nor other numbers."""
    net = network("factored")
    sf.save(net, path)
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
    elif kind == "text like safetensors":
        path.write_text("A" * 8 + "{}")
    elif kind == "magic alone":
        path.write_bytes(b"PK")
    elif kind == "length alone":
        path.write_bytes(bytes(8))
    elif kind == "npz and more":
        np.savez(path, header=np.array("{}"), parameters=net.parameters, more=np.zeros(3))


@pytest.mark.parametrize(
    "kind",
    [
        "empty", "text", "pickle", "npy", "npz", "empty zip", "zip of text", "folder", "text like safetensors", "magic alone",
        "length alone", "npz and more",
    ],
)  # fmt: skip
def test_foreign_files(kind, tmp_path):
    if kind == "text like safetensors":
        pytest.importorskip("safetensors", reason=REASON)
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
    sf.save(network(), path)
    with np.load(path) as archive:
        content = dict(archive)
    trap = np.empty(1, dtype=object)
    trap[0] = Trap(trace)
    np.savez(path, **{**content, place: trap})
    refused(path)
    assert not trace.exists()
    np.load(path, allow_pickle=True)[place]
    assert trace.exists()  # the trap works


def layers(shapes=((4, 6), (6, 5), (5, 3)), **changes):
    """Layers of a header. Of each, by its index as `_0`, or of all, something else in place of what it has there; DROP takes it out."""
    made = []
    for i, (n_in, n_out) in enumerate(shapes):
        activation = ["relu" if i < len(shapes) - 1 else "softmax", 1.0]
        layer = {"n_in": n_in, "n_out": n_out, "weight": {"structure": "Dense"}, "activation": activation}
        layer |= {key: value for key, value in changes.items() if key in layer} | changes.get(f"_{i}", {})
        made.append({key: value for key, value in layer.items() if value is not DROP})
    return made


DROP = object()
INFINITE, NAN, HUGE = float("inf"), float("nan"), 10**30


def low_rank(**fields):
    return {"_0": {"weight": {"structure": "LowRank"} | fields}}


def nested(depth):
    """Lists in lists, which JSON still reads."""
    value = []
    for _ in range(depth):
        value = [value]
    return value


def numeric(name, fill=1.0):
    return dict(kind="numeric", name=name, fill=fill)


COLUMNS = [numeric(name) for name in "abc"]
PREPARATION = dict(columns=[*COLUMNS, numeric("d")], targets=[dict(name="y", classes=["p", "q", "r"])])
WRONG_PREPARATIONS = [
    *(dict(columns=value) for value in ([], "ab", None, [None], [dict(kind="other", name="a")], [numeric("a")] * 4, COLUMNS)),
    *(dict(columns=[*COLUMNS, value]) for value in (
        dict(kind="numeric", name="d"), numeric("d", NAN), numeric("d", "1"), numeric("d", True), numeric(4), numeric("y"), numeric(None),
        *(dict(kind="categorical", name="d", categories=value) for value in ([], "x", ["x", "x"], [4], None, ["x", "z"])),
    )),
    *(dict(targets=value) for value in ([], "y", None, [None], [{}], [dict(name=name, classes=None) for name in "uvw"])),
    *(dict(targets=[dict(name="y", classes=value)]) for value in (
        [], ["x"], "xy", 3, [1, "x", "y"], [1, 2, 2**63], [0.5, 1.5, 2.5], [True, False], ["p", "q"], None, [1, 2, 3],
    )),
]  # fmt: skip
HEADERS = [
    dict(format="network"),
    dict(format=None),
    dict(version=0),
    dict(version=1),
    dict(version=3),
    dict(version=2.0),
    dict(version="2"),
    dict(version=True),
    dict(version=None),
    dict(version=nested(900)),
    dict(svdfast=3),
    *(dict(layers=value) for value in (
        [], None, {}, "x", 3, True, [None], [3], ["x"], [[]], [{}], {"0": layers()[0]}, [layers()], nested(900),
        layers([(4, 6), (6, 5), (5, 4)]),  # others than there are parameters for
        layers([(4, 6), (6, 3)]),
        layers([(4, 6), (5, 5), (5, 3)]),  # that do not fit each other
        layers([(4, 6), (7, 5), (5, 3)]),
        layers([(6, 4), (5, 6), (3, 5)]),
        layers([(40_000, 20_000), (20_000, 5), (5, 3)]),  # 3 GB, were it believed before the parameters are counted
        layers([(HUGE, HUGE), (HUGE, 5), (5, 3)]),
        layers([(2**31 - 1, 2**31 - 1), (2**31 - 1, 5), (5, 3)]),
        [*layers()[:2], None], [*layers(), {}], layers()[:2], layers()[:1], [*layers(), layers()[2]],
    )),
    *(dict(layers=layers(**{f"_{i}": {key: value}})) for i, key in ((0, "n_in"), (1, "n_out"), (2, "n_out")) for value in (
        0, -6, "x", None, True, [], {}, [3], nested(900), 3.0, 0.5, INFINITE, -INFINITE, NAN, HUGE, -HUGE, 2**31, 2**63, DROP,
    )),
    *(dict(layers=layers(_0={"weight": value})) for value in (
        None, 3, "Dense", ["Dense"], [["structure", "Dense"]], {}, {"rank": 2}, DROP, nested(900),
    )),
    *(dict(layers=layers(_0={"weight": {"structure": name}})) for name in (
        "", "dense", "Structure", "Other", "os.system", "x" * 1000, None, 3, True, NAN, ["Dense"], {"structure": "Dense"}, nested(900),
    )),
    *(dict(layers=layers(_0={"weight": {"structure": "Dense"} | fields})) for fields in (
        {"rank": 2}, {"rank": None}, {"n_out": 6}, {"n_in": 4}, {"more": 1}, {"": 1}, {"self": 1}, {"factored": True}, {"kinds": {}},
    )),
    *(dict(layers=layers(**low_rank(**fields))) for fields in (
        {}, {"rank": 2, "more": 1}, {"rank": 2, "n_out": 6}, {"rank": 2, "n_in": 4}, {"rank": 2, "self": 1}, {"Rank": 2},
        *({"rank": value} for value in (
            0, 5, -1, 2.0, "a", "2", None, True, [], [2], {}, nested(900), INFINITE, -INFINITE, NAN, HUGE, -HUGE, 2**31,
        )),
    )),
    *(dict(layers=layers(activation=value)) for value in (
        None, 3, "relu", [], ["relu"], ["relu", 1.0, 1.0], ["swish", 1.0], ["relu", "x"], ["relu", None], ["relu", [1.0]],
        ["relu", True], [None, 1.0], [["relu"], 1.0], [{}, 1.0], {"relu": 1.0}, {"relu": 1.0, "x": 1.0}, "re", nested(900),
        ["elu", -1.0], ["celu", 0.0], ["leaky_relu", NAN], ["elu", INFINITE], ["elu", HUGE * 10**300], DROP,
    )),
    dict(uint8_scale=-1),
    dict(uint8_scale=0),
    dict(uint8_scale="x"),
    dict(uint8_scale=NAN),
    dict(uint8_scale=INFINITE),
    dict(uint8_scale=None),
    dict(origin=None),
    dict(origin={}),
    dict(origin=[1]),
    *(
        dict(origin=dict(classes=None, feature_names=None, mean=None, deviation=None, preparation=None) | change)
        for change in (
            dict(classes=[1, 2]),
            dict(classes=[1, 2, 3, 4]),
            dict(classes=[1, 2, 2]),
            dict(classes=[1, 2, 2.5]),
            dict(classes=[1, 2, 2**63]),
            dict(classes=[1, 2, "x"]),
            dict(classes=3),
            dict(classes="abc"),
            dict(classes=[1, 2, True]),
            dict(classes=[0.5, 1.5, NAN]),
            dict(feature_names=[1, 2, 3, 4]),
            dict(feature_names=["a", "b"]),
            dict(feature_names="abcde"),
            dict(mean=[0.0] * 4),
            dict(deviation=[1.0] * 4),
            dict(mean=[0.0] * 3, deviation=[1.0] * 4),
            dict(mean=[0.0] * 4, deviation=[1.0] * 5),
            dict(mean=[0.0] * 4, deviation=[0.0] * 4),
            dict(mean=[0.0] * 4, deviation=[-1.0] * 4),
            dict(mean=[0.0] * 4, deviation=[float("nan")] * 4),
            dict(mean=[float("inf")] * 4, deviation=[1.0] * 4),
            dict(mean=["x"] * 4, deviation=[1.0] * 4),
            dict(preparation=3),
            dict(preparation={}),
            dict(preparation=[]),
            *(dict(classes=list("pqr"), feature_names=list("abcd"), preparation=PREPARATION | wrong) for wrong in WRONG_PREPARATIONS),
        )
    ),
]


def forge(path, parameters=None, text=None, drop=None, **changes):
    """A file whose header is changed, or that has other parameters, in the format that its name says, and whole by its checksums."""
    sf.save(network(), path.with_suffix(".npz"))
    with np.load(path.with_suffix(".npz")) as archive:
        header = json.loads(str(archive["header"]))
        kept = archive["parameters"]
    header.update(changes)
    header.pop(drop, None)
    content = json.dumps(header) if text is None else text
    if path.suffix == ".npz":
        parameters = kept if parameters is None else np.asarray(parameters)
        np.savez(path, header=np.array(content), parameters=parameters)
    else:
        forge_safetensors(path, content, tensors())


def tensors():
    """Names, types, shapes and bytes of the network's tensors."""
    net = network()
    return {
        f"layers.{i}.{part}": ("F32", list(array.shape), array.tobytes())
        for i, layer in enumerate(net.layers)
        for part, array in (("W", layer.W), ("b", layer.b))
    }


def forge_safetensors(path, text, parts, entries=None, metadata=None):
    """A safetensors file by its bytes; what is given replaces entries of its own header."""
    whole = {"__metadata__": {"svdfast": text}}
    data, crc = b"", zlib.crc32(text.encode())
    for name, (kind, shape, content) in parts.items():
        whole[name] = {"dtype": kind, "shape": shape, "data_offsets": [len(data), len(data) + len(content)]}
        data += content
        crc = zlib.crc32(content, crc)
    whole["__metadata__"]["crc32"] = f"{crc:08x}"
    whole["__metadata__"].update(metadata or {})
    for name, entry in (entries or {}).items():
        whole[name] = whole.get(name, {}) | entry
    header = json.dumps(whole).encode()
    header += b" " * (-len(header) % 8)
    path.write_bytes(struct.pack("<Q", len(header)) + header + data)


@pytest.mark.parametrize("changes", HEADERS, ids=lambda changes: str(changes)[:200])
def test_forged_headers(changes, path):
    forge(path)
    same(sf.load(path), network())  # forging works
    forge(path, **changes)
    refused(path)


@pytest.mark.parametrize("wrote", ["9.9", "x" * 1000, None, [1]])
def test_a_file_of_a_later_format(wrote, path):
    forge(path, version=3, svdfast=wrote, layers="whatever")
    with pytest.raises(ValueError, match=r"format 3, which svdfast .* wrote; this svdfast reads format 2") as caught:
        sf.load(path)
    assert len(str(caught.value)) < 300
    assert str(wrote)[:10] in str(caught.value)


def test_a_file_of_the_first_format(path):
    first = {"sizes": [4, 6, 5, 3], "ranks": [None] * 3, "activations": [["relu", 1.0]] * 2 + [["softmax", 1.0]]}
    forge(path, version=1, svdfast="0.9", drop="layers", **first)
    with pytest.raises(ValueError, match=r"format 1, which svdfast '0\.9' wrote; this svdfast reads format 2"):
        sf.load(path)


def test_a_factored_output_layer_is_refused(tmp_path):
    """truncate leaves it dense, and so does everything else."""
    path = tmp_path / "net.npz"
    factored = {"weight": {"structure": "LowRank", "rank": 2}}
    for i, size in ((1, 4 * 6 + 2 * (6 + 5) + 5 * 3 + 14), (2, 4 * 6 + 6 * 5 + 2 * (5 + 3) + 14)):
        forge(path, layers=layers(**{f"_{i}": factored}), parameters=np.zeros(size, "float32"))
        if i == 1:
            assert sf.load(path).layout.ranks == (None, 2, None)
        else:
            refused(path)


@pytest.mark.parametrize(
    "drop", ["format", "version", "svdfast", "layers", "uint8_scale", "origin"]
)
def test_headers_that_lack_something(drop, path):
    forge(path, drop=drop)
    refused(path)


@pytest.mark.parametrize("text", ["", "[1]", "3", "null", "{", "[" * 100_000, '"' + "x" * 10, "1" * 10_000])
def test_headers_that_are_no_json_object(text, path):
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
    sf.save(net, path)
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


def without(name):
    return {key: part for key, part in tensors().items() if key != name}


def changed(name, kind, shape, content=None):
    return tensors() | {name: (kind, shape, tensors()[name][2] if content is None else content)}


def text():
    """The header as it should be."""
    return json.dumps(
        {
            "format": "svdfast network", "version": 2, "svdfast": "0.1.0", "layers": layers(), "uint8_scale": network().uint8_scale,
            "origin": {"classes": None, "feature_names": None, "mean": None, "deviation": None, "preparation": None},
        }
    )  # fmt: skip


@pytest.mark.parametrize(
    "parts",
    [
        {},
        without("layers.1.b"),
        without("layers.1.W"),
        tensors() | {"layers.3.b": ("F32", [1], bytes(4))},
        tensors() | {"more": ("F32", [0], b"")},
        without("layers.1.b") | {"layers.1.B": ("F32", [5], bytes(20))},
        without("layers.1.W") | {"layers.1.W1": ("F32", [5, 6], bytes(120)), "layers.1.W2": ("F32", [6, 6], bytes(144))},
        changed("layers.0.W", "F32", [4, 6]),
        changed("layers.0.W", "F32", [24]),
        changed("layers.0.W", "F32", [1, 6, 4]),
        changed("layers.0.W", "F32", [6, 3], bytes(72)),
        changed("layers.0.b", "F32", [], bytes(4)),
        changed("layers.0.b", "F64", [6], bytes(48)),
        changed("layers.0.b", "I32", [6]),
        changed("layers.0.b", "BOOL", [6], bytes(6)),
        {name: ("I32", shape, content) for name, (_, shape, content) in tensors().items()},
        {name: ("F16", shape, content[::2]) for name, (_, shape, content) in tensors().items()},
        {name: ("BF16", shape, content[::2]) for name, (_, shape, content) in tensors().items()},
        {name: ("C64", shape, content * 2) for name, (_, shape, content) in tensors().items()},
    ],
    ids=range(19),
)
def test_forged_tensors(parts, tmp_path):
    pytest.importorskip("safetensors", reason=REASON)
    path = tmp_path / "net.safetensors"
    forge_safetensors(path, text(), tensors())
    same(sf.load(path), network())  # forging works
    forge_safetensors(path, text(), parts)
    refused(path)


@pytest.mark.parametrize(
    "entries",
    [
        {"layers.0.W": {"data_offsets": [0, 10**15]}},
        {"layers.0.W": {"data_offsets": [2**64 - 96, 0]}},
        {"layers.0.W": {"data_offsets": [-96, 0]}},
        {"layers.0.W": {"data_offsets": [0, 95]}},
        {"layers.0.W": {"data_offsets": [0]}},
        {"layers.0.W": {"data_offsets": [0, float("nan")]}},
        {"layers.0.W": {"data_offsets": "x"}},
        {"layers.0.W": {"shape": [6, 40_000_000_000]}},
        {"layers.0.W": {"shape": [2**33, 2**33, 2**33]}},
        {"layers.0.W": {"shape": [-6, -4]}},
        {"layers.0.W": {"shape": [6.0, 4.0]}},
        {"layers.0.W": {"shape": None}},
        {"layers.0.W": {"dtype": "F33"}},
        {"layers.0.W": {"dtype": None}},
        {"layers.1.b": {"data_offsets": [96, 116]}},  # another tensor's
        {"__metadata__": {"svdfast": None}},
        {"__metadata__": {"svdfast": {}}},
        {"__metadata__": {"svdfast": 3}},
        {"__metadata__": {"crc32": "00000000"}},
        {"__metadata__": {"crc32": ""}},
    ],
    ids=str,
)
def test_forged_places(entries, tmp_path):
    pytest.importorskip("safetensors", reason=REASON)
    path = tmp_path / "net.safetensors"
    forge_safetensors(path, text(), tensors(), entries)
    refused(path)


@pytest.mark.parametrize("lack", ["svdfast", "crc32", "all"])
def test_metadata_of_something_else(lack, tmp_path):
    """As of any other safetensors file."""
    safetensors = pytest.importorskip("safetensors.numpy", reason=REASON)
    path = tmp_path / "model.safetensors"
    sf.save(network(), path)
    arrays = safetensors.load_file(path)
    with safetensors.safe_open(path, "numpy") as file:
        metadata = file.metadata()
    safetensors.save_file(arrays, path, metadata)
    same(sf.load(path), network())  # another writer, the same file
    metadata.pop(lack, None)
    safetensors.save_file(arrays, path, None if lack == "all" else metadata)
    refused(path)


@pytest.mark.parametrize("length", [0, 1, 2**20, 2**31, 2**62, 2**63, 2**64 - 1])
def test_a_header_longer_or_shorter_than_it_is(length, tmp_path):
    pytest.importorskip("safetensors", reason=REASON)
    path = tmp_path / "net.safetensors"
    sf.save(network(), path)
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    refused(path)


def test_a_small_file_asks_for_little_memory(path):
    """Headers that claim a network of 3 GB, and arrays of as much, whether or not the system has them."""
    large = layers([(40_000, 20_000), (20_000, 5), (5, 3)])
    forge(path, layers=large)
    files = [path, path.with_name(f"other{path.suffix}")]
    claim = text().replace(json.dumps(layers()), json.dumps(large))
    if path.suffix == ".safetensors":
        big = {"dtype": "F32", "shape": [20_000, 40_000], "data_offsets": [0, 3_200_000_000]}
        forge_safetensors(files[1], claim, tensors(), {"layers.0.W": big})
    else:
        with zipfile.ZipFile(files[1], "w") as archive:
            with archive.open("header.npy", "w") as file:
                np.lib.format.write_array(file, np.array(claim))
            with archive.open("parameters.npy", "w") as file:
                big = {"descr": "<f4", "fortran_order": False, "shape": (800_120_046,)}
                np.lib.format.write_array_header_1_0(file, big)
    for forged in files:
        tracemalloc.start()
        refused(forged)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 2_000_000


def test_a_large_network_comes_back_whole(path):
    """Of more tensors than one, and more bytes than a buffer holds."""
    net = sf.Network([300, 700, 500, 10], seed=0)
    net.truncate(0.1)
    sf.save(net, path)
    same(sf.load(path), net)


def test_a_number_is_no_path(tmp_path):
    """It would be an open file's, as 1 is standard output, and be closed."""
    with open(tmp_path / "file", "wb") as file:
        with pytest.raises(TypeError):
            sf.load(file.fileno())
        file.write(b"still open")
        file.flush()
