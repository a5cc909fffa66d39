# SPDX-License-Identifier: BSD-3-Clause
"""torch.nn.MultiheadAttention with the weight of its three input projections as two factors.

Elsewhere: the other factored layers (layers.py).
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, pad, scaled_dot_product_attention, softmax

from svdfast.torch.layers import Factored

__all__ = ["FactoredMultiheadAttention", "attention"]


def attention(type_: Any, like: nn.MultiheadAttention) -> Any:
    """Attention of this type with the settings of another.

    It shares the other's parameters, except the weight of the input projections.
    """
    made = type_(
        like.embed_dim, like.num_heads, like.dropout, bias=like.in_proj_bias is not None, add_bias_kv=like.bias_k is not None,
        add_zero_attn=like.add_zero_attn, batch_first=like.batch_first, device="meta",
    )  # fmt: skip
    made.register_parameter("in_proj_bias", like.in_proj_bias)
    made.bias_k, made.bias_v = like.bias_k, like.bias_v
    made.out_proj = like.out_proj
    made.training = like.training  # out_proj keeps its own
    return made


class FactoredMultiheadAttention(Factored, nn.MultiheadAttention):
    """A torch.nn.MultiheadAttention whose ``in_proj_weight`` is W1·W2; `factorize` makes it.

    Queries, keys and values share W2, so self-attention forms its product with W2 once. It is
    called like MultiheadAttention and returns the same. ``in_proj_weight`` is computed at each
    access; PyTorch's fast path for inference reads it.
    """

    if TYPE_CHECKING:
        W1: nn.Parameter

    def __init__(self, *args: Any, **settings: Any):
        super().__init__(*args, **settings)
        del self.in_proj_weight  # from here on the product

    def _reset_parameters(self) -> None:
        """Does nothing: the factors come from a truncation."""

    @property
    def factors(self) -> tuple[tuple[nn.Parameter, ...], nn.Parameter]:
        return (self.W1,), self.W2

    def __getattr__(self, name: str) -> Any:
        # nn.Module looks for parameters here, so its constructor can still register one.
        if name == "in_proj_weight" and "W1" in self._parameters:
            return self.W1 @ self.W2
        return super().__getattr__(name)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Same as torch.nn.MultiheadAttention."""
        if query.is_nested or key.is_nested or value.is_nested:
            # Only the kernel of torch.nn's fast path accepts nested tensors.
            dense: Any = self.dense()
            return dense(
                query, key, value, key_padding_mask, need_weights, attn_mask, average_attn_weights, is_causal
            )
        if is_causal and attn_mask is None:
            raise RuntimeError("attn_mask: expected the causal mask with is_causal, got None")
        _check_shapes(self, query, key, value, key_padding_mask, attn_mask)
        batched = query.ndim == 3
        if is_causal and key_padding_mask is None and not need_weights:
            attn_mask = None  # the kernel makes its own
        else:
            is_causal = False
        padding = _additive("key_padding_mask", key_padding_mask, query.dtype)
        mask = _additive("attn_mask", attn_mask, query.dtype)

        q, k, v = self._projected(query, key, value)
        if not batched:
            q, k, v = (x.unsqueeze(1) for x in (q, k, v))
            padding = None if padding is None else padding.unsqueeze(0)
        elif self.batch_first:
            q, k, v = (x.transpose(0, 1) for x in (q, k, v))
        steps, n, _ = q.shape
        heads = self.num_heads
        if mask is not None and mask.ndim == 2:
            mask = mask.unsqueeze(0)
        more = 0
        if self.bias_k is not None and self.bias_v is not None:
            k = torch.cat([k, self.bias_k.repeat(1, n, 1)])
            v = torch.cat([v, self.bias_v.repeat(1, n, 1)])
            more += 1
        # (steps, n, e) to (n·heads, steps, e/heads)
        q, k, v = (x.reshape(len(x), n * heads, self.head_dim).transpose(0, 1) for x in (q, k, v))
        if self.add_zero_attn:
            k, v = (torch.cat([x, x.new_zeros(n * heads, 1, self.head_dim)], dim=1) for x in (k, v))
            more += 1
        if more:
            mask = None if mask is None else pad(mask, (0, more))
            padding = None if padding is None else pad(padding, (0, more))
        source = k.shape[1]
        if padding is not None:
            rows = padding.view(n, 1, 1, source).expand(-1, heads, -1, -1).reshape(n * heads, 1, source)
            mask = rows if mask is None else mask + rows
        dropout = self.dropout if self.training else 0.0

        weights: Tensor | None = None
        if need_weights:
            q = q * math.sqrt(1.0 / self.head_dim)
            scores = torch.bmm(q, k.mT) if mask is None else torch.baddbmm(mask, q, k.mT)
            weights = softmax(scores, dim=-1)
            if dropout > 0:
                weights = nn.functional.dropout(weights, dropout)
            seen = torch.bmm(weights, v).transpose(0, 1)
            weights = weights.view(n, heads, steps, source)
            if average_attn_weights:
                weights = weights.mean(dim=1)
        else:
            if mask is not None:
                mask = mask.unsqueeze(0) if len(mask) == 1 and n * heads != 1 else mask.view(n, heads, -1, source)
            q, k, v = (x.view(n, heads, x.shape[1], self.head_dim) for x in (q, k, v))
            seen = scaled_dot_product_attention(q, k, v, mask, dropout, is_causal).permute(2, 0, 1, 3)
        out = linear(seen.reshape(steps * n, self.embed_dim), self.out_proj.weight, self.out_proj.bias).view(steps, n, self.embed_dim)
        if not batched:
            return out.squeeze(1), None if weights is None else weights.squeeze(0)
        return (out.transpose(0, 1) if self.batch_first else out), weights

    def _projected(self, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, ...]:
        """Q, K and V. Inputs that are the same tensor share one product."""
        W1, b, e = self.W1, self.in_proj_bias, self.embed_dim
        if query is key and key is value:
            return linear(linear(query, self.W2), W1, b).chunk(3, dim=-1)
        b_q = None if b is None else b[:e]
        q = linear(linear(query, self.W2), W1[:e], b_q)
        if key is value:
            b_kv = None if b is None else b[e:]
            return (q, *linear(linear(key, self.W2), W1[e:], b_kv).chunk(2, dim=-1))
        b_k, b_v = (None, None) if b is None else (b[e : 2 * e], b[2 * e :])
        k = linear(linear(key, self.W2), W1[e : 2 * e], b_k)
        return q, k, linear(linear(value, self.W2), W1[2 * e :], b_v)

    def dense(self) -> nn.Module:
        made = attention(nn.MultiheadAttention, self)
        made.in_proj_weight = nn.Parameter(self._product(), self._trained())
        return made

    def extra_repr(self) -> str:
        """The settings that `repr` shows."""
        return f"embed_dim={self.embed_dim}, num_heads={self.num_heads}, rank={self.rank}"


