# SPDX-License-Identifier: BSD-3-Clause
"""What hostile.py calls beside the names of `svdfast`: estimators, the command line, `svdfast.torch`.

An area is a function that finds `Call`s by name: a function, good arguments of it, what a refusal must leave as it is, and how its result
is used. Elsewhere: hostile values, and what is a fault (hostile.py).
"""

import argparse
import contextlib
import copy
import inspect
import io
import sys
import warnings

import numpy as np

import svdfast as sf

LONGEST = 50  # epochs, and iterations
# Warnings that are documented.
WARNED = ["Stochastic Optimizer: Maximum iterations", "lbfgs failed to converge", "A column-vector y was passed", "Training interrupted",
          "Comparing a sparse matrix", "Got `batch_size` less than 1", ".*uint8 is taken for pixels"]  # fmt: skip
COMMANDS = ("train", "predict", "evaluate", "compress", "export", "info")


class Call:
    """A function that is called with hostile arguments.

    good: its good arguments, by name. state(): what a refusal leaves as it is. after(result): uses what was accepted. `theirs`: arguments
    that are code or data of other libraries, whose errors of the kinds `raised` are no faults.
    """

    def __init__(self, function, good, state=lambda: None, after=lambda result: None, theirs=(), raised=()):
        self.function, self.good, self.state, self.after, self.theirs, self.raised = function, good, state, after, theirs, raised
        self.__signature__ = inspect.signature(function)

    def __call__(self, **arguments):
        return self.function(**arguments)


# --- Estimators -------------------------------------------------------------------------------------------------------------------------
THEIRS = ("X", "y", "sample_weight", "X_val", "y_val")  # which scikit-learn checks


def estimators():
    try:
        from svdfast.sklearn import SVDMLPClassifier, SVDMLPRegressor
    except ImportError:
        return {}
    found = {}
    for kind in (SVDMLPClassifier, SVDMLPRegressor):
        for method in ("fit", "partial_fit", "fit checkpoint", "predict", "predict_proba", "score", "set coefs_", "set intercepts_"):
            if hasattr(kind, method.split()[0]) or " " in method:
                found[f"sklearn.{kind.__name__}.{method}"] = lambda world, kind=kind, method=method: estimator(world, kind, method)
    return found


def estimator(world, kind, method):
    rng = world.rng
    X = np.random.default_rng(0).standard_normal((20, 5))
    y = np.arange(20) % 3 if kind.__name__.endswith("Classifier") else X[:, 0]
    few = dict(hidden_layer_sizes=(6, 5), max_iter=3, batch_size=8, random_state=0, rank_fraction=0.5, pretrain_fraction=0.3)
    few |= {"solver": rng.choice(["adam", "sgd", "lbfgs"]), "n_threads": 1}
    samples = {"X": rng.choice([X, X.astype("f4"), world.sparse(X)]), "y": y, "sample_weight": np.ones(20)}
    model = kind(**few)

    def used(result):
        if "network_" in vars(model):
            model.predict(X)

    if method in ("fit", "fit checkpoint"):
        # Its parameters are hostile, too.
        parameters = inspect.signature(kind).parameters.values()
        names = [inspect.Parameter(n, p.KEYWORD_ONLY, default=few.get(n, p.default)) for n, p in inspect.signature(kind).parameters.items()]
        needed = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY) for n in ("X", "y")]
        more = [inspect.Parameter(n, inspect.Parameter.KEYWORD_ONLY, default=None) for n in ("sample_weight", "X_val", "y_val")]
        good = {p.name: p.default for p in parameters} | few | samples | {"X_val": X, "y_val": y, "communicator": None}
        if method == "fit checkpoint":
            path = good["checkpoint"] = world.folder / "fit.ckpt"
            path.unlink(missing_ok=True)
            if rng.random() < 0.7:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    kind(**few | {"solver": "adam", "checkpoint": path}).fit(X, y)
            few["checkpoint"] = path

        def fit(**arguments):
            data = {name: arguments.pop(name) for name in ("X", "y", "sample_weight", "X_val", "y_val") if name in arguments}
            given = {**few, **arguments}
            for name in ("max_iter", "n_iter_no_change", "max_fun"):
                value = getattr(given.get(name), "value", given.get(name))
                if isinstance(value, int | float | np.number) and value > LONGEST:
                    given[name] = LONGEST
            model.set_params(**given)
            model.fit(**data)
            for name, value in given.items():
                if getattr(model, name) is not value:
                    raise AssertionError(f"fit changed the parameter {name}")

        fit.__signature__ = inspect.Signature(needed + more + names)
        return Call(fit, good, after=used, theirs=(*THEIRS, "communicator", "random_state"), raised=(Exception,))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(X, y)
    if method.startswith("set "):
        name = method.removeprefix("set ")

        def assign(values):
            setattr(model, name, values)

        before = model.network_
        return Call(assign, {"values": [np.array(a) for a in getattr(model, name)]}, lambda: before.parameters.tobytes(), used)
    if not hasattr(model, method):
        method = "predict"
    return Call(getattr(model, method), samples | {"X_val": X, "y_val": y}, after=used, theirs=THEIRS, raised=(ArithmeticError, Warning))


