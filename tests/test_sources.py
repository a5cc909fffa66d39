# SPDX-License-Identifier: BSD-3-Clause
"""Data that are not arrays in memory: row sources, mapped files, iterables of batches. What they give is what arrays give, what is wrong
in them is said with its place, and memory stays bounded.

How samples in memory are checked is test_losses_and_data.py's.
"""

import subprocess
import sys
from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest
from flat import flat

import svdfast as sf
from svdfast.data import rows
from svdfast.data.batches import BatchSource
from svdfast.data.rows import is_row_source
from svdfast.model.evaluation import spec_of
from svdfast.training import auto, run

SIZES = [6, 16, 14, 3]
N = 101
ROW = 6 * 8 + 4  # bytes of a float64 row and its class number


def network(dtype="float64", **settings):
    return sf.Network(settings.pop("sizes", SIZES), **{"dtype": dtype, "seed": 0, **settings})


def samples(n=N, seed=0):
    rng = np.random.default_rng(seed)
    return rng.standard_normal((n, SIZES[0])), rng.integers(0, SIZES[-1], n)


class Rows:
    """A row source over an array, which keeps what was read of it."""

    def __init__(self, array, chunks=None, act=None):
        self.array, self.reads, self.act = np.asarray(array), [], act
        self.shape, self.dtype = self.array.shape, self.array.dtype
        if chunks is not None:
            self.chunks = chunks

    def __getitem__(self, rows):
        assert isinstance(rows, slice) and rows.step is None
        start, stop, _ = rows.indices(len(self.array))
        self.reads.append((start, stop))
        if self.act is not None:
            self.act(len(self.reads))
        return self.array[rows].copy()


@pytest.fixture
def small_pool(monkeypatch):
    """A pool of four blocks of five rows: sets how many bytes a row has."""

    def shrink(row_bytes=ROW, blocks=4, rows_of_each=5):
        monkeypatch.setattr(rows, "POOL_BLOCKS", blocks)
        monkeypatch.setattr(rows, "POOL_BYTES", blocks * rows_of_each * row_bytes)

    shrink()
    return shrink


def trained(X, y, dtype="float64", net=None, **settings):
    net = network(dtype) if net is None else net
    settings = {"epochs": 3, "ranks": 0.25, "pretrain_fraction": 0.4, "force": True, "n_threads": 2} | settings
    result = sf.train(net, X, y, **flat(**settings))
    return net.parameters, [row["loss"] for row in result.history], result


# ---- row sources give what arrays give


@pytest.mark.parametrize("batch_size", [1, 3, 5, 16, 20, 33, 1000])
@pytest.mark.parametrize("kind", ["float64", "float32", "uint8", "int16", ">f4", "bool"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_in_order_a_row_source_is_the_array(small_pool, dtype, kind, batch_size):
    X, y = samples()
    X = (X > 0 if kind == "bool" else np.round(50 * X) % 200).astype(kind)
    settings = dict(dtype=dtype, batch_size=batch_size, shuffle=False, activation_aware=False)
    small_pool(row_bytes=6 * max(X.itemsize, 4) + 4)
    source = Rows(X)
    ours, losses, _ = trained(source, y, **settings)
    theirs, expected, _ = trained(X, y, **settings)
    assert len(source.reads) >= 12  # three times four blocks: it was not read as a whole
    np.testing.assert_array_equal(ours, theirs)
    assert losses == expected


@pytest.mark.parametrize("which", ["X", "y", "weight", "X y", "X y weight"])
@pytest.mark.parametrize("targets", ["classes", "shares", "values", "one value"])
def test_any_part_may_be_a_row_source(small_pool, monkeypatch, targets, which):
    X, y = samples()
    monkeypatch.setattr("svdfast.data.open.read_if_small", lambda name, part, direct: part)
    net = network(output="softmax" if targets in ("classes", "shares") else "identity",
                  sizes=[6, 9, 1 if targets == "one value" else 3])  # fmt: skip
    if targets == "shares":
        y = np.eye(3)[y]
    elif targets != "classes":
        y = X[:, :3] ** 2 if targets == "values" else X[:, 0] ** 2
    weight = np.arange(N) % 4 / 2  # some are 0
    settings = dict(epochs=2, batch_size=8, shuffle=False, factoring=None)
    other = net.copy()
    sf.train(other, X, y, sample_weight=weight, **settings)
    given = {"X": X, "y": y, "weight": weight}
    for name in which.split():
        given[name] = Rows(given[name])
    sf.train(net, given["X"], given["y"], sample_weight=given["weight"], **settings)
    np.testing.assert_array_equal(net.parameters, other.parameters)
    assert net.score(given["X"], given["y"], given["weight"]) == pytest.approx(net.score(X, y, weight), rel=1e-12)
    ours, theirs = (
        net.evaluate(data["X"], data["y"], sample_weight=data["weight"])
        for data in (given, {"X": X, "y": y, "weight": weight})
    )
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12)
    assert ours.accuracy == (None if theirs.accuracy is None else pytest.approx(theirs.accuracy, rel=1e-12))


@pytest.mark.parametrize("shuffle", [True, False])
def test_blocks_are_read_once_an_epoch_and_no_more_at_a_time(small_pool, shuffle):
    X, y = samples()
    source = Rows(X)
    trained(source, y, batch_size=8, shuffle=shuffle)
    assert all(stop - start <= 8 for start, stop in source.reads)  # five rows, or whole batches
    per_epoch = len(source.reads) // 3
    for epoch in range(3):
        rows = [np.arange(*read) for read in source.reads[epoch * per_epoch : (epoch + 1) * per_epoch]]
        rows = np.concatenate(rows)
        np.testing.assert_array_equal(np.sort(rows), np.arange(N))
        assert (np.diff(rows) > 0).all() == (not shuffle)


def test_blocks_are_whole_chunks_or_whole_batches(small_pool):
    X, y = samples()
    small_pool(rows_of_each=10)
    for chunks, batch_size, height in [((3, 6), 4, 9), (None, 4, 8), ((50, 6), 4, 8), (((3, 3),), 11, 10), ((0,), 4, 8)]:
        source = Rows(X, chunks)
        trained(source, y, batch_size=batch_size, epochs=1)
        assert {stop - start for start, stop in source.reads} <= {height, N % height}, (chunks, batch_size)


def seen_order(X_of, n, epochs, batch_size=1, **settings):
    """The order in which samples are taken, an epoch a row: a unit's bias moves by the sample's target."""
    y = np.arange(1.0, n + 1)
    net = sf.Network([1, 1], output="identity", dtype="float64", seed=0)
    net.parameters[:] = 0
    seen = []

    def rate(step, n_steps):
        seen.append(net.layers[0].b[0])
        net.parameters[:] = 0
        return 0.5

    X = X_of(np.zeros((n, 1)))
    sf.train(net, X, y, epochs=epochs, batch_size=batch_size, factoring=None, optimizer=sf.GradientDescent(rate), **settings)
    seen.append(net.layers[0].b[0])
    return np.array(seen[1:]).reshape(epochs, -1)


def test_every_epoch_has_another_order_with_every_row_once(small_pool):
    small_pool(row_bytes=16)
    orders = seen_order(Rows, 103, 4, seed=3)
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(1, 104))
    assert len({tuple(order) for order in orders}) == 4
    np.testing.assert_array_equal(orders, seen_order(Rows, 103, 4, seed=3))
    assert not np.array_equal(orders, seen_order(Rows, 103, 4, seed=4))
    in_order = seen_order(Rows, 103, 2, shuffle=False)
    np.testing.assert_array_equal(in_order, np.tile(np.arange(1, 104), (2, 1)))


