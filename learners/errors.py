"""What a learner can say about its own failures."""


class LearnerError(Exception):
    """Something that the user can mend. `error` says what was wrong and where; `advice` says what to do."""

    def __init__(self, error: str, advice: str) -> None:
        super().__init__(f"{error}; {advice}")
        self.error = error
        self.advice = advice