# --- The command line -------------------------------------------------------------------------------------------------------------------


WORDS = ["", "0", "-1", "1", "2", "1.5", "1/0", "1/4", "nan", "inf", "-inf", "1e400", "1e-320", "9" * 400, "2147483648", "x", "x" * 2000,
         "-", "--", "-x", "%s", "{}", "a\0b", "\ud800", "\u0663", "auto", "energy:0.9", "energy:nan", "budget:0", "1,2", "1,,2", ",",
         "6,5,4", ".", "..", "/", "/dev/null", "/proc/self/mem", "no/such/file.npz", "y", "a", "a,b", "tab", "utf-16", "rot13", "idna",
         "cp037", "none", "net.npz", "table.csv", "arrays.npz", "text", "out.csv", "out.onnx", "out.safetensors", "~", "*", "=", "'",
         '"']  # fmt: skip
GOOD = {"--hidden": "6,5", "--epochs": "2", "--batch-size": "8", "--threads": "1", "--ranks": "energy:0.9", "--rank-fraction": "1/2",
        "--learning-rate": "0.01", "--target": "y", "--drop": "a", "--categorical": "b", "--save": "saved.npz", "--output": "out.npz",
        "--checkpoint": "run.ckpt", "--resume": "run.ckpt", "--test": "table.csv", "--test-size": "0.3", "--validation": "0.3",
        "--data": "table.csv", "--width": "6", "--steps": "5", "--sample": "3", "--seed": "1", "--pretrain-fraction": "0.3",
        "--keep-dense": "1", "--delimiter": ",", "--encoding": "utf-8", "--report": "page.html", "--momentum": "0.5"}  # fmt: skip
CELLS = ["", "a", "nan", "inf", "-inf", "1e400", "-1e400", "1_0", "0x1", "1j", "1,2", ";", "=1+1", "9" * 1000, '"', '"""', "\0", "\u0663",
         " 1 ", "# 1", "NA", "?", "\ufeff", "True", "1/2", "2020-01-01", "x" * 2000, "-0", "1\r2"]  # fmt: skip
_DISABLED = ("--plot", "--distributed")  # matplotlib takes seconds; of one process it is MPI's


class Ended(str):
    """How a call ended that gives no result, as it is counted."""


def command_line():
    return {f"cli.{name}": lambda world, name=name: command(world, name) for name in COMMANDS}


