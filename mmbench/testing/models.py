"""Tiny random networks in the file format of the pretrained ones they stand for."""

import json
from pathlib import Path

WIDTH = 20  # of the space that pictures and texts share
PICTURE = 32  # height and width that it reads
PIECES = 16  # word pieces that it reads


def tiny_clip(folder: Path, seed: int = 0) -> Path:
    """Write a CLIP of two small layers and its tokenizer, as ``save_pretrained`` does.

    Args:
        folder: made if missing; its name below the weights folder is the model's name.
        seed: of the weights.
    """
    import torch
    from transformers import AutoTokenizer, CLIPConfig, CLIPModel

    folder.mkdir(parents=True, exist_ok=True)
    signs = [chr(c) for c in range(33, 127)]
    pieces = [*signs, *(f"{s}</w>" for s in signs), "ra", "in</w>", "rain</w>"]
    vocabulary = [*pieces, "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({p: i for i, p in enumerate(vocabulary)}))
    (folder / "merges.txt").write_text("#version: 0.2\nr a\ni n</w>\nra in</w>\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "CLIPTokenizer"}')
    end = len(vocabulary) - 1
    layers = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
              "num_attention_heads": 2, "projection_dim": WIDTH}  # fmt: skip
    config = CLIPConfig(
        text_config={**layers, "vocab_size": end + 1, "max_position_embeddings": PIECES,
                     "bos_token_id": end - 1, "eos_token_id": end, "pad_token_id": end},
        vision_config={**layers, "image_size": PICTURE, "patch_size": 8},
        projection_dim=WIDTH,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = CLIPModel(config)
        for weights in model.parameters():  # larger than CLIP's own start: inputs must matter
            weights.data += 0.2 * torch.randn_like(weights)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(str(folder), local_files_only=True).save_pretrained(folder)
    return folder
