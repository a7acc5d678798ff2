"""The prompt encoder P(p) of SAM-Med3D: points become tokens, a mask becomes an image of features."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from .layers import ChannelNorm

#: Labels of points: in the structure, outside it, the closing token that the model was trained with, and no token at all.
INSIDE, OUTSIDE, NOT_A_POINT, ABSENT = 1, 0, -1, -2


class PromptEncoder(nn.Module):
    """Embeds points and masks. There is no embedding of boxes: the model was given none.

    Args:
        size: Voxels along each side of the input cube.
        tokens: Tokens along each side of the image embedding.
        channels: Channels of the embeddings, a multiple of 3.
        mask_channels: Hidden channels of the mask's embedding.
    """

    def __init__(self, *, size: int = 128, tokens: int = 8, channels: int = 384, mask_channels: int = 16) -> None:
        super().__init__()
        self.size, self.tokens = size, tokens
        self.pe_layer = PositionEncoding(channels // 3)
        self.point_embeddings = nn.ModuleList(nn.Embedding(1, channels) for _ in range(2))  # outside, inside
        self.not_a_point_embed = nn.Embedding(1, channels)
        self.mask_downscaling = nn.Sequential(
            nn.Conv3d(1, mask_channels // 4, kernel_size=2, stride=2),
            ChannelNorm(mask_channels // 4),
            nn.GELU(),
            nn.Conv3d(mask_channels // 4, mask_channels, kernel_size=2, stride=2),
            ChannelNorm(mask_channels),
            nn.GELU(),
            nn.Conv3d(mask_channels, channels, kernel_size=1),
        )
        self.no_mask_embed = nn.Embedding(1, channels)

    def forward(self, points: Tensor, labels: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor]:
        """Embed K prompt sets.

        Args:
            points: (K, N, 3) array indices of voxels in the input cube, which may be fractional; N may be 0.
            labels: (K, N) integers: ``INSIDE``, ``OUTSIDE``, ``NOT_A_POINT`` or ``ABSENT``.
            masks: (K, 1, 4 t, 4 t, 4 t) logits, or None.

        Returns:
            Sparse embeddings (K, N, channels), and dense ones (K, channels, t, t, t).
        """
        sparse = self.pe_layer((points + 0.5) / self.size)
        sparse = sparse * (labels >= OUTSIDE)[..., None]
        for label, embedding in (
            (OUTSIDE, self.point_embeddings[0]),
            (INSIDE, self.point_embeddings[1]),
            (NOT_A_POINT, self.not_a_point_embed),
        ):
            sparse = sparse + (labels == label)[..., None] * embedding.weight
        if masks is not None:
            return sparse, self.mask_downscaling(masks)
        cube = (points.shape[0], -1, self.tokens, self.tokens, self.tokens)
        return sparse, self.no_mask_embed.weight[:, :, None, None, None].expand(cube)

    def dense_positions(self) -> Tensor:
        """Return the position encoding (1, channels, t, t, t) of the image embedding's tokens.

        The model was trained with the first two coordinates exchanged here, unlike for points, and its weights are
        made for that.
        """
        centers = (torch.arange(self.tokens, device=self.no_mask_embed.weight.device) + 0.5) / self.tokens
        first, second, third = torch.meshgrid(centers, centers, centers, indexing="ij")
        return self.pe_layer(torch.stack([second, first, third], dim=-1)).movedim(-1, 0)[None]


class PositionEncoding(nn.Module):
    """Random Fourier features of a place (Tancik et al., NeurIPS 2020), as Segment Anything uses them.

    Args:
        features: Number of random frequencies; the encoding has three times as many channels.
    """

    positional_encoding_gaussian_matrix: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("positional_encoding_gaussian_matrix", torch.randn(3, features))

    def forward(self, places: Tensor) -> Tensor:
        """Encode places (..., 3) in units of the cube's side, 0 to 1, as (..., 3 * features)."""
        frequencies = self.positional_encoding_gaussian_matrix
        angles = 2 * math.pi * ((2 * places.to(frequencies.dtype) - 1) @ frequencies)
        sine = angles.sin()
        return torch.cat([sine, angles.cos(), sine], dim=-1)