def command(world, name):
    from svdfast.cli.main import _parser, main

    rng, folder = world.rng, world.folder
    for old in folder.iterdir():
        if old.is_file():
            old.unlink()
    write_files(world, folder)
    (commands,) = [a for a in _parser()._actions if isinstance(a, argparse._SubParsersAction)]
    words = positional(name, rng)
    options = [a for a in commands.choices[name]._actions if a.option_strings and a.dest != "help"]
    for action in rng.sample(options, min(len(options), rng.choice([0, 1, 2, 2, 3]))):
        option = rng.choice(action.option_strings)
        words.append(option)
        if action.nargs != 0:
            good = rng.choice(list(action.choices)) if action.choices else GOOD.get(option, "1")
            words.append(good if rng.random() < 0.8 else rng.choice(WORDS))
    if name == "train":
        words += ["--threads", "1", "--epochs", "2", "--hidden", "6,5"] if "--model" not in words else ["--threads", "1", "--epochs", "1"]
    for _ in range(rng.choice([0, 0, 0, 0, 0, 1, 2])):  # not a number of epochs or threads, which would take long
        place = rng.randrange(len(words) + 1)
        if rng.random() < 0.3 and place < len(words) and words[place] not in ("--epochs", "--hidden", "--threads"):
            del words[place]
        elif place == len(words) or words[place - 1] not in ("--epochs", "--hidden", "--threads", "--steps", "--width"):
            words.insert(place, rng.choice(WORDS))
    words = [w for w in words if w not in _DISABLED]
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    written = {words[i + 1] for i, w in enumerate(words[:-1]) if w in ("--save", "--output", "--checkpoint", "--resume", "--report")}
    written |= set(words[-1:]) | {w for w in words if w.endswith(".onnx")}

    def run():
        out, errors, stdin = io.StringIO(), io.StringIO(), sys.stdin
        sys.stdin = io.TextIOWrapper(io.BytesIO(b"a,y\n1,2\n3,4\n"))
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                status = main(words)
        finally:
            sys.stdin = stdin
        told = errors.getvalue()
        if status not in (0, 1, 2) or "Traceback" in told or (status and "svdfast: error: " not in told):
            raise AssertionError(f"status {status} of {words}: {told[-300:]}")
        for file, content in before.items():
            if file not in written and (not (folder / file).exists() or (folder / file).read_bytes() != content):
                raise AssertionError(f"{words} changed {file}")
        if left := [file.name for file in folder.iterdir() if file.name.endswith(".part")]:
            raise AssertionError(f"{words} left {left}")
        return Ended(f"status {status}")

    run.words = words
    return Call(run, {})


def positional(name, rng):
    table = rng.choice(["table.csv"] * 6 + ["arrays.npz"] * 2 + ["-", rng.choice(WORDS)])
    model = rng.choice(["net.npz"] * 9 + [rng.choice(WORDS)])
    words = {"train": [table], "predict": [model, table], "evaluate": [model, table], "compress": [model], "info": [model],
             "export": [model, "out.onnx"]}[name]  # fmt: skip
    if name == "train" and rng.random() < 0.1:
        words = ["text", "text.txt"]
    elif name == "train" and table.isdigit():
        words = ["table.csv"]
    return [name, *words]


def write_files(world, folder):
    rng = world.rng
    rows = [["a", "b", "c", "d", "e", "y"]] + [[str(rng.randrange(9) - 4) for _ in range(5)] + [rng.choice("uvw")] for _ in range(25)]
    for _ in range(rng.choice([0, 0, 1, 1, 2, 5])):
        row = rng.choice(rows)
        what = rng.randrange(6)
        if what < 4 and row:
            row[rng.randrange(len(row))] = rng.choice(CELLS)
        elif what == 4:
            row.append(rng.choice(CELLS))
        else:
            del row[rng.randrange(len(row) + 1) :]
    if rng.random() < 0.05:
        rows = rows[: rng.randrange(3)]
    mixed = rng.random() < 0.1
    text = "\n".join((rng.choice(",,,;\t") if mixed else ",").join(row) for row in rows)
    (folder / "table.csv").write_bytes(text.encode(rng.choice(["utf-8"] * 9 + ["utf-16"]), "surrogatepass"))
    (folder / "text.txt").write_bytes(rng.choice([b"abc abd " * 40, b"abc abd " * 40, b"", b"\xff" * 30, b"a", bytes(100)]))
    X = np.random.default_rng(0).standard_normal((25, 5)) if rng.random() < 0.7 else world.any_array()
    y = np.arange(25) % 3 if rng.random() < 0.7 else world.any_array()
    with contextlib.suppress(Exception):
        np.savez(folder / "arrays.npz", **{rng.choice(["X", "X", "x_train", "Z"]): X, rng.choice(["y", "y", "y_train"]): y})
    sf.save(sf.Network([5, 6, 5, 3], seed=0), folder / "net.npz")


