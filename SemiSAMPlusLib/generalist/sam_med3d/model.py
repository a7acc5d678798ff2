"""SAM-Med3D as a whole: M[I(x) + P(p)], with the names and shapes of the official ``vit_b_ori`` checkpoints."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, nn

from .image_encoder import ImageEncoder
from .mask_decoder import MaskDecoder
from .prompt_encoder import ABSENT, PromptEncoder


class SamMed3DModel(nn.Module):
    """The network (Wang et al., arXiv 2310.15161); the defaults are those of SAM-Med3D, its turbo and SegAnyPET.

    Args:
        size: Voxels along each side of the input cube.
        patch: Voxels along each side of a patch.
        width: Channels of the encoder's tokens.
        depth: Blocks of the encoder.
        heads: Attention heads of the encoder.
        window: Tokens along each side of the encoder's windows.
        global_blocks: The encoder's blocks without window.
        channels: Channels of the embeddings.
        decoder_hidden: Hidden channels of the decoder's perceptrons.
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
        decoder_hidden: int = 2048,
    ) -> None:
        super().__init__()
        self.size, self.mask_size = size, 4 * (size // patch)
        self.image_encoder = ImageEncoder(
            size=size,
            patch=patch,
            width=width,
            depth=depth,
            heads=heads,
            window=window,
            global_blocks=global_blocks,
            channels=channels,
        )
        self.prompt_encoder = PromptEncoder(size=size, tokens=size // patch, channels=channels)
        self.mask_decoder = MaskDecoder(channels=channels, hidden=decoder_hidden)

    def embed(self, x: Tensor) -> Tensor:
        """Embed prepared cubes (B, 1, size, size, size) as (B, channels, t, t, t)."""
        return self.image_encoder(x)

    def answer(
        self, embedding: Tensor, points: Tensor, labels: Tensor, masks: Tensor | None, part: tuple[slice, ...] = ()
    ) -> tuple[Tensor, Tensor]:
        """Answer K prompt sets in one pass.

        Args:
            embedding: (1 or K, channels, t, t, t), as :meth:`embed` gave it.
            points: (K, N, 3) array indices in the cube; N may be 0.
            labels: (K, N) see :mod:`.prompt_encoder`; shorter prompt sets are filled up with ``ABSENT``.
            masks: (K, 1, m, m, m) logits, m = ``mask_size``, or None.
            part: Which of the embedding's tokens, along its three axes, logits are wanted of; all where not given.

        Returns:
            Logits (K, 1, m, m, m), less where only a ``part`` is wanted, and the estimated IoU (K, 1).
        """
        sparse, dense = self.prompt_encoder(points, labels, masks)
        positions = self.prompt_encoder.dense_positions()
        return self.mask_decoder(embedding, positions, sparse, dense, absent=labels == ABSENT, part=part)
