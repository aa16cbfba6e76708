"""In which numbers each matrix is served: the recipes of an export.

A recipe names a form for each kind of matrix:

    float32        as dequantized
    int8-block32   8-bit weights in blocks of 32, rows quantized to 8 bits in the same blocks (also 64, where
                   that divides the inputs)
    int4-block32   4-bit weights with an offset a block, rows in 8-bit blocks: what a 4-bit file holds, but for the
                   rounding of float32. Not exact, as a lone row takes a kernel of its own: for drafts
    int4-refined   the same, and the 16 largest results of a row once more in 8-bit blocks: for a head, of which a draft
                   asks little else
    w8a8           8-bit weights with one scale an output, rows with one scale each: exact integer products
    w8a8-mixed     the same behind a Hadamard transform of each row, in blocks: no input stands out (`rotation`)

Blocks read least memory and are best for one or two rows; w8a8 costs least for each further row. Blocks of 128 are not
offered: with them ONNX Runtime 1.32 computed 180 of 216 rows differently alone than in a batch (x86-64 with AVX-512
VNNI, 576 inputs, which 128 does not divide).
"""

from typing import Final, Literal

import msgspec

from multispin_models.errors import ConfigError

__all__ = ["Form", "RECIPES", "Recipe", "WHOLE_RECIPES", "find_recipe"]

Form = Literal["float32", "int8-block32", "int8-block64", "int4-block32", "int4-refined", "w8a8", "w8a8-mixed"]


class Recipe(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The form of each kind of matrix.

    Attributes:
        name: as asked for and shown.
        rotated: the network is turned first, so that a scale a row suffices (`rotation`).
        embedding: of the table that rows are taken from: "float32", or 8-bit blocks.
        trimmed: the head has only the ids that the file names as frequent (a draft's does; FR-Spec, Zhao et al.,
            arXiv 2502.14856); beside them a sequence may say what stands in it (`own_ids`).
    """

    name: str
    qkv: Form
    attention_output: Form
    gate_up: Form
    down: Form
    head: Form
    embedding: Literal["float32", "int8-block32", "int8-block64"]
    rotated: bool = False
    trimmed: bool = False


def _uniform(form: Form) -> Recipe:
    embedding = form if form in {"float32", "int8-block64"} else "int8-block32"
    return Recipe(form, form, form, form, form, form, embedding)


RECIPES: Final = {
    recipe.name: recipe
    for recipe in (
        _uniform("float32"),
        _uniform("int8-block32"),
        _uniform("int8-block64"),
        Recipe(
            "int4-block32",
            "int4-block32",
            "int4-block32",
            "int4-block32",
            "int4-block32",
            "int4-refined",
            "int8-block32",
        ),
        # for drafts with a list of frequent ids: the head is the largest matrix of a small draft
        msgspec.structs.replace(_uniform("int8-block32"), name="int8-block32-trimmed", trimmed=True),
        Recipe(
            "int4-block32-trimmed",
            "int4-block32",
            "int4-block32",
            "int4-block32",
            "int4-block32",
            "int8-block32",
            "int8-block32",
            trimmed=True,
        ),
        _uniform("w8a8"),
        msgspec.structs.replace(_uniform("w8a8"), name="w8a8-trimmed", trimmed=True),
        Recipe("w8a8-rotated", "w8a8", "w8a8", "w8a8", "w8a8-mixed", "w8a8", "int8-block64", rotated=True),
    )
}


# Those that any file can be exported in.
WHOLE_RECIPES: Final = tuple(sorted(name for name, recipe in RECIPES.items() if not recipe.trimmed))


def find_recipe(name: str) -> Recipe:
    """Return a recipe by its name.

    Raises:
        ConfigError: no such recipe; names those there are.
    """
    if name not in RECIPES:
        raise ConfigError(f"recipe is {name!r}, allowed are {', '.join(RECIPES)}")
    return RECIPES[name]
