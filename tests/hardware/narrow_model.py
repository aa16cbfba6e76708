"""A random model as wide as SmolLM2-135M, with two layers and 2,048 tokens, so that many rows are affordable.

python tests/hardware/narrow_model.py FOLDER     # exports it in every recipe to FOLDER/narrow-RECIPE
"""

import sys
from pathlib import Path

import gguf
import numpy as np

from multispin_models.onnx.export import export_onnx
from multispin_models.onnx.recipes import WHOLE_RECIPES

HIDDEN, FEED_FORWARD, HEADS, KEY_HEADS, HEAD, LAYERS, CONTEXT = 576, 1536, 9, 3, 64, 2, 1024
VOCABULARY = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256))]
VOCABULARY += [b"w%d" % i for i in range(2048 - len(VOCABULARY))]


def write_narrow(path: Path) -> Path:
    """Write the model as a GGUF file."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("narrow")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KEY_HEADS)
    writer.add_rope_dimension_count(HEAD)
    writer.add_rope_freq_base(100000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(VOCABULARY)
    writer.add_token_scores([0.0] * len(VOCABULARY))
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, *[gguf.TokenType.BYTE] * 256]
    writer.add_token_types(types + [gguf.TokenType.NORMAL] * (len(VOCABULARY) - len(types)))
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    random = np.random.default_rng(23)
    for name, shape in _shapes().items():
        centre, spread = (1.0, 0.2) if "norm" in name else (0.0, 0.06)  # attention over many keys, not over one
        writer.add_tensor(name, random.normal(centre, spread, shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _shapes() -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(VOCABULARY), HIDDEN),
        "output_norm.weight": (HIDDEN,),
    }
    for layer in range(LAYERS):
        shapes |= {
            f"blk.{layer}.attn_norm.weight": (HIDDEN,),
            f"blk.{layer}.attn_q.weight": (HEADS * HEAD, HIDDEN),
            f"blk.{layer}.attn_k.weight": (KEY_HEADS * HEAD, HIDDEN),
            f"blk.{layer}.attn_v.weight": (KEY_HEADS * HEAD, HIDDEN),
            f"blk.{layer}.attn_output.weight": (HIDDEN, HEADS * HEAD),
            f"blk.{layer}.ffn_norm.weight": (HIDDEN,),
            f"blk.{layer}.ffn_gate.weight": (FEED_FORWARD, HIDDEN),
            f"blk.{layer}.ffn_up.weight": (FEED_FORWARD, HIDDEN),
            f"blk.{layer}.ffn_down.weight": (HIDDEN, FEED_FORWARD),
        }
    return shapes


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    source = write_narrow(folder / "narrow.gguf")
    for recipe in WHOLE_RECIPES:
        export_onnx(source, folder / f"narrow-{recipe}", recipe)
