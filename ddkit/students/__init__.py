"""Students: training on a distilled set, and inference."""
