"""The image encoder I(x) of SAM-Med3D: a 3D vision transformer, computed without its padding tokens and yet exactly."""

from __future__ import annotations

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import ChannelNorm, FeedForward


class ImageEncoder(nn.Module):
    """A vision transformer over cubic patches (SAM-Med3D, Wang et al., arXiv 2310.15161).

    Args:
        size: Voxels along each side of the input cube.
        patch: Voxels along each side of a patch; a patch becomes a token.
        width: Channels of a token.
        depth: Number of transformer blocks.
        heads: Attention heads of a block.
        window: Tokens along each side of the window that a windowed block attends in; it must hold all tokens.
        global_blocks: The blocks that attend over the tokens alone, with no window.
        channels: Channels of the embedding.
    """

    def __init__(
        self,
        *,
        size: int = 128,
        patch: int = 16,
        width: int = 768,
        depth: int = 12,
        heads: int = 12,
        window: int = 14,
        global_blocks: Collection[int] = (2, 5, 8, 11),
        channels: int = 384,
    ) -> None:
        super().__init__()
        tokens = size // patch
        self.patch_embed = PatchEmbedding(patch, width)
        self.pos_embed = nn.Parameter(torch.zeros(1, tokens, tokens, tokens, width))
        self.blocks = nn.ModuleList(
            Block(width, heads, tokens, tokens if number in global_blocks else window) for number in range(depth)
        )
        self.neck = nn.Sequential(
            nn.Conv3d(width, channels, kernel_size=1, bias=False),
            ChannelNorm(channels),
            nn.Conv3d(channels, channels, kernel_size=3, padding=1, bias=False),
            ChannelNorm(channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Embed volumes.

        Args:
            x: (B, 1, size, size, size) prepared grey values.

        Returns:
            (B, channels, t, t, t) embeddings, t = size / patch.
        """
        x = self.patch_embed(x) + self.pos_embed
        for block in self.blocks:
            x = block(x)
        return self.neck(x.movedim(-1, 1))


class PatchEmbedding(nn.Module):
    """Cuts a volume into cubes and maps each linearly to a token.

    Args:
        patch: Voxels along each side of a cube.
        width: Channels of a token.
    """

    def __init__(self, patch: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(1, width, kernel_size=patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, 1, D, H, W) to tokens (B, d, h, w, width)."""
        return self.proj(x).movedim(1, -1)


class Block(nn.Module):
    """A transformer block: attention, then a perceptron, each normalised before and added to what came in.

    Args:
        width: Channels of a token.
        heads: Attention heads.
        tokens: Tokens along each side of the cube.
        window: Tokens along each side of the window, at least ``tokens``.
    """

    def __init__(self, width: int, heads: int, tokens: int, window: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=1e-6)
        self.attn = WindowAttention(width, heads, tokens, window)
        self.norm2 = nn.LayerNorm(width, eps=1e-6)
        self.mlp = FeedForward(width, 4 * width, functional.gelu)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, t, t, t, width) to tokens."""
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class WindowAttention(nn.Module):
    r"""Self-attention of a cube of tokens in a larger window of zeros, with decomposed relative positions.

    The model was trained with its t³ tokens padded by zeros to one window of w³, and the zeros take part in the
    softmax. All of them have the same query b_q, key b_k and value b_v: the biases of the projection. For a query q they
    differ only in the bias r_p of their place p. They therefore fold exactly (our derivation) into one extra key with
    value b_v, because

        Σ_p exp(s q·b_k + r_p) b_v = exp(s q·b_k + log Σ_p exp r_p) b_v,   s = 1 / √(channels of a head),

    and no token of padding is ever made.

    The bias is a sum of three terms after MViTv2 (Li et al., CVPR 2022, equation 4), but with the axes as the weights
    were trained: for the query at (d, h, w) and the key at (i, j, k)

        r = q_dhw · R_d[d − k] + q_dhi · R_h[h − k] + q_dhj · R_w[j − k].

    Two of the terms take the query vector of another token of the row (d, h), which beyond the cube is b_q. Neither
    depends on w, so that one table serves a whole row of queries.

    Args:
        width: Channels of a token.
        heads: Attention heads.
        tokens: Tokens along each side of the cube, t.
        window: Tokens along each side of the window, w, at least t.
    """

    def __init__(self, width: int, heads: int, tokens: int, window: int) -> None:
        super().__init__()
        if window < tokens:
            msg = (
                f"A window of {window} cannot hold {tokens} tokens along each side; several windows are not supported."
            )
            raise ValueError(msg)
        self.heads, self.tokens, self.window = heads, tokens, window
        self.scale = (width // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.rel_pos_d = nn.Parameter(torch.zeros(2 * window - 1, width // heads))
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * window - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * window - 1, width // heads))

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, t, t, t, width) to tokens."""
        batch, t, width = x.shape[0], self.tokens, x.shape[-1]
        qkv = self.qkv(x).reshape(batch, t**3, 3, self.heads, width // self.heads)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        bias_q, bias_k, bias_v = (
            self.qkv.bias.to(q.dtype).reshape(3, 1, self.heads, 1, -1).expand(-1, batch, -1, -1, -1)
        )
        own, by_i, by_j = self._position_terms(q, bias_q)

        # The query's own term depends on the key's k alone: a dot product with a vector that is one at k.
        query = [q * self.scale, own[..., :t]]
        key = torch.cat([k, self._last_place(k).expand(batch, self.heads, -1, -1)], dim=-1)
        if self.window > t:
            query.append(self._padding_bias(own, by_i, by_j)[..., None])
            padding = functional.pad(functional.pad(bias_k, (0, t)), (0, 1), value=1.0)
            key = torch.cat([functional.pad(key, (0, 1)), padding], dim=-2)
            v = torch.cat([v, bias_v], dim=-2)
        logits = torch.cat(query, dim=-1) @ key.transpose(-2, -1)
        rows = by_i[..., :t, None, :t] + by_j[..., None, :t, :t]  # (B, heads, d, h, i, j, k)
        logits[..., : t**3].unflatten(2, (t * t, t)).add_(rows.flatten(4).flatten(2, 3)[:, :, :, None])
        mixed = logits.softmax(dim=-1).to(v.dtype) @ v
        return self.proj(mixed.transpose(1, 2).reshape(batch, t, t, t, width))

    def _position_terms(self, q: Tensor, bias_q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the three terms of the position bias.

        Args:
            q: (B, heads, t³, c) queries.
            bias_q: (B, heads, 1, c) the query of every token of padding.

        Returns:
            Of each query and k (B, heads, t³, w); of each row and i, k (B, heads, t, t, w, w); of each row and j, k, the same.
        """
        t, w = self.tokens, self.window
        cube = q.unflatten(2, (t, t, t))
        beyond = bias_q[:, :, None, None].expand(-1, -1, t, t, w - t, -1)
        rows = torch.cat([cube, beyond], dim=4)
        places = torch.arange(w, device=q.device)
        # Row a, column k: the embedding of the offset from place k to place a.
        offsets = places[:, None] - places + w - 1
        own = torch.einsum("bndhwc,dkc->bndhwk", cube, self.rel_pos_d[offsets[:t]]).flatten(2, 4)
        by_i = torch.einsum("bndhic,hkc->bndhik", rows, self.rel_pos_h[offsets[:t]])
        by_j = torch.einsum("bndhjc,jkc->bndhjk", rows, self.rel_pos_w[offsets])
        return own, by_i, by_j

    def _last_place(self, like: Tensor) -> Tensor:
        """Return (t³, t): for every token a one at its place along the last axis."""
        t = self.tokens
        return torch.eye(t, dtype=like.dtype, device=like.device).repeat(t * t, 1)

    def _padding_bias(self, own: Tensor, by_i: Tensor, by_j: Tensor) -> Tensor:
        """Return log Σ exp of the position bias over the window's padding, (B, heads, t³)."""
        t = self.tokens
        (inside_i, beyond_i), (inside_j, beyond_j) = (
            (terms[..., :t, :].logsumexp(-2), terms[..., t:, :].logsumexp(-2)) for terms in (by_i, by_j)
        )
        whole_i, whole_j = torch.logaddexp(inside_i, beyond_i), torch.logaddexp(inside_j, beyond_j)
        # For k in the cube padding lies beyond along i, or inside along i and beyond along j; for k beyond it is everywhere.
        for_k = torch.logaddexp(beyond_i + whole_j, inside_i + beyond_j)
        for_k = torch.cat([for_k[..., :t], (whole_i + whole_j)[..., t:]], dim=-1)
        return (own.unflatten(2, (t * t, t)) + for_k.flatten(2, 3)[..., None, :]).logsumexp(-1).flatten(2)
