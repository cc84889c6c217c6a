"""What follows the logits: predictions, the adaptive focal loss as released (gamma 1), the label table."""

import torch
import torch.nn.functional as F

TOP_K = 4


def predict(logits):
    """(cell, class, margin) of every relation above the threshold class and among the `TOP_K`."""
    margins, classes = logits.topk(TOP_K, 1)
    margins = margins - logits[:, :1]
    cells, ranks = (margins > 0).nonzero(as_tuple=True)
    return list(zip(cells.tolist(), classes[cells, ranks].tolist(), margins[cells, ranks].tolist()))


def labels(document, classes, device="cpu"):
    table = torch.zeros(document.entities ** 2, classes, dtype=torch.bool, device="cpu")
    for head, tail, relation in document.labels:
        table[head * document.entities + tail, relation] = True
    return table.to(device)


def adaptive_focal(logits, labels):
    """Summed over the cells."""
    margin = logits - logits[:, :1]
    log_p = F.logsigmoid(margin)
    focal = ((2.0 - log_p.exp()) * -log_p).masked_fill(~labels, 0.0).sum()
    return focal + margin.masked_fill(labels, float("-inf")).logsumexp(1).sum()