def test_a_pool_has_no_more_room_than_there_are_samples(small_pool):
    X, y = samples()
    for batch_size in (N, 1000, 60, 3):
        net = network()
        reader = rows.Reader(Rows(X), y, None, spec_of(net))
        source = rows.RowSource(reader, batch_size, True, np.random.default_rng(0))
        assert source._pool.n_samples < min(N + 1, max(4 * 5, batch_size) + batch_size)
        trained(Rows(X), y, batch_size=batch_size)


def test_how_well_rows_are_shuffled(small_pool):
    """Within a pool uniformly: a block's rows lie all over it. Pools are of blocks from anywhere."""
    small_pool(row_bytes=16, rows_of_each=10)
    orders = seen_order(Rows, 400, 30, seed=0).astype(int) - 1
    block = orders // 10
    for order in block.reshape(-1, 40):
        assert len(set(order)) == 4  # a pool: four blocks
    # Where in its pool a row comes does not depend on its place in the block.
    place = np.empty((30, 400))
    for e, order in enumerate(orders):
        place[e, order] = np.arange(400) % 40
    means = place.reshape(30, 40, 10).mean(axis=(0, 1))
    assert np.abs(means - 19.5).max() < 1.5
    # Any two blocks meet sooner or later: 3 of 39 others each time.
    pools = block.reshape(30, 10, 40)
    met = {other for epoch in pools for pool in epoch if 0 in pool for other in pool}
    assert len(met) > 30


