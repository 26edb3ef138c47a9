# SPDX-License-Identifier: Apache-2.0
"""python -m tools.moe.train DIRECTORY: trains a small OLMoE-shaped model on `text.py`'s documents.

On two cores some minutes for 8 layers of 32 experts, 4 of them for each token; --gpu makes a larger one. What is
written is a Hugging Face model with its tokenizer, and `training.json` with what was seen.
"""

import json
import math
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import click
import torch
from rich.progress import track
from tokenizers import ByteLevelBPETokenizer
from transformers import OlmoeConfig, OlmoeForCausalLM, PreTrainedTokenizerFast

from tools.moe.text import documents, held_out

__all__ = ["Recipe", "train"]

VOCABULARY: Final = 4096
WARM_UP: Final = 0.1
END: Final = "<|endoftext|>"


@dataclass(frozen=True, slots=True)
class Recipe:
    """Shape of the model and length of the training."""

    layers: int = 8
    experts: int = 32
    used: int = 4
    hidden: int = 128
    intermediate: int = 128
    length: int = 256
    batch: int = 8
    minutes: float = 5.0
    rate: float = 3e-3


LARGE: Final = Recipe(16, 64, 8, 512, 256, 512, 32, 8.0, 1e-3)


def train(where: Path, recipe: Recipe, *, seed: int = 1, device: str = "cpu") -> dict[str, object]:
    """Trains until the minutes are over; returns what `training.json` says."""
    torch.manual_seed(seed)
    texts = documents()
    tokenizer = _tokenizer([one.text for one in texts if not held_out(one)])
    rows = {
        side: _rows(tokenizer, [one.text for one in texts if held_out(one) == side], recipe.length)
        for side in (False, True)
    }
    model: Any = OlmoeForCausalLM(
        OlmoeConfig(
            vocab_size=VOCABULARY,
            hidden_size=recipe.hidden,
            intermediate_size=recipe.intermediate,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.hidden // 32,
            num_key_value_heads=recipe.hidden // 32,
            num_experts=recipe.experts,
            num_experts_per_tok=recipe.used,
            max_position_embeddings=2048,
            router_aux_loss_coef=0.01,
            output_router_logits=True,
            tie_word_embeddings=True,
            pad_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).to(device)
    model.set_experts_implementation("grouped_mm")
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.1, betas=(0.9, 0.95))
    losses, seconds = _steps(model, optimizer, rows[False].to(device), recipe, seed)
    told: dict[str, object] = {
        "recipe": asdict(recipe),
        "seed": seed,
        "parameters": sum(one.numel() for one in model.parameters()),
        "documents": sum(not held_out(one) for one in texts),
        "documents held out": sum(map(held_out, texts)),
        "steps": len(losses),
        "seconds": round(seconds, 1),
        "loss": round(sum(losses[-20:]) / len(losses[-20:]), 3),
        "loss of held-out documents": round(_loss(model, rows[True].to(device)), 3),
        "loss of a uniform guess": round(math.log(VOCABULARY), 3),
    }
    where.mkdir(parents=True, exist_ok=True)
    model.config.output_router_logits = False
    model.save_pretrained(where)
    tokenizer.save_pretrained(where)
    (where / "training.json").write_text(json.dumps(told, indent=1) + "\n")
    return told


def _tokenizer(texts: list[str]) -> Any:
    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(texts, vocab_size=VOCABULARY, special_tokens=[END], show_progress=False)
    return PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, eos_token=END)


def _rows(tokenizer: Any, texts: list[str], length: int) -> torch.Tensor:
    """The documents one behind the other, cut into rows, [rows, length]."""
    found: list[int] = []
    for ids in tokenizer(texts)["input_ids"]:
        found += [*ids, tokenizer.eos_token_id]
    return torch.tensor(found[: len(found) // length * length]).reshape(-1, length)


def _steps(
    model: Any, optimizer: torch.optim.Optimizer, rows: torch.Tensor, recipe: Recipe, seed: int
) -> tuple[list[float], float]:
    dice = torch.Generator().manual_seed(seed)
    losses: list[float] = []
    began = time.monotonic()
    model.train()
    for _ in track(iter(lambda: (time.monotonic() - began) / 60 < recipe.minutes, False), "trains", transient=True):
        done = (time.monotonic() - began) / 60 / recipe.minutes
        rate = recipe.rate * min(done / WARM_UP, 0.5 * (1 + math.cos(math.pi * min(done, 1))) + 0.02)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = rows[torch.randint(len(rows), (recipe.batch,), generator=dice)]
        loss = model(input_ids=batch, labels=batch).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
    return losses, time.monotonic() - began


@torch.no_grad()
def _loss(model: Any, rows: torch.Tensor) -> float:
    model.eval()
    batches = rows[:64].split(8)
    return sum(float(model(input_ids=one, labels=one, output_router_logits=False).loss) for one in batches) / len(
        batches
    )


@click.command()
@click.argument("directory", type=click.Path(path_type=Path))
@click.option("--minutes", type=click.FloatRange(0, min_open=True), help="how long")
@click.option("--gpu", is_flag=True, help="the larger model, on a GPU")
@click.option("--seed", default=1, show_default=True)
def main(directory: Path, minutes: float | None, gpu: bool, seed: int) -> None:
    """Trains a small mixture-of-experts model and writes it to DIRECTORY."""
    recipe = LARGE if gpu else Recipe()
    if minutes is not None:
        recipe = replace(recipe, minutes=minutes)
    click.echo(json.dumps(train(directory, recipe, seed=seed, device="cuda" if gpu else "cpu"), indent=1))


if __name__ == "__main__":
    main()
