"""Updates in both layouts: adaptive focal loss, gradients clipped to norm 1, AdamW with f32 master weights."""

import torch

from objective import adaptive_focal, labels
from released import Released
from strongest import Strongest

ADAMW = {"lr": 3e-5, "betas": (0.9, 0.999), "eps": 1e-6, "weight_decay": 0.0}
CLIP = 1.0


class ReleasedTraining:
    """One padded batch an update; bf16 is autocast."""

    def __init__(self, config, weights, precision):
        self.model = Released(config, {name: w.requires_grad_() for name, w in weights.items()}, precision)
        self.weights = list(weights.values())
        self.optimizer = torch.optim.AdamW(self.weights, **ADAMW)
        self.classes = config.classes

    def update(self, documents):
        logits = torch.cat(self.model.logits(documents, training=True))
        gold = torch.cat([labels(document, self.classes, logits.device) for document in documents])
        (adaptive_focal(logits, gold) / len(logits)).backward()
        torch.nn.utils.clip_grad_norm_(self.weights, CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()


class StrongestTraining:
    """One document after another, gradients summed in f32; bf16 is a copy of the weights, renewed every update."""

    def __init__(self, config, weights, precision, pool):
        self.masters, self.pool, self.classes = list(weights.values()), pool, config.classes
        half = precision == "bf16"
        self.working = [(w.bfloat16() if half else w).requires_grad_() for w in self.masters]
        self.model = Strongest(config, dict(zip(weights, self.working)))
        self.optimizer = torch.optim.AdamW(self.masters, fused=True, **ADAMW)

    def update(self, documents):
        cells = sum(document.entities ** 2 for document in documents)
        for master in self.masters:
            master.grad = None
        for gradients in self.pool.map(lambda document: self.gradients(document, cells), documents):
            self.gather(gradients)
        torch.nn.utils.clip_grad_norm_(self.masters, CLIP)
        self.optimizer.step()
        with torch.no_grad():
            for master, working in zip(self.masters, self.working):
                if working is not master:
                    working.copy_(master)

    def gradients(self, document, cells):
        logits = self.model.logits(document, training=True)
        loss = adaptive_focal(logits, labels(document, self.classes)) / cells
        return torch.autograd.grad(loss, self.working)

    def gather(self, gradients):
        for master, gradient in zip(self.masters, gradients):
            if master.grad is None:
                master.grad = gradient.float()
            else:
                master.grad += gradient
