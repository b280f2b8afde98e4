"""Documents that an act may read, as decisions know them: how many carry which labels."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Candidates:
    """How many documents carry exactly these labels, for each set of labels that any of them carries."""

    by_labels: Mapping[frozenset[str], int] = field(default_factory=dict)

    @property
    def labels(self) -> frozenset[str]:
        """Every label that one of them carries."""
        return frozenset(label for labels in self.by_labels for label in labels)

    @property
    def documents(self) -> int:
        """How many they are."""
        return sum(self.by_labels.values())

    def without(self, labels: Collection[str]) -> "Candidates":
        """Return those that carry none of these labels."""
        left_out = frozenset(labels)
        return Candidates(
            {held: count for held, count in self.by_labels.items() if held.isdisjoint(left_out)}
        )
