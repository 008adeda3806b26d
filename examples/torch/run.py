"""Prefill and decode of a small transformer in PyTorch, in two processes: `python run.py --devices cuda:0,cuda:1`.

Eight layers with eight heads of 64, random weights, 32-bit floats. A prompt of 500 tokens is prefilled in chunks of 128, whose pages kvx
moves while the next chunk is computed; decode's cache is full of NaN before, and its pages have other numbers. `cpu,cpu` runs
wherever torch does. `--suppress-transfer` lets the bytes land elsewhere, and must fail.
"""

from __future__ import annotations

import ctypes
import hashlib
import random
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "python"))

import disaggregate  # noqa: E402
import kvx_host as kvx  # noqa: E402

LAYERS, HEADS, DIM, VOCABULARY = 8, 8, 64, 1000
WIDTH = HEADS * DIM
PAGES, PAGE_TOKENS = 64, 16


class Model:
    page_tokens = PAGE_TOKENS
    paged = disaggregate.paged("transformer", LAYERS, HEADS, 4 * DIM, "f32", PAGES, PAGE_TOKENS)

    def __init__(self, device: str):
        self._device = torch.device(device)
        weights = torch.Generator().manual_seed(1)

        def matrix(rows: int, columns: int, scale: float) -> torch.Tensor:
            return (torch.randn(rows, columns, generator=weights) * scale).to(self._device)

        self._tokens = matrix(VOCABULARY, WIDTH, 1)
        self._layers = [
            {
                **{name: matrix(WIDTH, WIDTH, WIDTH**-0.5) for name in "qkvo"},
                **{"up": matrix(WIDTH, 2 * WIDTH, WIDTH**-0.5), "down": matrix(2 * WIDTH, WIDTH, (2 * WIDTH) ** -0.5)},
            }
            for _ in range(LAYERS)
        ]
        self._head = matrix(WIDTH, VOCABULARY, WIDTH**-0.5)
        self.memory, flat = self._pool(4 * LAYERS * 2 * PAGES * PAGE_TOKENS * WIDTH)
        self._kv = flat.view(LAYERS, 2, PAGES, PAGE_TOKENS, WIDTH)

    def _pool(self, size: int) -> tuple[list, torch.Tensor]:
        """The cache, as kvx and as torch see it."""
        if self._device.type == "cpu":
            torch.set_num_threads(1)
            shared = kvx.HostMemory(size)
            return [shared], torch.frombuffer(shared.map, dtype=torch.float32)
        torch.cuda.set_device(self._device)
        pool = torch.zeros(size // 4, device=self._device)
        return [kvx.CudaMemory(pool.data_ptr(), size, self._device.index)], pool

    def spoil(self) -> None:
        self._kv.fill_(float("nan"))
        self.synchronize()

    @torch.inference_mode()
    def step(self, ids: list[int], start: int, pages: list[int]) -> int:
        end = start + len(ids)
        page, slot = self._at(end, pages)
        positions = torch.arange(end, device=self._device)
        mine = positions[start:]
        hidden = positions[None, :] > mine[:, None]
        angles = mine[:, None] * (torch.arange(WIDTH, device=self._device) + 1) / 50
        x = self._tokens[torch.tensor(ids, device=self._device)] + torch.sin(angles)
        for (keys, values), w in zip(self._kv, self._layers):
            y = _normal(x)
            keys[page[start:], slot[start:]] = y @ w["k"]
            values[page[start:], slot[start:]] = y @ w["v"]
            q = (y @ w["q"]).view(-1, HEADS, DIM)
            k, v = (part[page, slot].view(end, HEADS, DIM) for part in (keys, values))
            scores = torch.einsum("qhd,khd->hqk", q, k) / DIM**0.5
            weights = scores.masked_fill(hidden, float("-inf")).softmax(-1)
            x = x + torch.einsum("hqk,khd->qhd", weights, v).reshape(-1, WIDTH) @ w["o"]
            x = x + torch.relu(_normal(x) @ w["up"]) @ w["down"]
        return int((_normal(x[-1]) @ self._head).argmax())

    def synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.current_stream(self._device).synchronize()

    def cache(self, tokens: int, pages: list[int]) -> str:
        page, slot = self._at(tokens, pages)
        rows = self._kv[:, :, page, slot].cpu().contiguous()
        return hashlib.sha256(ctypes.string_at(rows.data_ptr(), rows.nbytes)).hexdigest()

    def _at(self, tokens: int, pages: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Page, and place in it, of each token of the prompt."""
        positions = torch.arange(tokens, device=self._device)
        return torch.tensor(pages, device=self._device)[positions // PAGE_TOKENS], positions % PAGE_TOKENS


def _normal(x: torch.Tensor) -> torch.Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-6).sqrt()


def job(**given: object) -> disaggregate.Job:
    return disaggregate.Job(
        make=Model,
        prompt=[(i * 37 + 11) % VOCABULARY for i in range(500)],
        chunk=128,
        answer=48,
        prefill_pages=random.Random(2).sample(range(PAGES), 35),
        decode_pages=random.Random(3).sample(range(PAGES), 35),
        **given,
    )


if __name__ == "__main__":
    disaggregate.main(job, devices="cuda:0,cuda:0")
