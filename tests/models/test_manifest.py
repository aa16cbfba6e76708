"""Pair manifests: what is read, what is refused and with which words, and how files are found."""

import hashlib
from pathlib import Path

import pytest

from multispin_models import manifest
from multispin_models.cache import file_sha256
from multispin_models.default_pair import TARGET_MEMBER, TARGET_REQUIREMENT, TARGET_SHA256
from multispin_models.errors import ModelError
from multispin_models.gguf_tokenizer import load_gguf_tokenizer
from multispin_models.manifest import (
    AS_SHIPPED,
    DEFAULT_PAIR,
    RECIPES,
    expected_paths,
    expected_sha256,
    load_pair,
    packaged_pairs,
    resolve,
    resolve_source,
)
from multispin_models.vocabulary import explain_differences

OWN = """
name = "mine"
[target]
file = "target.gguf"
[draft]
file = "/models/draft.gguf"
recipe = "Q8_0"
"""


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MULTISPIN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_every_packaged_pair_loads_under_its_own_name_with_licence_and_sha256() -> None:
    assert DEFAULT_PAIR in packaged_pairs()
    for name in packaged_pairs():
        pair = load_pair(name)
        assert pair.name == name
        assert pair.description
        for model in (pair.target, pair.draft):
            assert model.sha256
            assert model.licence
            assert model.attribution


def test_the_default_pair_is_the_packaged_file_in_bf16_drafted_by_q8_0() -> None:
    pair = load_pair()
    assert pair.target.source == f"pypi:{TARGET_REQUIREMENT}:{TARGET_MEMBER}"
    assert pair.target.sha256 == TARGET_SHA256
    assert (pair.target.recipe, pair.draft.recipe) == ("BF16", "Q8_0")
    assert load_pair("smollm2-135m-as-shipped").target.recipe == AS_SHIPPED


def test_the_recipes_are_those_of_the_quantizer() -> None:
    quantize = pytest.importorskip("multispin_models.llamacpp.quantize")
    assert (AS_SHIPPED, *quantize.QUANTIZE_RECIPES) == RECIPES


def test_a_path_in_a_manifest_is_taken_from_the_manifests_own_folder(tmp_path: Path) -> None:
    pair = load_pair(written(tmp_path, OWN))
    assert pair.target.file == str(tmp_path / "target.gguf")
    assert pair.draft.file == "/models/draft.gguf"


def test_an_unknown_name_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(ModelError, match=r"no pair is named 'gpt': the packaged ones are .*smollm2-135m"):
        load_pair("gpt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("[draft]", "[drafts]"), r"unknown field `drafts`.*allowed keys are name, description"),
        (("recipe =", "recpie ="), r"unknown field `recpie`.*`\$\.draft`.*in those two: file, source, sha256, recipe"),
        (('"Q8_0"', '"Q9"'), r"\[draft\]: recipe is 'Q9', allowed are as-shipped, F32, BF16"),
        (('"Q8_0"', "8"), r"Expected `str`, got `int`.*recipe"),
        (('"Q8_0"', '"Q8_0"\nsha256 = "ABC"'), r"\[draft\]: sha256 is 'ABC', it must be 64 lower-case"),
        (('"Q8_0"', '"Q8_0"\nsource = "pypi:a==1:b"'), r"\[draft\]: give either 'file' .* or 'source'"),
        (('file = "target.gguf"', ""), r"\[target\]: give either 'file'"),
        (('file = "target.gguf"', 'source = "http://a/b"'), r"\[target\]: source is 'http://a/b', allowed are pypi:"),
        (('file = "target.gguf"', 'source = "pypi:a>=1:b"'), r"source is 'pypi:a>=1:b'"),
        (('file = "target.gguf"', 'source = "hub:a/b/c.gguf"'), r"source is 'hub:a/b/c.gguf', .*@REVISION"),
        (('file = "target.gguf"', 'source = "hub:a/b/c.gguf@main"'), r"a fetched file needs its 'sha256'"),
        (('name = "mine"', ""), r"missing required field `name`"),
        (('name = "mine"', "name = "), r"mine\.toml: .*"),
    ],
)
def test_a_faulty_manifest_is_refused_with_file_key_and_what_is_allowed(
    tmp_path: Path, change: tuple[str, str], message: str
) -> None:
    path = written(tmp_path, OWN.replace(*change))
    with pytest.raises(ModelError, match=message) as caught:
        load_pair(path)
    assert str(path) in str(caught.value)