def classes_of_batches(n_classes, n, pool_rows, chunks=None):
    """How many classes each batch of 32 has, of rows that are sorted by class."""
    y = np.repeat(np.arange(n_classes), n // n_classes)
    reader = rows.Reader(Rows(np.zeros((n, 8), "float32"), chunks), y, None, spec_of(sf.Network([8, n_classes])))
    source = rows.RowSource(reader, 32, True, np.random.default_rng(0))
    seen = []
    for samples, order, bounds in source.batches():
        seen += [len(set(samples.targets[order[start:stop]].tolist())) for start, stop in bounds if stop - start == 32]
    assert source._pool.n_samples <= pool_rows + 31
    return source, np.array(seen)


def test_sorted_rows_are_mixed(monkeypatch):
    """A batch is drawn from more than forty places; in memory 32 of 100 classes would be 27.5 different ones, here at most 64 of them."""
    monkeypatch.setattr(rows, "POOL_BYTES", 2048 * 36)  # a tenth of the rows
    source, seen = classes_of_batches(100, 20_000, 2048)
    assert source.block_rows == 32
    assert seen.min() >= 16 and seen.mean() > 23
    _, seen = classes_of_batches(10, 20_000, 2048)
    assert seen.min() >= 7 and seen.mean() > 9


def test_pools_are_of_about_the_same_size(monkeypatch):
    """Else the last would have few blocks, and its batches few classes."""
    monkeypatch.setattr(rows, "POOL_BYTES", 2048 * 36)
    source, seen = classes_of_batches(20, 2400, 2048)
    assert source.n_blocks == 38  # of 75
    assert seen[-4:].min() >= 10


@pytest.mark.parametrize(("chunk", "height"), [(5, 30), (32, 32), (33, 33), (200, 200), (256, 256), (257, 32), (4096, 32)])
def test_a_chunk_is_read_at_once_unless_it_is_too_large(monkeypatch, chunk, height):
    monkeypatch.setattr(rows, "POOL_BYTES", 2048 * 36)
    source, _ = classes_of_batches(10, 20_000, 2048, (chunk, 8))
    assert source.block_rows == height
    assert source.n_blocks >= 8


def test_what_is_small_is_read_once_and_is_an_array(monkeypatch):
    X, y = samples()
    sources_of = Rows(X), Rows(y), Rows(np.ones(N))
    ours, losses, _ = trained(*sources_of[:2], batch_size=8, sample_weight=sources_of[2])
    theirs, expected, _ = trained(X, y, batch_size=8, sample_weight=np.ones(N))
    assert [source.reads for source in sources_of] == [[(0, N)]] * 3
    np.testing.assert_array_equal(ours, theirs)
    assert losses == expected


def test_the_switch_takes_its_sample_from_the_pool(small_pool):
    """At the first step, without shuffling: the first four blocks of eight rows."""
    X, y = samples()
    small_pool(rows_of_each=8)
    net, other = network(), network()
    factoring = sf.Factoring([4, 3], pretrain_fraction=0, force=True, recompose=False)
    sf.train(
        net, Rows(X), y, epochs=1, batch_size=8, shuffle=False, factoring=factoring, optimizer=sf.Adam(0.0)
    )  # fmt: skip
    other.truncate(ranks=[4, 3], force=True, inputs=X[:32])
    np.testing.assert_allclose(net.parameters, other.parameters, atol=1e-12)


@pytest.fixture
def cutting(monkeypatch):
    """With ranks="auto" a layer of 256 neurons is truncated, whatever that does to the loss and however long it takes."""
    for name in ("LOOKING", "LOST", "FASTER", "STILL_LOST"):
        monkeypatch.setattr(auto, name, np.inf)
    monkeypatch.setattr(auto, "SHORTEST", 1)
    monkeypatch.setattr(auto, "LEAST", 1)
    monkeypatch.setattr(auto, "LATEST", 1)


def spoil(event):
    """Makes the loss after a truncation one that no guard bears."""
    if event.kind == "switch":
        event.network.layers[-1].W[...] *= -30


AUTO = sf.Factoring("auto", pretrain_fraction=0.4, guard=sf.Guard(0.0, "delay"))


def assert_undone(result, n_steps):
    """At AUTO's second check; then there are no steps for another look."""
    first, wait = round(0.4 * n_steps), max(1, round(0.02 * n_steps))
    assert [(e.kind, e.step, e.info.get("action")) for e in result.events] == [
        ("ranks", first, None), ("switch", first, None), ("guard", first + wait, "watched"), ("guard", first + 2 * wait, "undone"),
    ]  # fmt: skip
    assert result.events[0].info["ranks"][1]
    assert [phase["phase"] for phase in result.phases] == ["dense", "factored", "dense"]
    assert result.n_steps == n_steps


@pytest.mark.parametrize("shuffle", [True, False])
def test_ranks_auto_and_the_guard(small_pool, cutting, shuffle):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, 64))
    y = X[:, :3].argmax(axis=1)
    small_pool(row_bytes=64 * 8 + 4)
    for rows_of in (Rows, lambda a: a):
        for batch_size in (8, 64):  # the last pool has less than a batch
            net = network(sizes=[64, 256, 256, 3])
            result = sf.train(
                net, rows_of(X), y, factoring=AUTO, epochs=8, batch_size=batch_size, shuffle=shuffle, callbacks=[spoil],
                validation=(rows_of(X), rows_of(y)), optimizer=sf.Adam(0.01),
            )  # fmt: skip
            assert_undone(result, 8 * -(-N // batch_size))


# ---- evaluation and prediction


@pytest.mark.parametrize("output", ["softmax", "sigmoid", "identity"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_row_sources_are_evaluated_in_blocks(small_pool, dtype, output):
    small_pool(row_bytes=6 * 8 + 3 * 8)
    X, y = samples()
    Y = y if output == "softmax" else np.eye(3)[y]
    Y = Y.astype(dtype) if output != "softmax" else Y
    net = network(dtype, output=output)
    weight = np.zeros(N)
    weight[30:] = np.arange(N - 30)  # the first blocks do not count
    for w in (None, weight, Rows(weight)):
        plain = weight if isinstance(w, Rows) else w
        ours, theirs = net.evaluate(Rows(X), Rows(Y), sample_weight=w), net.evaluate(X, Y, sample_weight=plain)
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-6)
        assert ours.accuracy == (None if output == "identity" else pytest.approx(theirs.accuracy, rel=1e-6))
        assert net.score(Rows(X), Rows(Y), w) == pytest.approx(net.score(X, Y, plain), rel=1e-6)
    source = Rows(X)
    np.testing.assert_allclose(net.predict(source), net.predict(X), rtol=1e-6)
    assert len(source.reads) > 10 and max(stop - start for start, stop in source.reads) <= 8
    history = sf.train(net, X, Y, epochs=2, validation=(Rows(X), Rows(Y))).history
    assert history[-1]["val_loss"] == pytest.approx(net.evaluate(X, Y).loss, rel=1e-6)


def test_variance_explained_in_blocks(small_pool):
    """Means far from 0, an output that is constant, one that is constant within each block, and one where nothing but one row counts."""
    small_pool(row_bytes=6 * 8 + 4 * 8)
    X, _ = samples()
    net = network(sizes=[6, 4], output="identity")
    Y = np.column_stack([30 + X[:, 0], np.full(N, 2.0), np.arange(N) // 10, X[:, 1]])
    one = np.zeros(N)
    one[77] = 1
    for weight in (None, np.arange(N) % 3, one):
        assert net.score(Rows(X), Rows(Y), weight) == pytest.approx(net.score(X, Y, weight), rel=1e-9)


def test_no_weight_at_all(small_pool, monkeypatch):
    monkeypatch.setattr("svdfast.data.open.read_if_small", lambda name, part, direct: part)
    X, y = samples()
    for call in (network().evaluate, network(output="identity").score):
        targets = y if call.__name__ == "evaluate" else np.eye(3)[y]
        with pytest.raises(ValueError, match="sample_weight: expected"):
            call(Rows(X), targets, sample_weight=Rows(np.zeros(N)))
    with pytest.raises(ValueError, match="sample_weight: expected"):
        sf.train(network(), X, y, epochs=1, validation=Loader(X, y, 8, np.zeros(N)))
    weight = np.zeros(N)
    for shuffle in (True, False):
        with pytest.raises(ValueError, match="sample_weight: expected weights ≥ 0, not all 0"):
            sf.train(network(), Rows(X), y, sample_weight=Rows(weight), epochs=1, batch_size=8, shuffle=shuffle)
    weight[3] = 1  # it is enough that some sample counts
    sf.train(network(), Rows(X), y, sample_weight=Rows(weight), epochs=2, batch_size=8)


def test_an_infinite_loss_of_some_block_stays_infinite(small_pool):
    small_pool(row_bytes=16)
    Y = np.zeros(N)
    Y[7] = 1e200
    net = sf.Network([1, 1], output="identity", dtype="float64", seed=0)
    X = np.zeros((N, 1))
    assert net.evaluate(X, Y).loss == net.evaluate(Rows(X), Y).loss == np.inf


def test_predictions_where_they_are_wanted():
    X, _ = samples()
    for dtype in ("float64", "float32"):
        net = network(dtype)
        expected = net.predict(X)
        out = np.full((N, 3), 7, dtype=dtype)
        assert net.predict(X, out=out) is out
        np.testing.assert_array_equal(out, expected)
        room = np.full((N + 2, 3), 7, dtype=dtype)
        net.predict(X, out=room[1:-1])
        np.testing.assert_array_equal(room[1:-1], expected)
        assert (room[[0, -1]] == 7).all()
        empty = np.empty((0, 3), dtype=dtype)
        assert net.predict(X[:0], out=empty) is empty


def test_predictions_over_their_inputs():
    """As with NumPy's functions: those of X as it was. Rows are written before later ones would have been read."""
    net = network(sizes=[3, 5, 3])
    X = samples(4000)[0][:, :3].copy()
    expected = net.predict(X)
    both = X.copy()
    assert net.predict(both, out=both) is both
    np.testing.assert_array_equal(both, expected)
    both = np.concatenate([np.zeros((1, 3)), X])
    net.predict(both[1:], out=both[:-1])
    np.testing.assert_array_equal(both[:-1], expected)
    both = np.concatenate([X, np.zeros((1, 3))])
    net.predict(both[:-1], out=both[1:])
    np.testing.assert_array_equal(both[1:], expected)
    # and over the network itself, which is then another
    few = net.predict(X[:5])
    net.predict(X[:5], out=net.parameters[:15].reshape(5, 3))
    np.testing.assert_array_equal(net.parameters[:15], few.ravel())


def read_only(a):
    a.flags.writeable = False
    return a


@pytest.mark.parametrize(
    ("out", "error"),
    [
        (lambda: np.full((N, 3), 7.0).tolist(), TypeError),
        (lambda: np.full((N, 2), 7.0), ValueError),
        (lambda: np.full(3 * N, 7.0), ValueError),
        (lambda: np.full((N - 1, 3), 7.0), ValueError),
        (lambda: np.full((N, 3), 7, dtype="float32"), TypeError),
        (lambda: np.full((N, 3), 7, dtype=">f8"), TypeError),
        (lambda: np.asfortranarray(np.full((N, 3), 7.0)), ValueError),
        (lambda: np.full((N, 6), 7.0)[:, ::2], ValueError),
        (lambda: np.full((2 * N, 3), 7.0)[::2], ValueError),
        (lambda: read_only(np.full((N, 3), 7.0)), ValueError),
        (lambda: np.frombuffer(bytes(1 + N * 3 * 8), dtype=np.uint8)[1:].view("f8").reshape(N, 3), ValueError),
    ],
)
def test_what_predictions_cannot_be_written_to(out, error):
    X, _ = samples()
    given = out()
    before = np.array(given)
    for samples_of in (X, Rows(X)):
        with pytest.raises(error, match="out: expected"):
            network().predict(samples_of, out=given)
    np.testing.assert_array_equal(np.array(given), before)
    good = np.full((N, 3), 7.0)
    for X_bad, settings in ((X[:, :5], {}), (X.astype(str), {}), (X, {"n_threads": 0}), (Rows(X[:, :5]), {})):
        with pytest.raises((TypeError, ValueError)):
            network().predict(X_bad, out=good, **settings)
    assert (good == 7).all()


def test_predictions_of_a_row_source_where_they_are_wanted(small_pool):
    X, _ = samples()
    net = network()
    out = np.empty((N, 3))
    assert net.predict(Rows(X), out=out) is out
    np.testing.assert_allclose(out, net.predict(X), rtol=1e-12)
    X[50, 2] = np.nan
    assert np.isnan(net.predict(Rows(X))).all(axis=1).nonzero()[0].tolist() == [50]
    assert net.predict(Rows(X[:0])).shape == (0, 3)


# ---- what is a row source


def test_what_is_in_memory_is_no_row_source(tmp_path):
    class Series(Rows):
        iloc = None

    X, _ = samples()
    mapped = np.memmap(tmp_path / "x", dtype="float64", mode="w+", shape=(4, 6))
    for value in (X, X.tolist(), X[0, 0], 3.0, None, "abc", Series(X), mapped, mapped[:, 1:3], mapped[:, 0], mapped.astype("int16"),
                  SimpleNamespace(shape=(3, 6), dtype=np.dtype("f8"))):  # fmt: skip
        assert not is_row_source(value)
    assert is_row_source(Rows(X))
    assert is_row_source(mapped[:, ::2])
    assert is_row_source(np.memmap(tmp_path / "x", dtype="int16", shape=(4, 6)))
    array = Rows(X)
    array.shape = (np.nan, 6)  # as dask's, where the number of rows is not known before they are computed
    assert not is_row_source(array)
    sparse = pytest.importorskip("scipy.sparse", reason="SciPy's sparse arrays").csr_matrix(X)
    assert not is_row_source(sparse)
    torch = pytest.importorskip("torch", reason="tensors need PyTorch")
    assert not is_row_source(torch.zeros(3, 6))


@pytest.mark.parametrize("kind", ["float32", "int16"])
def test_a_mapped_file(small_pool, tmp_path, kind):
    """float32 rows are read as they lie, shuffled as an array is; others in blocks."""
    X, y = samples()
    X = np.round(50 * X).astype(kind)
    X.tofile(tmp_path / "x")
    mapped = np.memmap(tmp_path / "x", dtype=kind, mode="r", shape=X.shape)
    for shuffle in (False, True) if kind == "float32" else (False,):
        settings = dict(batch_size=8, shuffle=shuffle, activation_aware=False)
        np.testing.assert_array_equal(trained(mapped, y, **settings)[0], trained(X, y, **settings)[0])
    net = network()
    np.testing.assert_allclose(net.predict(mapped), net.predict(X), rtol=1e-12)


def test_h5py(small_pool, tmp_path):
    h5py = pytest.importorskip("h5py", reason="HDF5 files need h5py")
    X, y = samples()
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["X"], file["y"] = X, y
        file.create_dataset("chunked", data=X, chunks=(3, 6), compression="gzip")
        for name in ("X", "chunked"):
            settings = dict(batch_size=8, shuffle=False, activation_aware=False)
            ours = trained(file[name], file["y"], **settings, validation=(file[name], file["y"]))[0]
            np.testing.assert_array_equal(ours, trained(X, y, **settings)[0])
            net = network()
            np.testing.assert_allclose(net.predict(file[name]), net.predict(X), rtol=1e-12)
            assert net.evaluate(file[name], file["y"]).loss == pytest.approx(net.evaluate(X, y).loss)
            assert net.score(file[name], file["y"]) == pytest.approx(net.score(X, y))


def test_a_dataset_of_h5py_that_holds_nothing(tmp_path):
    h5py = pytest.importorskip("h5py", reason="HDF5 files need h5py")
    X, y = samples()
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file["nothing"], file["number"] = h5py.Empty("f4"), 3.0
        for name, error in (("nothing", TypeError), ("number", ValueError)):
            with pytest.raises(error, match="X: expected"):
                network().predict(file[name])
            with pytest.raises(error, match="y: expected"):
                sf.train(network(), X, file[name])
            with pytest.raises(error, match="sample_weight: expected"):
                sf.train(network(), X, y, sample_weight=file[name])


def test_an_error_of_h5py_goes_through(small_pool, tmp_path):
    h5py = pytest.importorskip("h5py", reason="HDF5 files need h5py")
    X, y = samples(4000)
    path = tmp_path / "data.h5"
    with h5py.File(path, "w") as file:
        file.create_dataset("X", data=X, chunks=(10, 6), compression="gzip", fletcher32=True)
        info = file["X"].id.get_chunk_info(150)
    with open(path, "r+b") as raw:
        raw.seek(info.byte_offset)
        raw.write(bytes(info.size))
    small_pool(rows_of_each=20)
    net = network()
    with h5py.File(path) as file, pytest.raises(OSError):
        sf.train(net, file["X"], y, epochs=1)
    assert np.isfinite(net.predict(X)).all()


@pytest.mark.filterwarnings("ignore")
def test_zarr(small_pool, tmp_path):
    zarr = pytest.importorskip("zarr", reason="Zarr arrays need zarr")
    X, y = samples()
    array = zarr.open(str(tmp_path / "data.zarr"), mode="w", shape=X.shape, chunks=(7, 6), dtype="f8")
    array[:] = X
    settings = dict(batch_size=8, shuffle=False, activation_aware=False)
    np.testing.assert_array_equal(trained(array, y, **settings)[0], trained(X, y, **settings)[0])
    np.testing.assert_allclose(network().predict(array), network().predict(X), rtol=1e-12)


# ---- what is wrong in a row source


def at(place, value, array):
    array = np.array(array, dtype=array.dtype if isinstance(value, int) else float)
    array[place] = value
    return array


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(
    ("part", "place", "value", "message"),
    [
        ("X", (63, 2), np.nan, r"X: expected finite numbers of float64, got nan at 63, 2"),
        ("X", (100, 5), np.inf, r"X: .* got inf at 100, 5"),
        ("y", 77, 3, r"y: expected class numbers from 0 to 2, got 3 in row 77"),
        ("y", 0, -1, r"y: expected class numbers from 0 to 2, got -1 in row 0"),
        ("sample_weight", 64, -2.0, r"sample_weight: expected weights ≥ 0, got -2.0 in row 64"),
        ("sample_weight", 64, np.nan, r"sample_weight: .* got nan at 64"),
    ],
)
def test_wrong_values_are_said_with_their_row(small_pool, monkeypatch, part, place, value, message, shuffle):
    monkeypatch.setattr("svdfast.data.open.read_if_small", lambda name, part, direct: part)
    X, y = samples()
    data = {"X": X, "y": y, "sample_weight": np.ones(N)}
    data[part] = at(place, value, data[part])
    data = {name: Rows(array) for name, array in data.items()}
    net = network()
    with pytest.raises(ValueError, match=message):
        sf.train(net, **data, epochs=1, batch_size=8, shuffle=shuffle)
    assert np.isfinite(net.parameters).all()
    with pytest.raises(ValueError, match=message):
        net.evaluate(**data)
    if part != "sample_weight":
        del data["sample_weight"]
        with pytest.raises(ValueError, match="validation " + message):
            sf.train(net, X, y, epochs=1, validation=(data["X"], data["y"]))
    sf.train(net, X, y, epochs=1, batch_size=8)


@pytest.mark.parametrize(
    ("X", "y", "error", "message"),
    [
        (np.zeros(N), None, ValueError, "X: expected samples in the rows of a 2-D array"),
        (np.zeros((N, 2, 3)), None, ValueError, r"X: .*reshape"),
        (np.zeros((N, 5)), None, ValueError, "X: expected 6 columns"),
        (np.zeros((0, 6)), np.zeros(0, int), ValueError, "X: expected at least one sample"),
        (np.zeros((N, 6), complex), None, TypeError, "X: expected real numbers"),
        (np.zeros((N, 6), "S4"), None, TypeError, "X: expected real numbers"),
        (None, np.zeros(N - 1, int), ValueError, "y: expected 101 targets"),
        (None, np.zeros(N), TypeError, "y: expected integer class numbers"),
        (None, np.zeros((N, 4)), ValueError, r"y: expected shape \(101, 3\)"),
        (None, np.zeros((N, 3), complex), TypeError, "y: expected real numbers"),
    ],
)
@pytest.mark.parametrize("as_a_whole", [True, False])
def test_what_does_not_fit_is_refused_before_anything_is_done(small_pool, monkeypatch, X, y, error, message, as_a_whole):
    if not as_a_whole:
        monkeypatch.setattr("svdfast.data.open.read_if_small", lambda name, part, direct: part)
    plain = samples()
    X, y = plain[0] if X is None else X, plain[1] if y is None else y
    net = network()
    before = net.parameters.copy()
    X, y = Rows(X), Rows(y)
    with pytest.raises(error, match=message):
        sf.train(net, X, y, epochs=1)
    with pytest.raises(error, match=message):
        net.evaluate(X, y)
    with pytest.raises(error, match="validation " + message):
        sf.train(net, *plain, epochs=1, validation=(X, y))
    np.testing.assert_array_equal(net.parameters, before)
    assert as_a_whole or X.reads == y.reads == []
    weight = Rows(np.ones((N, 1)))
    with pytest.raises(ValueError, match=r"sample_weight: expected shape \(101,\)"):
        sf.train(net, Rows(plain[0]), Rows(plain[1]), sample_weight=weight)


def test_rows_that_are_not_what_was_promised(small_pool):
    X, y = samples()
    for lie in (lambda a: a[1:], lambda a: a.astype("float32"), lambda a: a[:, 1:], lambda a: a[np.newaxis], lambda a: None):
        source = Rows(X)
        source.__class__ = type("Liar", (Rows,), {"__getitem__": lambda self, rows, lie=lie: lie(self.array[rows])})
        for call in (lambda s: sf.train(network(), s, y, epochs=1), lambda s: network().predict(s), lambda s: network().evaluate(s, y)):
            with pytest.raises((ValueError, TypeError), match="X: expected"):
                call(source)


@pytest.mark.parametrize("part", ["X", "y", "sample_weight"])
def test_a_source_that_becomes_another(small_pool, monkeypatch, part):
    """Its shape and dtype with it, as those of a file that is written anew: none of it is cast to what was there before."""
    monkeypatch.setattr("svdfast.data.open.read_if_small", lambda name, part, direct: part)
    X, y = samples()
    given = {"X": np.abs(np.round(X)), "y": np.eye(3)[y], "sample_weight": np.ones(N)}

    def training(**data):
        sf.train(network(), **data, epochs=1, batch_size=8)

    calls = [training, network().evaluate, lambda X, y, sample_weight: network(output="identity").score(X, y, sample_weight)]
    for change in (lambda a: a.astype("uint8"), lambda a: a.astype("float32"), lambda a: a[:30], lambda a: a[..., np.newaxis]):
        for call in [*calls, lambda X, **others: network().predict(X)] if part == "X" else calls:
            data = {name: Rows(array) for name, array in given.items()}
            source = data[part]

            def act(n, source=source, change=change):
                if n == 3:
                    source.array = change(source.array)
                    source.shape, source.dtype = source.array.shape, source.array.dtype

            source.act = act
            with pytest.raises(ValueError, match=f"{part}: expected rows"):
                call(**data)


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("read", [1, 9, 30])
def test_what_a_source_raises_goes_through(small_pool, error, read):
    """The network stays usable, dense or factored; the training goes on elsewhere."""

    def fail(n):
        if n == read:
            raise error("there is no more")

    X, y = samples()
    net, optimizer = network(), sf.Adam()
    with pytest.raises(error, match="no more"):
        trained(Rows(X, act=fail), y, net=net, batch_size=8, optimizer=optimizer)
    assert net.is_factored == (read == 30)
    assert np.isfinite(net.predict(X)).all()
    trained(X, y, net=net, optimizer=optimizer)


# ---- iterables of batches


class Loader:
    """Batches of arrays, as often as they are asked for."""

    def __init__(self, X, y, size, weight=None):
        self.parts = [X, y] if weight is None else [X, y, weight]
        self.starts = range(0, len(X), size)
        self.size, self.n_iterations = size, 0

    def __len__(self):
        return len(self.starts)

    def __iter__(self):
        self.n_iterations += 1
        for start in self.starts:
            yield tuple(part[start : start + self.size] for part in self.parts)


def forever(X, y, size):
    while True:
        yield from Loader(X, y, size)


@pytest.mark.parametrize("kind", ["float64", "uint8", "list"])
@pytest.mark.parametrize("form", ["loader", "list", "generator", "lists of lists"])
def test_batches_are_the_array_in_order(form, kind):
    X, y = samples()
    X = np.round(10 * X) % 200
    given = X.tolist() if kind == "list" else X.astype(kind)
    for size in (8, 200):
        batches, settings = Loader(given, y, size), {}
        if form == "list":
            batches = list(batches)
        elif form == "lists of lists":
            batches = [[X, np.asarray(y)] for X, y in batches]
        elif form == "generator":
            batches, settings = forever(given, y, size), {"steps_per_epoch": len(batches)}
        plain = dict(activation_aware=False, l2=0.1, product_decay=0.01)
        ours, losses, result = trained(batches, None, **plain, **settings)
        theirs, expected, _ = trained(np.array(given), y, batch_size=size, shuffle=False, **plain)
        np.testing.assert_array_equal(ours, theirs)
        assert losses == expected
        assert result.n_steps == 3 * -(-N // size)
        if form == "loader":
            assert batches.n_iterations == 3  # the first batch is looked at before, not twice


def test_y_is_not_needed_with_batches():
    X, y = samples()
    net, other = network(), network()
    result = sf.train(net, Loader(X, y, 8), epochs=2, factoring=None)
    sf.train(other, X, y, epochs=2, batch_size=8, shuffle=False, factoring=None)
    assert result.n_steps == 26
    np.testing.assert_array_equal(net.parameters, other.parameters)


def test_weights_in_batches():
    X, y = samples()
    weight = np.arange(N) % 3 / 2.0
    weight[8:16] = 0  # a whole batch does not count
    settings = dict(activation_aware=False)
    ours = trained(Loader(X, y, 8, weight), None, **settings)[0]
    theirs = trained(X, y, sample_weight=weight, batch_size=8, shuffle=False, **settings)[0]
    np.testing.assert_array_equal(ours, theirs)

    def some():
        """Only some batches have weights."""
        for start in range(0, 96, 8):
            rows = slice(start, start + 8)
            yield (X[rows], y[rows]) if start % 16 else (X[rows], y[rows], weight[rows])

    mixed = np.where(np.arange(96) // 8 % 2 == 0, weight[:96], 1)
    ours = trained(some(), None, steps_per_epoch=12, epochs=1, **settings)[0]
    theirs = trained(X[:96], y[:96], sample_weight=mixed, batch_size=8, shuffle=False, epochs=1, **settings)[0]
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("n_threads", [1, 3])
def test_batches_of_any_sizes(n_threads):
    """Growing and shrinking, over what scratch there was and over the small and the large batches' ways; one training each instead."""
    X, y = samples(2000)
    cuts = [0, 1, 3, 2, 700, 710, 710 + 513, 1999, 2000]
    pairs = [(a, b) for a, b in pairwise(cuts) if b > a]
    batches = [(X[a:b], y[a:b]) for a, b in pairs]
    net, other = network(), network()
    settings = dict(epochs=1, factoring=None, n_threads=n_threads)
    result = sf.train(net, batches, optimizer=sf.Adam(0.01), **settings)
    optimizer = sf.Adam(0.01)
    losses = [sf.train(other, X, y, batch_size=2000, optimizer=optimizer, **settings).history[0]["loss"] for X, y in batches]
    np.testing.assert_allclose(net.parameters, other.parameters, atol=1e-12)
    sizes = [b - a for a, b in pairs]
    assert result.history[0]["loss"] == pytest.approx(np.average(losses, weights=sizes), rel=1e-12)


def test_a_buffer_that_is_used_again():
    X, y = samples(96)

    def batches():
        buffer, labels = np.empty((8, 6)), np.empty(8, int)
        for start in range(0, 96, 8):
            buffer[:], labels[:] = X[start : start + 8], y[start : start + 8]
            yield buffer, labels

    for settings in (dict(activation_aware=False), dict()):
        ours = trained(batches(), None, steps_per_epoch=12, epochs=1, **settings)[0]
        theirs = trained(Loader(X, y, 8), None, epochs=1, **settings)[0]
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("phi", [0.0, 0.5])
@pytest.mark.parametrize("kind", ["float64", "uint8"])
def test_the_switch_takes_its_sample_from_the_first_batches(monkeypatch, phi, kind):
    """All that were seen, up to a number of rows."""
    monkeypatch.setattr(run, "SAMPLE", 30)
    monkeypatch.setattr("svdfast.training.prepare.SAMPLE", 30)
    X, y = samples(96)
    X = np.abs(np.round(50 * X)).astype(kind)
    net, other = network(), network()
    sf.train(net, Loader(X, y, 8), epochs=1,
             factoring=sf.Factoring([4, 3], pretrain_fraction=phi, force=True, recompose=False),
             optimizer=sf.GradientDescent(0.0))  # fmt: skip
    other.truncate(ranks=[4, 3], force=True, inputs=X[:8] if phi == 0 else X[:30])
    for ours, theirs in zip(net.layers, other.layers, strict=True):
        if ours.rank is not None:
            np.testing.assert_allclose(ours.weight(), theirs.weight(), atol=1e-9)


@pytest.mark.parametrize(("action", "rank"), [("raise", 64), ("undo", None)])
def test_other_guards_over_ranks_auto(cutting, action, rank):
    """A layer whose truncation the guard undoes may get a higher rank later, but for "undo"."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((N, 64))
    net, spoiled = network(sizes=[64, 256, 256, 3]), []

    def spoil_first(event):
        if event.kind == "switch" and not spoiled:
            spoiled.append(event)
            spoil(event)

    result = sf.train(
        net, X, X[:, :3].argmax(axis=1), epochs=8, batch_size=8, callbacks=[spoil_first], optimizer=sf.Adam(0.01),
        factoring=sf.Factoring("auto", pretrain_fraction=0.1, recompose=False, guard=sf.Guard(1.0, action)),
    )  # fmt: skip
    assert result.events[0].info["ranks"] == [None, 32]
    told = [(e.kind, e.step) for e in result.events if e.kind != "guard"]
    assert told == [("ranks", 10), ("switch", 10), ("ranks", 42)] + [("switch", 42)] * (action == "raise")
    actions = [(e.step, e.info["action"]) for e in result.events if e.kind == "guard"]
    assert actions == [(12, "watched"), (14, "undone")] + [(44, "kept")] * (action == "raise")
    assert net.layout.ranks == (None, rank, None)


def test_ranks_auto_and_the_guard_with_batches(cutting):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((90, 64))
    y = X[:, :3].argmax(axis=1)
    sizes = [1, 40, 20, 29]
    places = np.cumsum([0, *sizes])
    batches = [(X[a:b], y[a:b]) for a, b in pairwise(places)]
    net = network(sizes=[64, 256, 256, 3])
    result = sf.train(
        net, batches, factoring=AUTO, epochs=8, validation=Loader(X, y, 7), optimizer=sf.Adam(0.01), callbacks=[spoil]
    )
    assert_undone(result, 32)


def test_validation_in_batches():
    X, y = samples()
    V, v = samples(40, seed=5)
    method = sf.Factoring(0.25, force=True)
    plain = sf.train(network(), X, y, epochs=3, factoring=method, validation=(V, v)).history
    loader = Loader(V, v, 7)
    batched = sf.train(network(), X, y, epochs=3, factoring=method, validation=loader).history
    assert loader.n_iterations == 4  # after each epoch, and recomposed
    for ours, theirs in zip(batched, plain, strict=True):
        assert ours["val_loss"] == pytest.approx(theirs["val_loss"], rel=1e-12)
        assert ours["val_accuracy"] == pytest.approx(theirs["val_accuracy"], rel=1e-12)
    for wrong in (iter([(V, v)]), 3, "ab", V):
        with pytest.raises(TypeError, match="validation: expected a pair"):
            sf.train(network(), X, y, epochs=1, validation=wrong)
    with pytest.raises(ValueError, match="validation: expected batches each time"):
        sf.train(network(), X, y, epochs=1, validation=Loader(V[:0], v, 7))
    loader = Loader(V, v, 7)
    iterator = iter(list(loader))
    loader.__class__ = type("Once", (Loader,), {"__iter__": lambda self: iterator})
    with pytest.raises(ValueError, match="validation: expected batches each time"):
        sf.train(network(), X, y, epochs=2, validation=loader)
    with pytest.raises(ValueError, match="X of validation, batch 6: expected finite"):
        sf.train(network(), X, y, epochs=1, validation=Loader(at((37, 0), np.nan, V), v, 7))


def test_iterators_are_made_when_they_are_needed(monkeypatch):
    """To make one may start processes: none before validation, and what it takes is counted as reading."""
    X, y = samples()
    clock = [0.0]
    monkeypatch.setattr("svdfast.data.batches.time", SimpleNamespace(perf_counter=lambda: clock[0]))

    class Slow(Loader):
        def __iter__(self):
            self.n_iterations += 1
            clock[0] += 10
            return iter([(X, y)])

    validation = Slow(X, y, N)
    sf.train(network(), X, y, epochs=2, factoring=sf.Factoring(recompose=False), validation=validation)
    assert validation.n_iterations == 2
    source = BatchSource(Slow(X, y, N), spec_of(network()), None, 0)
    for epoch in range(3):
        assert [bounds for _, _, bounds in source.batches()] == [((0, N),)]
        assert source.seconds == 10 * epoch  # the first was made before the first epoch


def test_an_iterator_that_ends_too_early():
    X, y = samples()
    net = network()
    with pytest.raises(ValueError, match="X: expected 10 batches in an epoch, got no more after 13 steps"):
        trained(iter(list(Loader(X, y, 8))), None, net=net, steps_per_epoch=10)
    assert net.is_factored and np.isfinite(net.predict(X)).all()
    trained(X, y, net=net)
    net = network()
    before = net.parameters.copy()
    for batches, message in ((iter([]), "no more after 0 steps"), ([], "at least one batch"), (Loader(X[:0], y, 8), "at least one batch")):
        with pytest.raises(ValueError, match=message):
            sf.train(net, batches, steps_per_epoch=3 if batches != [] and not hasattr(batches, "size") else None)
    np.testing.assert_array_equal(net.parameters, before)
    with pytest.raises(ValueError, match=r"got no more after 1 step$"):
        sf.train(network(), [(X, y)], epochs=1, steps_per_epoch=2)


def test_an_iterator_goes_on_where_it_was():
    """Over epochs and over trainings: each batch is taken once, and none more than needed."""
    X, y = samples()
    taken = []

    def batches():
        for start in range(0, 96, 8):
            taken.append(start)
            yield X[start : start + 8], y[start : start + 8]

    iterator, net, other = batches(), network(), network()
    for _ in range(2):
        sf.train(net, iterator, epochs=2, steps_per_epoch=3, factoring=None, optimizer=sf.GradientDescent(0.1))
    assert taken == list(range(0, 96, 8))
    sf.train(other, X[:96], y[:96], epochs=1, batch_size=8, shuffle=False, factoring=None, optimizer=sf.GradientDescent(0.1))
    np.testing.assert_array_equal(net.parameters, other.parameters)


def test_fewer_steps_than_batches():
    X, y = samples()
    loader = Loader(X, y, 8)
    ours = trained(loader, None, steps_per_epoch=4, activation_aware=False)[0]
    theirs = trained(X[:32], y[:32], batch_size=8, shuffle=False, activation_aware=False)[0]
    np.testing.assert_array_equal(ours, theirs)


def test_arguments_that_do_not_go_with_batches():
    X, y = samples()
    net = network()
    before = net.parameters.copy()
    loader = Loader(X, y, 8)
    for name, value in (("batch_size", 256), ("shuffle", True), ("shuffle", False), ("sample_weight", np.ones(N))):
        with pytest.raises(ValueError, match=f"{name}: expected None with an iterable of batches"):
            sf.train(net, loader, **{name: value})
    with pytest.raises(ValueError, match="steps_per_epoch: expected the number of batches"):
        sf.train(net, forever(X, y, 8))
    for wrong, error in ((0, ValueError), (2.5, TypeError), (True, TypeError)):
        with pytest.raises(error, match="steps_per_epoch: expected an integer"):
            sf.train(net, loader, steps_per_epoch=wrong)
    with pytest.raises(ValueError, match="steps_per_epoch: expected None"):
        sf.train(net, X, y, steps_per_epoch=3)
    with pytest.raises(ValueError, match="steps_per_epoch: expected None"):
        sf.train(net, Rows(X), y, steps_per_epoch=3)
    for samples_of in (X, Rows(X)):
        with pytest.raises(TypeError, match="y: expected"):
            sf.train(net, samples_of)
    with pytest.raises(TypeError, match="X: expected"):
        sf.train(net, loader, y)
    for columns in (2, 3, 6):  # y was forgotten, and rows are lists
        with pytest.raises(TypeError, match=f"X: expected samples with y.* got a list of {columns} numbers as batch 1"):
            sf.train(network(sizes=[columns, 3]), X[:, :columns].tolist())
    for nothing in (None, 3, "abc", {"X": X}):
        with pytest.raises((TypeError, ValueError), match="X: expected"):
            sf.train(net, nothing)
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize(
    ("batch", "error", "message"),
    [
        (lambda X, y: X, TypeError, r"got a ndarray as batch 3"),
        (lambda X, y: (X,), TypeError, r"got a tuple of 1 as batch 3"),
        (lambda X, y: (X, y, y, y), TypeError, r"got a tuple of 4 as batch 3"),
        (lambda X, y: {"X": X, "y": y}, TypeError, r"got a dict as batch 3"),
        (lambda X, y: None, TypeError, r"got a NoneType as batch 3"),
        (lambda X, y: [0.0, 1], TypeError, r"got a list of 2 numbers as batch 3"),
        (lambda X, y: (), TypeError, r"got a tuple of 0 as batch 3"),
        (lambda X, y: (X[:, 1:], y), ValueError, "X of batch 3: expected 6 columns"),
        (lambda X, y: (X * np.nan, y), ValueError, "X of batch 3: expected finite"),
        (lambda X, y: (X[:0], y[:0]), ValueError, "X of batch 3: expected at least one sample"),
        (lambda X, y: (X, y[1:]), ValueError, "y of batch 3: expected 8 targets"),
        (lambda X, y: (X, y + 3), ValueError, "y of batch 3: expected class numbers"),
        (lambda X, y: (X, None), TypeError, "y of batch 3: expected"),
        (lambda X, y: (X, y, -1.0 - y), ValueError, "sample_weight of batch 3: expected"),
        (lambda X, y: (X, y, y[1:]), ValueError, "sample_weight of batch 3: expected shape"),
    ],
)
def test_a_bad_batch_is_refused(batch, error, message):
    X, y = samples()
    batches = list(Loader(X, y, 8))
    batches[2] = batch(*batches[2])
    net, other = network(), network()
    with pytest.raises(error, match=message):
        sf.train(net, batches, factoring=None)
    sf.train(other, batches[:2], epochs=1, factoring=None)
    np.testing.assert_array_equal(net.parameters, other.parameters)  # as the last step left it
    with pytest.raises(error, match=message.replace("batch 3", "batch 1")):
        sf.train(net, batches[2:])
    np.testing.assert_array_equal(net.parameters, other.parameters)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, StopIteration])
def test_what_an_iterable_raises_goes_through(error):
    X, y = samples()

    class Failing(Loader):
        def __iter__(self):
            for i, batch in enumerate(super().__iter__()):
                if i == 9:
                    raise error("no more") if error is not StopIteration else RuntimeError("no more")
                yield batch

    net = network()
    with pytest.raises(RuntimeError if error is StopIteration else error, match="no more"):
        sf.train(net, Failing(X, y, 8), epochs=1, factoring=sf.Factoring(0.25, force=True, pretrain_fraction=0.2))
    assert net.is_factored and np.isfinite(net.predict(X)).all()


def test_stop_training_and_callbacks_that_change_the_network(small_pool):
    """A truncation in a callback between epochs: the next epoch's engine has its own room, and goes on with pool and batches."""
    X, y = samples()

    def cut(event):
        if event.kind == "epoch" and event.epoch == 1:
            event.network.truncate(ranks=[4, 3], force=True)
        if event.kind == "epoch" and event.epoch == 2:
            raise sf.StopTraining

    nets = []
    for data in ((X, y), (Rows(X), y), (Loader(X, y, 8), None)):
        net = network()
        settings = {} if data[1] is None else dict(batch_size=8, shuffle=False)
        result = sf.train(net, *data, epochs=5, factoring=sf.Factoring(pretrain_fraction=1, recompose=False), callbacks=[cut], **settings)
        assert result.n_steps == 26 and net.is_factored
        nets.append(net.parameters)
    np.testing.assert_array_equal(nets[1], nets[0])
    np.testing.assert_array_equal(nets[2], nets[0])


def test_batches_from_pytorch():
    torch = pytest.importorskip("torch", reason="a DataLoader needs PyTorch")
    from torch.utils.data import DataLoader, TensorDataset

    with pytest.raises(TypeError, match="X: expected an array of numbers"):
        network().predict(torch.zeros(3, 6, dtype=torch.bfloat16))  # NumPy has no such type
    X, y = samples()
    loader = DataLoader(TensorDataset(torch.from_numpy(X), torch.from_numpy(y)), batch_size=8)
    ours = trained(loader, None, activation_aware=False, validation=loader)[0]
    np.testing.assert_array_equal(ours, trained(X, y, batch_size=8, shuffle=False, activation_aware=False)[0])


# ---- memory

SCRIPT = """
import sys
import numpy as np
import svdfast as sf

folder, what = sys.argv[1:]
n, m = 100_000, 1024  # 400 MiB
x = np.ones((1000, m), dtype="float32")
x[:, ::7] = 0.5
X = y = np.arange(n) % 3
if what == "h5py":
    import h5py
    with h5py.File(folder + "/x.h5", "w") as file:
        data = file.create_dataset("X", (n, m), "f4")
        for start in range(0, n, 1000):
            data[start : start + 1000] = x
    X = h5py.File(folder + "/x.h5")["X"]
elif what in ("float32", "int16"):
    X = np.memmap(folder + "/x", dtype=what, mode="w+", shape=(n, m))
    for start in range(0, n, 1000):
        X[start : start + 1000] = x


class Batches:
    def __len__(self):
        return n // 500

    def __iter__(self):
        for start in range(0, n, 500):
            yield x[:500].copy(), y[start : start + 500]


def memory(key):
    with open("/proc/self/status") as file:
        return sum(int(line.split()[1]) for line in file if line.startswith(key)) * 1024


net = sf.Network([m, 32, 3], seed=0)
net.predict(x)
# Of mapped files the pages are not counted, which the system takes back; else the peak is.
now, peak = ("RssAnon", "RssAnon") if isinstance(X, np.memmap) else ("VmRSS", "VmHWM")
high = before = memory(now)


def look(step, n_steps):
    global high
    high = max(high, memory(peak))
    return 1e-3


optimizer, factoring = sf.Adam(look), sf.Factoring(0.25, force=True)
if what == "batches":
    sf.train(net, Batches(), epochs=1, optimizer=optimizer, validation=Batches(), factoring=factoring)
else:
    sf.train(net, X, y, epochs=1, batch_size=500, optimizer=optimizer, validation=(X, y), factoring=factoring, n_threads=2)
    look(0, 1)
    net.predict(X)
    net.evaluate(X, y)
look(0, 1)
print((high - before) / 2**20)
"""


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("what", ["h5py", "float32", "int16", "batches"])
def test_memory_does_not_grow_with_the_data(what, tmp_path):
    """400 MiB of samples in float32, trained, validated and predicted in less than 150."""
    if sys.platform != "linux":
        pytest.skip("/proc/self/status is Linux's")
    if what == "h5py":
        pytest.importorskip("h5py", reason="HDF5 files need h5py")
    done = subprocess.run(
        [sys.executable, "-P", "-c", SCRIPT, str(tmp_path), what], stdout=subprocess.PIPE, text=True, check=True
    )
    assert float(done.stdout) < 150


class Ordering(np.random.Generator):
    """A generator of a user's own, whose permutations are what `order` makes of n."""

    def __init__(self, order):
        super().__init__(np.random.PCG64(0))
        self.order = order

    def permutation(self, x, axis=0):
        return self.order(x)


@pytest.mark.parametrize("wrap", [np.asarray, Rows])
@pytest.mark.parametrize(
    ("order", "error"),
    [
        (lambda n: np.arange(n) + 10**9, ValueError),
        (lambda n: np.arange(n) - 1, ValueError),
        (lambda n: np.arange(n, dtype=np.uint64) + 2**63, ValueError),
        (lambda n: np.zeros(n, int), ValueError),
        (lambda n: np.arange(n - 1), ValueError),
        (lambda n: np.arange(n + 1), ValueError),
        (lambda n: np.arange(n)[:, np.newaxis], ValueError),
        (lambda n: np.arange(n) + 0.5, TypeError),
        (lambda n: None, TypeError),
        (lambda n: "rows", TypeError),
    ],
)
def test_an_order_that_is_no_permutation_is_refused(order, error, wrap, small_pool):
    small_pool()
    X, y = samples()
    net = network()
    before = net.parameters.copy()
    with pytest.raises(error, match=r"seed: expected .* from its permutation\(\d+\), got "):
        sf.train(net, wrap(X), wrap(y), epochs=2, batch_size=10, factoring=None, seed=Ordering(order))
    np.testing.assert_array_equal(net.parameters, before)


@pytest.mark.parametrize("kind", ["i8", "i4", "u2"])
def test_an_order_of_ones_own(kind):
    X, y = samples()
    given = []

    def backwards(n):
        given.append(np.arange(n, dtype=kind)[::-1])
        return given[-1]

    def spoil(event):
        given[-1][:] = 99

    settings = {"epochs": 3, "batch_size": 10, "factoring": None}
    found = sf.train(network(), X, y, seed=Ordering(backwards), callbacks=[spoil], **settings)
    expected = sf.train(network(), X[::-1].copy(), y[::-1].copy(), shuffle=False, **settings)
    np.testing.assert_array_equal(found.network.parameters, expected.network.parameters)
    assert len(given) == 3


def test_an_order_of_ones_own_has_no_checkpoint(tmp_path):
    X, y = samples()
    with pytest.raises(TypeError, match=r"seed: expected a numpy\.random\.Generator and no subclass with a checkpoint, got a Ordering"):
        sf.train(network(), X, y, seed=Ordering(np.arange), checkpoint=tmp_path / "run.ckpt")
    assert not (tmp_path / "run.ckpt").exists()
