from typing import Any, final

import numpy as np
import numpy.typing as npt

AT_ONCE: int
COUNTED: tuple[str, ...]
COUNTED_BY_LABEL_SET: tuple[str, ...]

def joined_columns(columns: list[npt.NDArray[Any]], dtype: np.dtype[Any]) -> npt.NDArray[Any]: ...

@final
class Columns:
    def __init__(self) -> None: ...
    def see_to_history(self, depth: int) -> None: ...
    def empty(self) -> None: ...
    def add_to(
        self, seen: Any, attributed: bool, records: bool, counted: bool
    ) -> dict[str, npt.NDArray[Any]]: ...
