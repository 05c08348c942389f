"""A table of sentences: aligned to the left, as text and in a notebook."""

import pandas as pd

_RIGHT, _LEFT = "text-align: right", "text-align: left"
_CELLS = """
    .dataframe tbody td {
        text-align: left;
    }
</style>"""


class Left(pd.DataFrame):
    """A table whose cells begin below each other; copies of it are such tables, too."""

    @property
    def _constructor(self) -> type["Left"]:
        return Left

    def __repr__(self) -> str:
        """Text, padded on the right."""
        if self.empty:
            return super().__repr__()
        wide = {name: self[name].astype(str).str.len().max() for name in self.columns}
        pad = {name: f"{{:<{width}}}".format for name, width in wide.items()}
        text = self.to_string(formatters=pad, justify="left")
        return "\n".join(line.rstrip() for line in text.splitlines())

    def _repr_html_(self) -> str | None:
        """What pandas shows in a notebook, to the left."""
        html = super()._repr_html_()
        return html and html.replace(_RIGHT, _LEFT).replace("\n</style>", _CELLS, 1)
