"""Tiny random-weight models of the Llama family, as GGUF files."""

from pathlib import Path

import gguf
import numpy as np

HIDDEN, FEED_FORWARD, HEADS, KEY_HEADS, LAYERS, CONTEXT = 64, 96, 4, 2, 2, 256
VOCABULARY = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256)), b"\xe2\x96\x81the", b"cat"]


def head_size(family: str) -> int:
    """Return the size of a head: that of qwen2 must divide the hidden size among the heads, others may be larger."""
    return HIDDEN // HEADS if family == "qwen2" else 32


def write_tiny(
    path: Path, family: str, *, tied: bool = False, key_heads: int = KEY_HEADS, zero_token: int = -1
) -> Path:
    """Write a model of a family; `tied` leaves out the head, `zero_token` gets an embedding of zeros."""
    head = head_size(family)
    writer = gguf.GGUFWriter(path, family)
    writer.add_name(f"tiny {family}")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(FEED_FORWARD)
    writer.add_block_count(LAYERS)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(key_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(10000.0)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(VOCABULARY)
    writer.add_token_scores([0.0] * len(VOCABULARY))
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_token_types(types + [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * 2)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    random = np.random.default_rng(11)
    for name, shape in _tensors(family, tied, key_heads).items():
        centre = 1.0 if "norm" in name else 0.0
        values = random.normal(centre, 0.2, shape).astype(np.float32)
        if name == "token_embd.weight" and zero_token >= 0:
            values[zero_token] = 0.0
        writer.add_tensor(name, np.abs(values) + np.float32(0.5) if name.startswith("rope") else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _tensors(family: str, tied: bool, key_heads: int) -> dict[str, tuple[int, ...]]:
    head = head_size(family)
    queries, keys, vocabulary = HEADS * head, key_heads * head, len(VOCABULARY)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, HIDDEN), "output_norm.weight": (HIDDEN,)}
    if not tied:
        shapes["output.weight"] = (vocabulary, HIDDEN)
    if family == "llama":
        shapes["rope_freqs.weight"] = (head // 2,)
    for layer in range(LAYERS):
        block: dict[str, tuple[int, ...]] = {
            "attn_norm.weight": (HIDDEN,),
            "attn_q.weight": (queries, HIDDEN),
            "attn_k.weight": (keys, HIDDEN),
            "attn_v.weight": (keys, HIDDEN),
            "attn_output.weight": (HIDDEN, queries),
            "ffn_norm.weight": (HIDDEN,),
            "ffn_gate.weight": (FEED_FORWARD, HIDDEN),
            "ffn_up.weight": (FEED_FORWARD, HIDDEN),
            "ffn_down.weight": (HIDDEN, FEED_FORWARD),
        }
        if family == "qwen2":
            block |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
        if family == "qwen3":
            block |= {"attn_q_norm.weight": (head,), "attn_k_norm.weight": (head,)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return shapes
