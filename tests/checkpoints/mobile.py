"""A checkpoint in Google's mobile format, and what transformers computes with it.

Run as a script in its own process, because torch and MLX should not share a BLAS:

    python mobile.py FOLDER
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))
import reference
from transformers.integrations.gemma_quant import apply_srq, replace_with_quant_layers
from transformers.utils.quantization_config import GemmaQuantizationConfig

#: 2 bits in the MLPs, 8 in attention, 4 elsewhere; head and some layers as they are.
QUANTIZATION = GemmaQuantizationConfig(
    num_bits=4,
    quantize_embeddings=True,
    module_quant_configs={r"\.mlp\.": {"num_bits": 2}, r"self_attn\.": {"num_bits": 8}},
    modules_to_not_convert=["lm_head", "vision_tower", "embed_vision"],
)


@torch.no_grad()
def main(folder):
    config, model = reference.build("e2b")
    originals = {
        n: m.weight.detach().clone()
        for n, m in model.named_modules()
        if isinstance(m, torch.nn.Linear | torch.nn.Embedding)
    }
    replace_with_quant_layers(model, QUANTIZATION, QUANTIZATION.modules_to_not_convert)
    g = torch.Generator().manual_seed(3)
    for name, module in model.named_modules():
        kind, original = type(module).__name__, originals.get(name)
        if kind == "QuantizedEmbedding":
            table, scale, groups = module.embedding_quantized, module.embedding_scale, 2
        elif kind == "QuantizedLinear":
            table, scale, groups = module.weight, module.weight_scale, 1
        else:
            continue
        middle = 2 ** (module.num_bits - 1)
        x = original.reshape(len(original), groups, -1)
        step = x.abs().amax(-1) / (middle - 0.5)
        codes = (x / step[..., None]).round().clamp(-middle, middle - 1).reshape(original.shape)
        if module.num_bits == 8:
            table.copy_(codes.to(torch.int8))
        else:
            each = 8 // module.num_bits
            codes = (codes + middle).to(torch.uint8).reshape(len(codes), -1, each)
            shifts = torch.arange(each, dtype=torch.uint8) * module.num_bits
            table.copy_((codes << shifts).sum(-1).to(torch.uint8))
        if kind == "QuantizedEmbedding":
            module.embedding_scale = torch.nn.Parameter(step, requires_grad=False)
        else:
            scale.copy_(step)
    model.lm_head.weight = torch.nn.Parameter(model.model.language_model.embed_tokens.weight)
    ids = torch.randint(0, 490, (1, 40), generator=g)
    plain = model(input_ids=ids, use_cache=False).logits
    for name, module in model.named_modules():
        if hasattr(module, "input_activation_scale") and not name.endswith("o_proj"):
            for scale in (module.input_activation_scale, module.output_activation_scale):
                scale.copy_(torch.rand((), generator=g) * 0.02 + 0.02)
    single = model(input_ids=ids.T, use_cache=False).logits
    x = torch.randn(4000, generator=g) * 3
    rounded = apply_srq(x, torch.tensor(0.03))
    state = {n: t.contiguous().clone() for n, t in model.state_dict().items() if "lm_head" not in n}
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / "model.safetensors")
    data = config.to_dict() | {"quantization_config": QUANTIZATION.to_dict()}
    (folder / "config.json").write_text(json.dumps(data))
    arrays = dict(ids=ids, plain=plain, single=single, x=x, rounded=rounded)
    np.savez(folder / "reference.npz", **{n: t.numpy() for n, t in arrays.items()})


if __name__ == "__main__":
    main(Path(sys.argv[1]))