# --- svdfast.torch ----------------------------------------------------------------------------------------------------------------------


def pytorch():
    try:
        import torch  # noqa: F401

        import svdfast.torch as st
    except ImportError:
        return {}
    found = {f"torch.{name}": globals()[name] for name in ("factorize", "recompose")}
    found["torch.Schedule"] = schedule
    found |= {f"torch.Schedule.{name}": globals()[f"schedule_{name}"] for name in ("step", "load_state_dict")}
    for name in st.__all__:
        if isinstance(getattr(st, name), type) and name not in ("Schedule", "Factored"):
            found[f"torch.{name}"] = lambda world, name=name: module(world, name)
    return found


def model_and_optimizer(world):
    import torch

    torch.manual_seed(0)
    kind = world.rng.choice(["linear", "linear", "convolutions", "recurrent"])
    if kind == "linear":
        layers, x = [torch.nn.Linear(12, 16), torch.nn.ReLU(), torch.nn.Linear(16, 14), torch.nn.ReLU(), torch.nn.Linear(14, 3)], (6, 12)
    elif kind == "convolutions":
        layers = [torch.nn.Conv2d(4, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3), torch.nn.Flatten(), torch.nn.Linear(8, 3)]
        x = (6, 4, 5, 5)
    else:
        layers, x = [First(torch.nn.LSTM(12, 8, batch_first=True)), torch.nn.Linear(8, 3)], (6, 4, 12)
    model = torch.nn.Sequential(*layers)
    make = world.rng.choice([torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
    return model, make(model.parameters(), lr=0.01), torch.randn(x)


def First(recurrent):
    """The states of a recurrent layer after the last step."""
    import torch

    class First(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = recurrent

        def forward(self, x):
            return self.inner(x)[0][:, -1]

    return First()


def step(model, optimizer, x):
    optimizer.zero_grad()
    loss = model(x).square().mean()
    loss.backward()
    optimizer.step()
    return loss


def state_of_torch(model, optimizer=None, plan=None):
    def state():
        import torch

        found = [repr(model), [(name, t.detach().numpy().tobytes()) for name, t in model.state_dict().items()]]
        if optimizer is not None:
            found.append([[id(p) for p in group["params"]] for group in optimizer.param_groups])
            found.append([[t.numpy().tobytes() for t in s.values() if isinstance(t, torch.Tensor)] for s in optimizer.state.values()])
        if plan is not None:
            found.append(repr(plan.state_dict()))
        return found

    return state


def goes_on(model, optimizer, x, plan, steps=8):
    """The rest of a training, which ends with finite numbers or as its loss says."""
    import torch

    with torch.no_grad():
        for p in model.parameters():
            p.nan_to_num_()
    for _ in range(steps):
        plan.step(step(model, optimizer, x))
    plan.explain()
    repr(plan.state_dict())
    plan.finish()


def method(world):
    return world.rng.choice([0.5, "auto", None, world.method(), sf.Factoring(0.5, pretrain_fraction=0.2, guard=sf.Guard(0.1, "undo"))])


def schedule(world):
    from svdfast.torch import Schedule

    model, optimizer, x = model_and_optimizer(world)
    good = {"model": model, "optimizer": optimizer, "n_steps": 8, "factoring": method(world), "skip": [str(len(model) - 1)],
            "sample": [x], "loss": lambda output, batch: output.square().mean()}  # fmt: skip

    def after(plan):
        if plan.optimizer is optimizer:
            goes_on(model, optimizer, x, plan)

    return Call(Schedule, good, state_of_torch(model, optimizer), after, ("model", "optimizer", "sample", "loss"), (Exception,))


def begun(world, n=None):
    from svdfast.torch import Schedule

    model, optimizer, x = model_and_optimizer(world)
    factoring = world.rng.choice([0.5, "auto", sf.Factoring(0.5, pretrain_fraction=0.2, guard=sf.Guard(0.1, "delay"))])
    plan = Schedule(model, optimizer, n_steps=12, factoring=factoring, sample=[x], loss=lambda output, batch: output.square().mean())
    for _ in range(world.rng.randrange(8) if n is None else n):
        plan.step(step(model, optimizer, x))
    return model, optimizer, x, plan


def schedule_step(world):
    model, optimizer, x, plan = begun(world)
    return Call(plan.step, {"loss": 1.0}, after=lambda result: goes_on(model, optimizer, x, plan))


def schedule_load_state_dict(world):
    saved = begun(world)[3].state_dict()
    for _ in range(world.rng.choice([0, 1, 1, 1, 2])):
        mutate(world, saved)
    model, optimizer, x, plan = begun(world, n=0)
    state = state_of_torch(model, optimizer, plan)
    call = Call(plan.load_state_dict, {"state": saved}, state, lambda _: goes_on(model, optimizer, x, plan))
    call.rarely = True  # what is in the state is hostile
    return call


def mutate(world, value):
    """Another value, or none, somewhere in a state."""
    rng, inside = world.rng, value
    while True:
        if not inside:
            return
        key = rng.choice(list(inside) if isinstance(inside, dict) else range(len(inside)))
        if not isinstance(inside[key], dict | list) or not inside[key] or rng.random() < 0.15:
            break
        inside = inside[key]
    if not isinstance(inside, dict | list):
        return
    what = rng.randrange(8)
    if what == 0:
        del inside[key]
    elif what == 1 and isinstance(inside, dict):
        inside[rng.choice(["more", "0", "2", "rank", 3, None])] = inside[key]
    elif what == 2 and isinstance(inside[key], int | float) and not isinstance(inside[key], bool):
        inside[key] = rng.choice([inside[key] + 1, inside[key] - 1, -inside[key], inside[key] * 1e6, float("nan"), 2**70])
    else:
        inside[key] = copy.deepcopy(rng.choice([None, True, -1, 0, 1, 2**31, 2**70, 1e308, float("nan"), float("inf"), "", "x", "0", [],
                                                {}, [[]], [1, 2], ["a"], {"a": 1}, {"0": 2}, {"0": "x"}, b"", object,
                                                np.zeros(3)]))  # fmt: skip


def factorize(world):
    from svdfast.torch import factorize

    model, _, x = model_and_optimizer(world)
    good = {"module": model, "rank_fraction": 0.5, "ranks": world.rng.choice([{"0": 2}, "energy:0.9", "budget:0.5"]), "method": "exact",
            "force": True, "skip": ["2"], "sample": [x]}  # fmt: skip
    return Call(factorize, good, state_of_torch(model), lambda _: model(x), ("sample", "module"), (Exception,))


def recompose(world):
    from svdfast.torch import factorize, recompose

    model, _, x = model_and_optimizer(world)
    factorize(model, rank_fraction=0.5, force=True)
    return Call(recompose, {"module": model}, state_of_torch(model), lambda _: model(x), ("module",), (Exception,))


def module(world, name):
    """A layer of svdfast's own, made by hand."""
    import torch

    import svdfast.torch as st

    kind = getattr(st, name)
    good = {
        "in_features": 6, "out_features": 5, "rank": 2, "in_channels": 4, "out_channels": 5, "kernel_size": 3, "bias": True,
        "input_size": 6, "hidden_size": 5, "W1": torch.nn.Parameter(torch.rand(5, 2)), "W2": torch.nn.Parameter(torch.rand(2, 6)),
        "cell": "gru", "input": torch.nn.Linear(6, 15), "states": torch.nn.Linear(5, 15), "return_sequences": True,
        "module": torch.nn.GRU(6, 5, batch_first=True), "kind": "switch", "step": 1, "info": {}, "name": "0", "n_in": 6, "n_out": 5,
    }  # fmt: skip
    function = kind if inspect.signature(kind).parameters else lambda: kind()
    return Call(function, good, theirs=tuple(good), raised=(Exception,))


def found(light=False):
    """All calls of these areas, by name; `light` without PyTorch."""
    return {**estimators(), **command_line(), **({} if light else pytorch())}
