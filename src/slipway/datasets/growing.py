"""An array that grows at its end, doubling: a number for each row takes its own bytes only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray


class Growing:
    """A numpy array of known type that items are added to.

    Args:
        np: the `numpy` module.
        dtype: of the items.
        width: columns; 0 for a plain array.
    """

    def __init__(self, np: Any, dtype: Any, width: int = 0) -> None:
        self._np = np
        self._width = width
        self._items = np.zeros((64, width) if width else 64, dtype)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def array(self) -> NDArray[Any]:
        """The items so far; valid until the next `extend`."""
        items: NDArray[Any] = self._items[: self._length]
        return items

    def extend(self, items: Any) -> None:
        """Add items at the end."""
        needed = self._length + len(items)
        if needed > len(self._items):
            shape = (max(needed, len(self._items) * 3 // 2), *self._items.shape[1:])
            grown = self._np.zeros(shape, self._items.dtype)
            grown[: self._length] = self.array
            self._items = grown
        self._items[self._length : needed] = items
        self._length = needed
