# SPDX-License-Identifier: BSD-3-Clause
"""Two processes that train one model over gloo: equal weights at the end, and those of one process to rounding."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not there")
if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
    pytest.skip("torch is built without gloo", allow_module_level=True)

import svdfast as sf  # noqa: E402
from svdfast.torch import Schedule  # noqa: E402

HERE = Path(__file__).parent
STEPS = 20


def trained(rank=0, world=1, auto=False, **arguments):
    """Steps on this process's share of the data; the gradient over all is that of one process on all."""
    from torch_training import data, model

    net = model(seed=rank if world > 1 else 0)  # DistributedDataParallel begins with rank 0's
    wrapped = net
    hooked = []
    if world > 1:
        wrapped = torch.nn.parallel.DistributedDataParallel(net, **arguments)
        wrapped.register_forward_hook(lambda *args: hooked.append(1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    x, y = data()
    share = slice(rank * len(x) // world, (rank + 1) * len(x) // world)
    settings = {"pretrain_fraction": 0.2, "recompose_fraction": 0.25, "force": True}
    sample = {}
    if auto:
        from svdfast.torch import budget, looks

        # Each process would decide otherwise, alone; there is time for all.
        looks.measured_break_even = lambda *args, **kwargs: 40 if rank == 0 else 0
        budget.LOOKING = 1e9
        sample = {
            "sample": [(x[share], y[share])],
            "loss": lambda output, batch: (output - batch[1]).square().mean(),
        }
    factoring = sf.Factoring(*(() if auto else (0.25,)), **settings)
    schedule = Schedule(
        wrapped, optimizer, n_steps=STEPS, factoring=factoring, skip=["output"], **sample
    )
    if auto:

        def look(self, step, choices, loss, rise):
            self.look_step = None
            return {
                c.name: c.options[0]
                for c in choices
                if c.options and loss is not None and rise({c.name: c.options[0]}) < 1
            }

        looks.Auto.look = look
    phases = []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = (wrapped(x[share]) - y[share]).square().mean()
        loss.backward()
        optimizer.step()
        schedule.step(loss)
        phases.append(schedule.phase)
    assert wrapped.training and (world == 1 or len(hooked) == STEPS)
    return net, phases, [(e.kind, e.step) for e in schedule.events]


def process(file, **arguments):
    """What runs in one of the processes."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo")
    rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    net, phases, events = trained(rank, world, **arguments)
    torch.save([net.state_dict(), phases, events], f"{file}{rank}")
    torch.distributed.destroy_process_group()


def in_two_processes(tmp_path, call):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    code = (
        f"import sys; sys.path.insert(0, {str(HERE)!r})\nimport test_torch_distributed as t\n{call}"
    )
    # That of this process, and not the sources that may lie in the folder.
    package = str(Path(sf.__file__).parents[1])
    common = os.environ | {
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2", "PYTHONPATH": package,
    }  # fmt: skip
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=common | {"RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
            cwd=tmp_path,
        )
        for rank in (0, 1)
    ]
    try:
        ended = [one.communicate(timeout=120)[1] for one in started]
    finally:
        for one in started:
            one.kill()
    return [one.returncode for one in started], ended


@pytest.mark.parametrize(
    "arguments",
    [{}, {"gradient_as_bucket_view": True, "find_unused_parameters": True}],
    ids=["plain", "views"],
)
def test_two_processes_end_with_the_weights_of_one(tmp_path, arguments):
    codes, errors = in_two_processes(
        tmp_path, f"t.process({str(tmp_path / 'rank')!r}, **{arguments!r})"
    )
    assert codes == [0, 0], errors
    (state0, *told0), (state1, *told1) = (torch.load(tmp_path / f"rank{rank}") for rank in (0, 1))
    assert told0 == told1 and told0[1] == [("switch", 4), ("recompose", 15)]
    assert all(torch.equal(state0[name], state1[name]) for name in state0)
    alone, phases, events = trained()
    assert [phases, events] == told0
    for name, numbers in alone.state_dict().items():
        torch.testing.assert_close(state0[name], numbers, rtol=0, atol=1e-5)


def test_rank_0_decides_where_layers_are_looked_at(tmp_path):
    codes, errors = in_two_processes(tmp_path, f"t.process({str(tmp_path / 'rank')!r}, auto=True)")
    assert codes == [0, 0], errors
    (state0, *told0), (state1, *told1) = (torch.load(tmp_path / f"rank{rank}") for rank in (0, 1))
    assert told0 == told1 and told0[1] == [("switch", 4), ("recompose", 15)]
    assert all(torch.equal(state0[name], state1[name]) for name in state0)


def failing(rank):
    """A truncation that fails on rank 0, where alone it is made."""
    from svdfast.torch import switch

    def truncate(*args):
        raise ArithmeticError("no convergence")

    switch.truncate = truncate
    torch.distributed.init_process_group("gloo")
    try:
        trained(rank, 2)
    except (ArithmeticError, RuntimeError) as error:
        assert "no convergence" in str(error)
        torch.distributed.barrier()  # who ends first would take the connection from the other
        sys.exit(7)


def test_a_failure_on_rank_0_is_one_on_all(tmp_path):
    codes, errors = in_two_processes(tmp_path, "import os; t.failing(int(os.environ['RANK']))")
    assert codes == [7, 7], errors
