"""The mask decoder M of SAM-Med3D: tokens and image attend to each other, then tokens choose voxels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .layers import ChannelNorm, FeedForward


class MaskDecoder(nn.Module):
    """Turns an image embedding and embedded prompts into masks, with an estimate of each mask's IoU.

    Args:
        channels: Channels of image and prompt embeddings.
        depth: Blocks of the two-way transformer.
        heads: Attention heads.
        hidden: Hidden channels of the transformer's perceptrons.
        alternatives: Masks for an ambiguous prompt, beside the one for a clear prompt.
        quality_hidden: Hidden channels of the IoU head.
    """

    def __init__(
        self,
        *,
        channels: int = 384,
        depth: int = 2,
        heads: int = 8,
        hidden: int = 2048,
        alternatives: int = 3,
        quality_hidden: int = 256,
    ) -> None:
        super().__init__()
        self.transformer = TwoWayTransformer(channels, depth, heads, hidden)
        self.iou_token = nn.Embedding(1, channels)
        self.mask_tokens = nn.Embedding(alternatives + 1, channels)
        self.output_upscaling = nn.Sequential(
            nn.ConvTranspose3d(channels, channels // 4, kernel_size=2, stride=2),
            ChannelNorm(channels // 4),
            nn.GELU(),
            nn.ConvTranspose3d(channels // 4, channels // 8, kernel_size=2, stride=2),
            nn.GELU(),
        )
        self.output_hypernetworks_mlps = nn.ModuleList(
            Perceptron(channels, channels, channels // 8) for _ in range(alternatives + 1)
        )
        self.iou_prediction_head = Perceptron(channels, quality_hidden, alternatives + 1)

    def forward(
        self,
        image: Tensor,
        image_positions: Tensor,
        sparse: Tensor,
        dense: Tensor,
        *,
        absent: Tensor | None = None,
        part: tuple[slice, ...] = (),
        ambiguous: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Answer K prompt sets in one pass.

        Args:
            image: (1 or K, channels, t, t, t) image embedding; one serves all prompt sets.
            image_positions: (1, channels, t, t, t) position encoding of its tokens.
            sparse: (K, N, channels) embedded points; N may be 0.
            dense: (K, channels, t, t, t) embedded masks.
            absent: (K, N) true where a prompt set has fewer points than the longest: nothing attends there. (Ours:
                it lets prompt sets of different length share a batch without changing any answer.)
            part: Which of the image's tokens, along its three axes, logits are wanted of; all where not given. (Ours: a
                token becomes a cube of logits of its own, so none of them changes.)
            ambiguous: Return the masks for an ambiguous prompt instead of the single one for a clear prompt.

        Returns:
            Logits (K, masks, 4 t, 4 t, 4 t), less where only a ``part`` is wanted, and estimated IoU (K, masks); one
            mask, or several where ``ambiguous``.
        """
        sets = sparse.shape[0]
        own = torch.cat([self.iou_token.weight, self.mask_tokens.weight]).expand(sets, -1, -1)
        tokens = torch.cat([own, sparse], dim=1)
        keep = None
        if absent is not None:
            keep = ~functional.pad(absent, (own.shape[1], 0), value=False)[:, None, None]
        pixels = (image + dense).flatten(2).transpose(1, 2)
        positions = image_positions.flatten(2).transpose(1, 2)
        tokens, pixels = self.transformer(tokens, pixels, positions, keep)

        cube = pixels.transpose(1, 2).unflatten(2, dense.shape[2:])
        features = self.output_upscaling(cube[(slice(None), slice(None), *part)].contiguous())
        chosen = slice(1, None) if ambiguous else slice(0, 1)
        mask_tokens = tokens[:, 1 : own.shape[1]][:, chosen]
        heads = self.output_hypernetworks_mlps[chosen]
        filters = torch.stack([head(mask_tokens[:, i]) for i, head in enumerate(heads)], dim=1)
        logits = (filters @ features.flatten(2)).unflatten(2, features.shape[2:])
        return logits, self.iou_prediction_head(tokens[:, 0])[:, chosen]


