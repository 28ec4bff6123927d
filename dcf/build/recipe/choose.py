"""Which recipe a function is built by: that of its runtime."""

from __future__ import annotations

from pathlib import Path

from dcf.build.project import FunctionConfig
from dcf.build.recipe.contract import Recipe, Sources
from dcf.build.recipe.go import GoRecipe
from dcf.build.recipe.node import NodeRecipe
from dcf.build.recipe.python import PythonRecipe

RECIPES: dict[str, type[PythonRecipe] | type[GoRecipe] | type[NodeRecipe]] = {
    "python": PythonRecipe,
    "go": GoRecipe,
    "node": NodeRecipe,
}
"""One for each line of templates/runtimes.yaml; a test looks."""


def choose_recipe(config: FunctionConfig, bundles: Path, sources: Sources) -> Recipe:
    """The recipe of the function's runtime. Raises BuildError where its toolchain is not on this machine."""
    return RECIPES[config.runtime](config, bundles, sources)