def test_a_manifest_that_is_not_there_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"nowhere\.toml cannot be read: No such file"):
        load_pair(tmp_path / "nowhere.toml")


def test_own_files_are_served_where_they_lie(tmp_path: Path) -> None:
    (tmp_path / "target.gguf").write_bytes(b"target")
    (tmp_path / "draft.gguf").write_bytes(b"draft")
    text = OWN.replace("/models/draft.gguf", "draft.gguf").replace('recipe = "Q8_0"', "")
    resolved = resolve(load_pair(written(tmp_path, text)))
    assert resolved.target_path == tmp_path / "target.gguf"
    assert resolved.target.source_sha256 == hashlib.sha256(b"target").hexdigest()
    assert resolved.draft.path == resolved.draft.source_path == tmp_path / "draft.gguf"


def test_an_own_file_with_another_sha256_than_stated_is_refused(tmp_path: Path) -> None:
    (tmp_path / "target.gguf").write_bytes(b"target")
    wanted = hashlib.sha256(b"another").hexdigest()
    text = OWN.replace('"target.gguf"', f'"target.gguf"\nsha256 = "{wanted}"')
    with pytest.raises(ModelError, match=f"the manifest says {wanted}"):
        resolve(load_pair(written(tmp_path, text)))


def test_a_missing_own_file_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"target\.gguf cannot be read: No such file"):
        resolve(load_pair(written(tmp_path, OWN)))


def test_both_kinds_of_source_reach_their_fetcher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[object, ...]] = []
    monkeypatch.setattr(manifest, "fetch_from_package", lambda *a: calls.append(a[:3]) or tmp_path / "a.gguf")
    monkeypatch.setattr(manifest, "fetch_from_hub", lambda *a: calls.append(a[:4]) or tmp_path / "b.gguf")
    sha256 = "0" * 64
    resolve(
        load_pair(
            written(
                tmp_path,
                f'name = "n"\n[target]\nsource = "pypi:some-pkg==1.2.3:pkg/dir/m.gguf"\nsha256 = "{sha256}"\n'
                f'[draft]\nsource = "hub:owner/repo/dir/m.gguf@v1/x"\nsha256 = "{sha256}"\n',
            )
        )
    )
    assert calls == [
        ("some-pkg==1.2.3", "pkg/dir/m.gguf", sha256),
        ("owner/repo", "dir/m.gguf", "v1/x", sha256),
    ]


def test_expected_paths_bring_nothing(cache: Path) -> None:
    source, served = expected_paths(load_pair().target)
    assert source == cache / "models" / TARGET_SHA256[:16] / "SmolLM2-135M-Instruct.Q4_1.gguf"
    assert served == cache / "derived" / f"{TARGET_SHA256[:16]}-BF16" / "SmolLM2-135M-Instruct.Q4_1-as-BF16.gguf"
    assert not source.exists()


