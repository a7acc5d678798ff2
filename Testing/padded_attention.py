"""SAM-Med3D's attention in its plain form, with every token of padding made: what ours must equal, and is compared with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from SemiSAMPlusLib.generalist.sam_med3d.image_encoder import WindowAttention


def padded_attention(attention: WindowAttention, x: Tensor) -> Tensor:
    """Pad the tokens (B, t, t, t, width) with zeros to the window, attend over all of it, crop."""
    batch, t, w = x.shape[0], attention.tokens, attention.window
    x = functional.pad(x, (0, 0, 0, w - t, 0, w - t, 0, w - t))
    qkv = attention.qkv(x).reshape(batch, w, w, w, 3, attention.heads, -1).permute(4, 0, 5, 1, 2, 3, 6)
    q, k, v = qkv
    places = torch.arange(w, device=x.device)
    offsets = places[:, None] - places + w - 1
    by_d = torch.einsum("bndhwc,dkc->bndhwk", q, attention.rel_pos_d[offsets])
    by_h = torch.einsum("bndhic,hkc->bndhik", q, attention.rel_pos_h[offsets])
    by_w = torch.einsum("bndhjc,jkc->bndhjk", q, attention.rel_pos_w[offsets])
    logits = torch.einsum("bndhwc,bnijkc->bndhwijk", q * attention.scale, k)
    logits = logits + by_d[..., None, None, :] + by_h[:, :, :, :, None, :, None] + by_w[:, :, :, :, None, None]
    weights = logits.flatten(5).softmax(-1).unflatten(5, (w, w, w))
    mixed = torch.einsum("bndhwijk,bnijkc->bdhwnc", weights, v)[:, :t, :t, :t]
    return attention.proj(mixed.flatten(4))