def _additive(name: str, mask: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """The mask as one that is added to the scores: −∞ where a bool mask is true."""
    if mask is None or mask.is_floating_point():
        return mask
    if mask.dtype != torch.bool:
        raise RuntimeError(f"{name}: expected a mask of bool or floating point, got {mask.dtype}")
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, -math.inf)


def _check_shapes(
    layer: FactoredMultiheadAttention, query: Tensor, key: Tensor, value: Tensor, padding: Tensor | None, mask: Tensor | None
) -> None:
    """Refuses shapes that torch.nn's attention refuses and that broadcasting would accept."""
    if query.ndim not in (2, 3) or key.ndim != query.ndim or value.ndim != query.ndim:
        raise RuntimeError(f"query, key, value: expected all with 2 or all with 3 dimensions, got {query.ndim}, {key.ndim}, {value.ndim}")
    if key.shape != value.shape:
        raise RuntimeError(f"value: expected shape {tuple(key.shape)}, as the key, got {tuple(value.shape)}")
    if query.shape[-1] != layer.embed_dim:
        raise RuntimeError(f"query: expected {layer.embed_dim} features, got {query.shape[-1]}")
    batched = query.ndim == 3
    at = 1 if batched and layer.batch_first else 0
    steps, source = query.shape[at], key.shape[at]
    n = query.shape[1 - at] if batched else 1
    if batched and key.shape[1 - at] != n:
        raise RuntimeError(f"key: expected a batch of {n}, as the query, got {key.shape[1 - at]}")
    expected = (n, source) if batched else (source,)
    if padding is not None and padding.shape != expected:
        raise RuntimeError(f"key_padding_mask: expected shape {expected}, got {tuple(padding.shape)}")
    shapes = ((steps, source), (n * layer.num_heads, steps, source))
    if mask is not None and mask.shape not in shapes:
        raise RuntimeError(f"attn_mask: expected shape {shapes[0]} or {shapes[1]}, got {tuple(mask.shape)}")