def test_a_re_encoded_file_is_made_once_and_its_sha256_recorded(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    quantize = pytest.importorskip("multispin_models.llamacpp.quantize")
    made: list[str] = []

    def quantize_gguf(source: Path, destination: Path, recipe: str, num_threads: int) -> None:
        made.append(recipe)
        destination.write_bytes(source.read_bytes() + recipe.encode())

    monkeypatch.setattr(quantize, "quantize_gguf", quantize_gguf)
    (tmp_path / "target.gguf").write_bytes(b"target")
    text = OWN.replace("/models/draft.gguf", "target.gguf")
    pair = load_pair(written(tmp_path, text))
    draft = resolve(pair).draft
    assert draft.path.read_bytes() == b"targetQ8_0"
    assert draft.path == expected_paths(pair.draft)[1]
    assert draft.path.is_relative_to(cache / "derived")
    record = draft.path.with_name(draft.path.name + ".sha256")
    assert record.read_text(encoding="ascii").strip() == hashlib.sha256(b"targetQ8_0").hexdigest()
    resolve(pair)
    assert made == ["Q8_0"]
    record.unlink()  # as after a kill between the two
    resolve(pair)
    assert made == ["Q8_0", "Q8_0"]


def write_distilled(folder: Path) -> tuple[Path, str, str]:
    """Write a target, the layers of a draft of it, and their pair; return the manifest and both hashes."""
    pytest.importorskip("gguf")
    from tests.onnx_tiny import write_tiny  # noqa: PLC0415

    from multispin_models.distillation.draft_file import write_layers_file  # noqa: PLC0415
    from multispin_models.distillation.network import student_of  # noqa: PLC0415
    from multispin_models.onnx.weights import read_network  # noqa: PLC0415

    target, layers = write_tiny(folder / "target.gguf", "llama", tied=True), folder / "tiny-1.layers.gguf"
    student = student_of(read_network(target), (1,), 16)
    sha256 = file_sha256(target)
    write_layers_file(
        layers, student.architecture, student.weights, target_sha256=sha256, layers=(1,), frequent_ids=[1, 2, 9],
        recipe="{}", name="tiny, 1 layer", tensor_type="F32",
    )  # fmt: skip
    text = f"""
name = "mine"
[target]
file = "target.gguf"
[draft]
file = "target.gguf"
layers = "tiny-1.layers.gguf"
layers_sha256 = "{file_sha256(layers)}"
"""
    return written(folder, text), sha256, file_sha256(layers)


def test_a_distilled_draft_is_put_together_once_from_its_target_and_its_layers(tmp_path: Path) -> None:
    path, _, _ = write_distilled(tmp_path)
    draft = load_pair(path).draft
    assert expected_sha256(draft) is None  # not made yet
    made, sha256 = resolve_source(draft)
    assert made.name == "tiny-1.gguf"
    assert (sha256, sha256) == (file_sha256(made), expected_sha256(draft))
    assert expected_paths(draft) == (made, made)
    before = made.stat().st_mtime_ns
    assert resolve_source(draft) == (made, sha256)
    assert made.stat().st_mtime_ns == before
    assert load_gguf_tokenizer(made).vocabulary_hash == load_gguf_tokenizer(tmp_path / "target.gguf").vocabulary_hash


def test_damaged_layers_and_layers_without_a_hash_are_refused(tmp_path: Path) -> None:
    path, _, _ = write_distilled(tmp_path)
    layers = tmp_path / "tiny-1.layers.gguf"
    layers.write_bytes(layers.read_bytes()[:-1] + b"x")
    with pytest.raises(ModelError, match=r"tiny-1\.layers\.gguf has sha256 .* the manifest says"):
        resolve_source(load_pair(path).draft)
    layers.unlink()
    with pytest.raises(ModelError, match=r"tiny-1\.layers\.gguf cannot be read"):
        resolve_source(load_pair(path).draft)
    path.write_text(path.read_text().replace("layers_sha256", "#"), encoding="utf-8")
    with pytest.raises(ModelError, match="'layers' needs 'layers_sha256'"):
        load_pair(path)


def test_vocabularies_that_differ_are_explained_id_by_id() -> None:
    tokens = [b"a", b"b", b"c", b"\xff"]
    assert explain_differences(tokens, tokens) == []
    assert explain_differences(tokens, [b"a", b"x", b"c", b"\xff", b"b"]) == [
        "id 1: target 'b' (the draft's id 4), draft 'x'",
        "id 4: target has none, draft 'b' (the target's id 1)",
    ]
    many = explain_differences([b"%d" % i for i in range(20)], [b"-%d" % i for i in range(20)])
    assert many[-1] == "and 12 ids more"
    assert len(many) == 9


def test_check_says_which_ids_differ(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("gguf")
    import tests.onnx_tiny as tiny  # noqa: PLC0415

    from multispin.cli import main  # noqa: PLC0415

    tiny.write_tiny(tmp_path / "target.gguf", "llama")
    other = (tmp_path / "target.gguf").read_bytes().replace(b"cat", b"dog")
    (tmp_path / "draft.gguf").write_bytes(other)
    path = written(tmp_path, OWN.replace("/models/draft.gguf", "draft.gguf").replace('recipe = "Q8_0"\n', ""))
    assert main(["models", "check", str(path), "--engine", "llamacpp"]) == 1
    assert "id 260: target 'cat', draft 'dog'" in capsys.readouterr().out
