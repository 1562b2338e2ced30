"""Adapters that PEFT saves of a checkpoint, and what transformers computes with each.

Run as a script in its own process, because torch and MLX should not share a BLAS:

    python tests/checkpoints/peft_reference.py CHECKPOINT OUT NAME...

writes OUT/NAME/{adapter_config.json, adapter_model.safetensors, logits.npy}.
"""

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

PROMPT = list(range(3, 43))
LINEAR = r".*language_model\.layers\.\d+\..*\.(q|k|v|o|gate|up|down)_proj"
KINDS = {
    "lora": dict(r=4, lora_alpha=16, target_modules=LINEAR),
    "dora": dict(r=4, lora_alpha=8, target_modules=LINEAR, use_dora=True),
    "rslora": dict(
        r=4,
        lora_alpha=4,
        use_rslora=True,
        target_modules=r".*language_model\.(layers\.\d+\.self_attn\.(q_proj|o_proj)|embed_tokens)",
        rank_pattern={r"layers\.1\.self_attn\.q_proj": 2},
        alpha_pattern={r"layers\.0\.self_attn\.q_proj": 9},
    ),
    "experts": dict(
        r=2,
        lora_alpha=4,
        target_modules=r".*language_model\..*q_proj",
        target_parameters=["experts.gate_up_proj", "experts.down_proj"],
    ),
}


def main(checkpoint: Path, out: Path, names: list[str]) -> None:
    import numpy as np
    import peft
    import torch
    from transformers import AutoModelForImageTextToText

    torch.set_num_threads(1)
    for name in names:
        torch.manual_seed(1)
        model = AutoModelForImageTextToText.from_pretrained(
            checkpoint, dtype=torch.float32, attn_implementation="eager"
        )
        kind = KINDS[name]
        config = peft.LoraConfig(init_lora_weights=False, **kind)
        adapted = peft.get_peft_model(model, config).eval()
        adapted.save_pretrained(out / name)
        with torch.no_grad():
            logits = adapted(input_ids=torch.tensor([PROMPT]), use_cache=False).logits
        np.save(out / name / "logits.npy", logits[0].float().numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
