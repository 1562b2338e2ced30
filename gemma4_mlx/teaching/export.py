"""Write the ordinary Gemma 4 checkpoint folder: config, weights, tokenizer, processor."""

import json
from pathlib import Path

from .. import atomic
from . import architecture, tokenizer


def export(model, tok, folder: Path) -> int:
    """Write `model` (transformers' class) in bfloat16 to `folder`; returns the file's bytes."""
    import torch
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, value in model.state_dict().items():
        if name != "lm_head.weight":  # tied to the embedding
            tensors[name] = value.detach().to(torch.bfloat16).contiguous().clone()
    documents = {
        "config.json": architecture.CONFIG,
        "generation_config.json": architecture.GENERATION,
        "processor_config.json": architecture.PROCESSOR,
        "tokenizer_config.json": tokenizer.hub_config(),
    }
    for name, document in documents.items():
        atomic.write(folder / name, (json.dumps(document, indent=2) + "\n").encode())
    atomic.write(folder / "tokenizer.json", tok.to_str(pretty=False).encode())
    data = save(tensors, metadata={"format": "pt"})
    atomic.write(folder / "model.safetensors", data)
    return len(data)
