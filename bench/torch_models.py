# SPDX-License-Identifier: BSD-3-Clause
"""PyTorch models that benches factor, with samples: a plain MLP, a VGG-like network, a small GPT.

torch_device.py and torch_training.py measure them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

CONTEXT, N_CHARACTERS = 128, 65
# The layers that stay dense: truncation would harm a classifier's scores.
SKIP = ("out",)


class MLP(nn.Module):
    """784 inputs and three hidden layers of one width."""

    def __init__(self, width: int = 1024):
        super().__init__()
        parts: list[nn.Module] = []
        for n_in in (784, width, width):
            parts += [nn.Linear(n_in, width), nn.ReLU()]
        self.hidden = nn.Sequential(*parts)
        self.out = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x))


class VGG(nn.Module):
    """Six 3×3 convolutions as in Simonyan & Zisserman (2015), without normalisation, on 32×32×3."""

    def __init__(self) -> None:
        super().__init__()
        parts: list[nn.Module] = []
        before = 3
        for channels in (64, 128, 256):
            for _ in range(2):
                layer = nn.Conv2d(before, channels, 3, padding=1)
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)
                parts += [layer, nn.ReLU()]
                before = channels
            parts.append(nn.MaxPool2d(2))
        self.hidden = nn.Sequential(*parts, nn.Flatten(), nn.Linear(4096, 256), nn.ReLU())
        self.out = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.hidden(x))


class Block(nn.Module):
    """Attention and two Linear layers, each after a LayerNorm (GPT-2)."""

    def __init__(self, width: int, n_heads: int):
        super().__init__()
        self.n_heads = n_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attend, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        n, steps, width = x.shape
        heads = self.attend(self.norm1(x)).view(n, steps, 3, self.n_heads, width // self.n_heads).permute(2, 0, 3, 1, 4)
        seen = nn.functional.scaled_dot_product_attention(heads[0], heads[1], heads[2], is_causal=True)
        x = x + self.project(seen.transpose(1, 2).reshape(n, steps, width))
        return x + self.down(nn.functional.gelu(self.up(self.norm2(x))))


class GPT(nn.Module):
    """Predicts the character after each of CONTEXT, by 4 blocks of width 256."""

    def __init__(self, width: int = 256, n_blocks: int = 4, n_heads: int = 4):
        super().__init__()
        self.token, self.place = nn.Embedding(N_CHARACTERS, width), nn.Embedding(CONTEXT, width)
        self.blocks = nn.Sequential(*(Block(width, n_heads) for _ in range(n_blocks)))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, N_CHARACTERS)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.out(self.norm(self.blocks(self.token(x) + self.place.weight[: x.shape[1]])))
        return scores.transpose(1, 2)  # (n, classes, steps), as cross_entropy takes them


MODELS: dict[str, type[nn.Module]] = {"mlp": MLP, "vgg": VGG, "gpt": GPT}


def random_batch(name: str, n: int, device: str | torch.device = "cpu", seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs and classes for a model."""
    generator = torch.Generator().manual_seed(seed)
    if name == "gpt":
        text = torch.randint(N_CHARACTERS, (n, CONTEXT + 1), generator=generator).to(device)
        return text[:, :-1], text[:, 1:]
    shape = (784,) if name == "mlp" else (3, 32, 32)
    X = torch.rand(n, *shape, generator=generator).to(device)
    return X, torch.randint(10, (n,), generator=generator).to(device)
