"""A module that is pickled whole."""

from __future__ import annotations

from typing import Any

import torch


class Net(torch.nn.Module):
    """Holds parameters, buffers kept and not, parts in parts, a tied one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc1 = torch.nn.Linear(8, 12)
        self.norm = torch.nn.BatchNorm1d(12)
        self.blocks = torch.nn.ModuleList([torch.nn.Linear(4, 4, bias=False) for _ in range(2)])
        self.tied = self.fc1
        self.scales = torch.nn.ParameterList([torch.ones(3), torch.zeros(2)])
        self.nothing: Any = None
        self.register_buffer("kept", torch.arange(3))
        self.register_buffer("scratch", torch.ones(2), persistent=False)
        self.register_parameter("absent", None)
