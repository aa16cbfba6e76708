"""The default target model, and tiny models with random weights of several families."""

import os
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest

from multispin_models.default_pair import default_target_path
from multispin_models.llamacpp import quantize_gguf

N_EMBD, N_FF, N_HEAD, N_HEAD_KV, N_LAYER, WINDOW = 32, 48, 4, 2, 2, 24
VOCABULARY = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256)), b"\xe2\x96\x81the", b"cat"]


@pytest.fixture(scope="session")
def target_gguf() -> Path:
    """The default target: named by MULTISPIN_TEST_TARGET, or the one in the per-user cache."""
    named = os.environ.get("MULTISPIN_TEST_TARGET")
    if named:
        return Path(named)
    return default_target_path()


@pytest.fixture(scope="session")
def quantized_target(target_gguf: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the default target in a recipe, made once a session; Q4_1 is the file as shipped."""
    folder = tmp_path_factory.mktemp("quantized")

    def make(recipe: str) -> Path:
        if recipe == "Q4_1":
            return target_gguf
        path = folder / f"{recipe}.gguf"
        if not path.exists():
            quantize_gguf(target_gguf, path, recipe, 1)
        return path

    return make


@pytest.fixture(scope="session")
def tiny_gguf(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a model file of a family ("llama", "mamba", "jamba", "gemma2", "gemma3", "bert"), random weights."""
    folder = tmp_path_factory.mktemp("tiny")

    def make(architecture: str) -> Path:
        path = folder / f"{architecture}.gguf"
        if not path.exists():
            _write_tiny(path, architecture)
        return path

    return make


def _write_tiny(path: Path, architecture: str) -> None:
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name(f"tiny {architecture}")
    writer.add_context_length(256)
    writer.add_embedding_length(N_EMBD)
    writer.add_feed_forward_length(N_FF)
    writer.add_block_count(N_LAYER)
    writer.add_head_count(N_HEAD)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    if architecture == "jamba":
        writer.add_head_count_kv([0, N_HEAD_KV])
    elif architecture != "mamba":
        writer.add_head_count_kv(N_HEAD if architecture == "bert" else N_HEAD_KV)
    if architecture in {"mamba", "jamba"}:
        writer.add_ssm_conv_kernel(4)
        writer.add_ssm_inner_size(2 * N_EMBD)
        writer.add_ssm_state_size(8)
        writer.add_ssm_time_step_rank(4)
    if architecture.startswith("gemma"):
        writer.add_sliding_window(WINDOW)
        writer.add_key_length(8)
        writer.add_value_length(8)
    if architecture == "bert":
        writer.add_layer_norm_eps(1e-5)
        writer.add_causal_attention(False)
        writer.add_token_type_count(2)
    _add_vocabulary(writer, architecture)
    random = np.random.default_rng(7)
    for name, shape in _tensors(architecture).items():
        centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
        values = random.normal(centre, 0.25, shape)
        writer.add_tensor(name, (-np.abs(values) if "ssm_a" in name else values).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_vocabulary(writer: gguf.GGUFWriter, architecture: str) -> None:
    types = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    types += [gguf.TokenType.BYTE] * 256 + [gguf.TokenType.NORMAL] * 2
    writer.add_tokenizer_model("llama")
    writer.add_token_list(VOCABULARY)
    writer.add_token_scores([0.0] * len(VOCABULARY))
    writer.add_token_types(types)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(True)
    if architecture == "llama":
        writer.add_chat_template(
            "{{ bos_token }}{% for m in messages %}{% if m.role not in ['user', 'assistant'] %}"
            "{{ raise_exception('no role ' + m.role) }}{% endif %}{{ m.content }}{{ eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}>{% endif %}"
        )


def _tensors(architecture: str) -> dict[str, tuple[int, ...]]:
    """Name and shape (numpy's order: outputs, inputs) of every tensor of a family."""
    vocabulary, inner, state, rank = len(VOCABULARY), 2 * N_EMBD, 8, 4
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (vocabulary, N_EMBD)}
    if architecture == "bert":
        shapes |= {"token_embd_norm.weight": (N_EMBD,), "token_embd_norm.bias": (N_EMBD,)}
        shapes |= {"position_embd.weight": (256, N_EMBD), "token_types.weight": (2, N_EMBD)}
    else:
        shapes["output_norm.weight"] = (N_EMBD,)
    for layer in range(N_LAYER):
        ssm = architecture == "mamba" or (architecture == "jamba" and layer == 0)
        block: dict[str, tuple[int, ...]] = {} if architecture == "bert" else {"attn_norm.weight": (N_EMBD,)}
        if ssm:
            block |= {
                "ssm_in.weight": (2 * inner, N_EMBD),
                "ssm_conv1d.weight": (inner, 4),
                "ssm_conv1d.bias": (inner,),
                "ssm_x.weight": (rank + 2 * state, inner),
                "ssm_dt.weight": (inner, rank),
                "ssm_dt.bias": (inner,),
                "ssm_a": (inner, state),
                "ssm_d": (inner,),
                "ssm_out.weight": (N_EMBD, inner),
            }
            if architecture == "jamba":
                block |= {"ssm_dt_norm.weight": (rank,), "ssm_b_norm.weight": (state,), "ssm_c_norm.weight": (state,)}
        else:
            kv = N_EMBD // N_HEAD * N_HEAD_KV
            if architecture == "bert":
                kv = N_EMBD
                block |= {f"attn_{x}.bias": (N_EMBD,) for x in ("q", "k", "v", "output")}
            block |= {"attn_q.weight": (N_EMBD, N_EMBD), "attn_k.weight": (kv, N_EMBD)}
            block |= {"attn_v.weight": (kv, N_EMBD), "attn_output.weight": (N_EMBD, N_EMBD)}
        if architecture == "gemma3":
            block |= {"attn_q_norm.weight": (8,), "attn_k_norm.weight": (8,)}
        if architecture.startswith("gemma"):
            block |= {"post_attention_norm.weight": (N_EMBD,), "post_ffw_norm.weight": (N_EMBD,)}
        if architecture == "bert":
            block |= {
                f"{x}.{y}": (N_EMBD,) for x in ("attn_output_norm", "layer_output_norm") for y in ("weight", "bias")
            }
            block |= {"ffn_up.weight": (N_FF, N_EMBD), "ffn_down.weight": (N_EMBD, N_FF)}
            block |= {"ffn_up.bias": (N_FF,), "ffn_down.bias": (N_EMBD,)}
        elif architecture != "mamba":
            block |= {"ffn_norm.weight": (N_EMBD,), "ffn_gate.weight": (N_FF, N_EMBD)}
            block |= {"ffn_up.weight": (N_FF, N_EMBD), "ffn_down.weight": (N_EMBD, N_FF)}
        shapes |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return shapes
