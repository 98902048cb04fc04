# SPDX-License-Identifier: Apache-2.0
"""The network: a small llama (RMSNorm, rotary positions on interleaved pairs, grouped-query attention, SwiGLU, tied
embeddings), as GGUF's architecture "llama" defines it, and the Muon optimizer that trains its matrices."""

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import nn


@dataclass
class Shape:
    """Every matrix's input dimension is a multiple of 256, so that all block formats fit."""

    n_vocab: int = 2560
    n_embd: int = 256
    n_layer: int = 6
    n_head: int = 8
    n_head_kv: int = 4
    n_ff: int = 768
    n_ctx: int = 1024
    rope_base: float = 10000.0
    norm_eps: float = 1e-5

    def dict(self):
        return asdict(self)


def rope_table(shape):
    half = shape.n_embd // shape.n_head // 2
    frequency = shape.rope_base ** (-torch.arange(half, dtype=torch.float64) / half)
    angle = torch.arange(shape.n_ctx, dtype=torch.float64)[:, None] * frequency[None, :]
    return angle.cos().float(), angle.sin().float()


def rotate(x, cos, sin):
    """Rotates the pairs (0,1), (2,3), ... of the last dimension: the order that GGUF's llama has."""
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack((even * cos - odd * sin, even * sin + odd * cos), dim=-1).flatten(-2)


def attend(q, k, v):
    """Causal attention of [n, length, head_dim], perhaps after known positions, written out: for heads this narrow torch's own is 2.5 times slower."""
    length, known = q.shape[1], k.shape[1] - q.shape[1]
    mask = torch.full((length, length + known), float("-inf"), dtype=q.dtype).triu(1 + known)
    with torch.autocast("cpu", enabled=False):
        score = torch.baddbmm(mask.expand(q.shape[0], -1, -1), q, k.transpose(1, 2), alpha=q.shape[2] ** -0.5)
        return torch.softmax(score, -1) @ v


class Norm(nn.Module):
    def __init__(self, n, eps):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(n))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class Layer(nn.Module):
    def __init__(self, shape):
        super().__init__()
        d, self.shape = shape.n_embd, shape
        self.head_dim = d // shape.n_head
        kv = shape.n_head_kv * self.head_dim
        self.attn_norm, self.ffn_norm = Norm(d, shape.norm_eps), Norm(d, shape.norm_eps)
        self.attn_q, self.attn_k = nn.Linear(d, d, bias=False), nn.Linear(d, kv, bias=False)
        self.attn_v, self.attn_output = nn.Linear(d, kv, bias=False), nn.Linear(d, d, bias=False)
        self.ffn_gate, self.ffn_up = nn.Linear(d, shape.n_ff, bias=False), nn.Linear(d, shape.n_ff, bias=False)
        self.ffn_down = nn.Linear(shape.n_ff, d, bias=False)

    def attention(self, x, cos, sin, past):
        batch, length, d = x.shape
        shape, h = self.shape, self.head_dim
        q = self.attn_q(x).view(batch, length, shape.n_head, h).transpose(1, 2)
        k = self.attn_k(x).view(batch, length, shape.n_head_kv, h).transpose(1, 2)
        v = self.attn_v(x).view(batch, length, shape.n_head_kv, h).transpose(1, 2)
        q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        if past is not None:
            past[:] = k, v = [torch.cat((old, new), dim=2) for old, new in zip(past, (k, v))] if past else (k, v)
        group = shape.n_head // shape.n_head_kv
        k, v = k.repeat_interleave(group, 1), v.repeat_interleave(group, 1)
        out = attend(*(x.to(v.dtype).flatten(0, 1) for x in (q, k, v)))
        return self.attn_output(out.view(batch, shape.n_head, length, h).transpose(1, 2).reshape(batch, length, d))

    def forward(self, x, cos, sin, past=None):
        x = x + self.attention(self.attn_norm(x), cos, sin, past)
        y = self.ffn_norm(x)
        return x + self.ffn_down(F.silu(self.ffn_gate(y)) * self.ffn_up(y))


