"""The exam that a text encoder trains for: its hidden states must answer learned questions.

A question is a query of one cross-attention over the text, whose result a linear layer classifies:
just what a denoiser does with the hidden states later. Both are thrown away after training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from sdaccel.shapes.training.loop import Losses

HEADS = 4


class Questions(nn.Module):
    """Hidden states (B, tokens, width) to scores of each question's classes, (B, count, sum).

    `classes` are the numbers of choices in each part of an answer, one after another.
    """

    def __init__(self, width: int, count: int, classes: tuple[int, ...]) -> None:
        super().__init__()
        self.classes = classes
        self.queries = nn.Parameter(torch.randn(count, width) * 0.5)
        self.attention = nn.MultiheadAttention(width, HEADS, batch_first=True)
        self.answer = nn.Linear(width, sum(classes))

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Attend from each question to the text and classify what comes back."""
        queries = self.queries.expand(len(hidden_states), -1, -1)
        scores: Tensor = self.answer(self.attention(queries, hidden_states, hidden_states)[0])
        return scores

    def losses(self, hidden_states: Tensor, wanted: Tensor) -> Losses:
        """Cross-entropy summed over the parts of the right answers (B, count, parts).

        "right" is the share of texts of which every part of every answer is right.
        """
        parts = self(hidden_states).split(self.classes, -1)
        mistakes = [
            functional.cross_entropy(part.flatten(0, 1), wanted[..., index].flatten())
            for index, part in enumerate(parts)
        ]
        right = [part.argmax(-1) == wanted[..., index] for index, part in enumerate(parts)]
        return {
            "loss": torch.stack(mistakes).sum(),
            "right": torch.stack(right).all(0).all(-1).float().mean(),
        }