class TwoWayTransformer(nn.Module):
    """Lets prompt tokens and image tokens attend to each other.

    Args:
        channels: Channels of all tokens.
        depth: Number of blocks.
        heads: Attention heads.
        hidden: Hidden channels of the perceptrons.
    """

    def __init__(self, channels: int, depth: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TwoWayBlock(channels, heads, hidden, first=number == 0) for number in range(depth))
        self.final_attn_token_to_image = CrossAttention(channels, channels // 2, heads)
        self.norm_final_attn = nn.LayerNorm(channels)

    def forward(self, prompts: Tensor, pixels: Tensor, positions: Tensor, keep: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the attended tokens.

        Args:
            prompts: (K, n, channels) prompt tokens.
            pixels: (K, m, channels) image tokens.
            positions: (1, m, channels) position encoding of the image tokens.
            keep: (K, 1, 1, n) false for prompt tokens that are not there, or None.

        Returns:
            Prompt tokens (K, n, channels) and image tokens (K, m, channels).
        """
        tokens = prompts
        for layer in self.layers:
            tokens, pixels = layer(tokens, pixels, prompts, positions, keep)
        tokens = tokens + self.final_attn_token_to_image(tokens + prompts, pixels + positions, pixels)
        return self.norm_final_attn(tokens), pixels


class TwoWayBlock(nn.Module):
    """One exchange: tokens among themselves, tokens from the image, a perceptron, the image from the tokens.

    Args:
        channels: Channels of all tokens.
        heads: Attention heads.
        hidden: Hidden channels of the perceptron.
        first: The first block's tokens are the prompts themselves: they are not added to themselves, and are replaced.
    """

    def __init__(self, channels: int, heads: int, hidden: int, *, first: bool) -> None:
        super().__init__()
        self.first = first
        self.self_attn = CrossAttention(channels, channels, heads)
        self.norm1 = nn.LayerNorm(channels)
        self.cross_attn_token_to_image = CrossAttention(channels, channels // 2, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = FeedForward(channels, hidden, functional.relu)
        self.norm3 = nn.LayerNorm(channels)
        self.norm4 = nn.LayerNorm(channels)
        self.cross_attn_image_to_token = CrossAttention(channels, channels // 2, heads)

    def forward(
        self, tokens: Tensor, pixels: Tensor, prompts: Tensor, positions: Tensor, keep: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Return tokens (K, n, channels) and pixels (K, m, channels) after one exchange."""
        if self.first:
            tokens = self.self_attn(tokens, tokens, tokens, keep)
        else:
            placed = tokens + prompts
            tokens = tokens + self.self_attn(placed, placed, tokens, keep)
        tokens = self.norm1(tokens)
        placed_pixels = pixels + positions
        tokens = self.norm2(tokens + self.cross_attn_token_to_image(tokens + prompts, placed_pixels, pixels))
        tokens = self.norm3(tokens + self.mlp(tokens))
        answer = self.cross_attn_image_to_token(placed_pixels, tokens + prompts, tokens, keep)
        return tokens, self.norm4(pixels + answer)


class CrossAttention(nn.Module):
    """Multi-head attention in a space of ``inner`` channels.

    Args:
        channels: Channels in and out.
        inner: Channels of queries, keys and values, a multiple of ``heads``.
        heads: Attention heads.
    """

    def __init__(self, channels: int, inner: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(channels, inner)
        self.k_proj = nn.Linear(channels, inner)
        self.v_proj = nn.Linear(channels, inner)
        self.out_proj = nn.Linear(inner, channels)

    def forward(self, q: Tensor, k: Tensor, v: Tensor, keep: Tensor | None = None) -> Tensor:
        """Attend from (K, n, channels) to (K, m, channels); ``keep`` (K, 1, 1, m) is false where no key is."""
        q, k, v = (
            projection(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for projection, x in ((self.q_proj, q), (self.k_proj, k), (self.v_proj, v))
        )
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=keep)
        return self.out_proj(mixed.transpose(1, 2).flatten(2))


class Perceptron(nn.Module):
    """Three linear layers with ReLU between them.

    Args:
        channels: Channels in.
        hidden: Channels of the two hidden layers.
        out: Channels out.
    """

    def __init__(self, channels: int, hidden: int, out: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList((nn.Linear(channels, hidden), nn.Linear(hidden, hidden), nn.Linear(hidden, out)))

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., channels) to (..., out)."""
        first, second, last = self.layers
        return last(second(first(x).relu()).relu())