class Network(nn.Module):
    def __init__(self, shape):
        super().__init__()
        self.shape = shape
        self.token_embd = nn.Embedding(shape.n_vocab, shape.n_embd)
        self.blk = nn.ModuleList(Layer(shape) for _ in range(shape.n_layer))
        self.output_norm = Norm(shape.n_embd, shape.norm_eps)
        cos, sin = rope_table(shape)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)
        self.initialise()

    def initialise(self):
        nn.init.normal_(self.token_embd.weight, std=0.05)
        for layer in self.blk:
            for module in layer.modules():
                if isinstance(module, nn.Linear):
                    nn.init.normal_(module.weight, std=module.in_features ** -0.5)
            for module in (layer.attn_output, layer.ffn_down):
                module.weight.data *= (2 * self.shape.n_layer) ** -0.5

    def hidden(self, ids, past=None):
        """past: one list per layer, empty at first, that carries keys and values from call to call."""
        x = self.token_embd(ids)
        at = past[0][0].shape[2] if past and past[0] else 0
        cos, sin = self.cos[at:at + ids.shape[1]], self.sin[at:at + ids.shape[1]]
        for layer, known in zip(self.blk, past or [None] * len(self.blk)):
            x = layer(x, cos, sin, known)
        return self.output_norm(x)

    def logits(self, hidden):
        return F.linear(hidden, self.token_embd.weight)

    def loss(self, ids, targets, scored):
        """Mean over the scored positions; the others cost no output projection."""
        hidden = self.hidden(ids).flatten(0, 1)[scored.flatten()]
        return F.cross_entropy(self.logits(hidden).float(), targets.flatten()[scored.flatten()])

    def matrices(self):
        return [p for layer in self.blk for p in layer.parameters() if p.ndim == 2]

    def others(self):
        chosen = {id(p) for p in self.matrices()}
        return [p for p in self.parameters() if id(p) not in chosen]


def orthogonal(g, steps=5):
    """The nearest orthogonal matrix, roughly, by a quintic Newton-Schulz iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = g.shape[-2] > g.shape[-1]
    x = g.bfloat16().transpose(-2, -1) if tall else g.bfloat16()
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        s = x @ x.transpose(-2, -1)
        x = a * x + (b * s + c * s @ s) @ x
    return x.transpose(-2, -1) if tall else x


class Muon(torch.optim.Optimizer):
    """Momentum whose update is made orthogonal; matrices of one shape are done together. Of several workers each does
    its share, and total(flat) adds up what they did."""

    def __init__(self, params, lr=0.02, momentum=0.95, weight_decay=0.0, rank=0, workers=1, total=None):
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
        self.rank, self.workers, self.total = rank, workers, total

    def update(self, p, momentum):
        buf = self.state[p].setdefault("momentum", torch.zeros_like(p))
        buf.lerp_(p.grad, 1 - momentum)
        return p.grad.lerp(buf, momentum)

    def updates(self, params, momentum):
        """One row of numbers per matrix; those of other workers come with total()."""
        raw = [self.update(p, momentum) for p in params]
        out = torch.zeros(len(raw), raw[0].numel())
        mine = raw[self.rank::self.workers]
        if mine:
            out[self.rank::self.workers] = orthogonal(torch.stack(mine)).float().flatten(1)
        if self.workers > 1:
            self.total(out)
        return out

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            shapes = {}
            for p in group["params"]:
                shapes.setdefault(p.shape, []).append(p)
            for shape, params in shapes.items():
                scale = group["lr"] * max(1.0, shape[0] / shape[1]) ** 0.5
                for p, u in zip(params, self.updates(params, group["momentum"])):
                    p.mul_(1 - group["lr"] * group["weight_decay"]).add_(u.view_as(p), alpha=-scale)
