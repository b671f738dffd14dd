"""The ceiling: trees trained on the true errors of the very run they judge. Cheating by design.

It says how much of the errors can be seen at all in the features and the label of a row, and so how
far a method that never sees a true error could still go.
"""

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.model_selection import cross_val_predict

from demix_lite.detector.runs import Run
from demix_lite.diagnosis import Diagnosis, best_threshold
from demix_lite.seeds import derive_seed

ROWS = 2000


def ceiling(
    run: Run, errors: np.ndarray, *, rows: int | None = ROWS
) -> tuple[Diagnosis, np.ndarray]:
    """Judge rows with cross-fitted trees that know their true errors.

    Parameters
    ----------
    run : Run
        The run.
    errors : array
        Its true errors, shape ``(N, 3)``.
    rows : int, optional
        Size of the sample judged by a random forest. None takes all rows and boosted trees, which
        learn more from more rows: a higher ceiling.

    Returns
    -------
    Diagnosis, array
        The verdicts and the positions of the judged rows.
    """
    seed = derive_seed("ceiling", len(run)) % 2**32
    sample = np.random.default_rng(seed).permutation(len(run))[:rows]
    features, truth = run.features[sample], errors[sample]
    model: BaseEstimator = (
        HistGradientBoostingClassifier(early_stopping=False, random_state=seed)
        if rows is None
        else RandomForestClassifier(200, min_samples_leaf=3, n_jobs=-1, random_state=seed)
    )
    folds = 3 if rows is None else 5
    columns = [
        cross_val_predict(model, features, known, cv=folds, method="predict_proba")[:, -1]
        for known in truth.T
    ]
    probability = np.column_stack(columns)
    thresholds = np.array([best_threshold(*pair) for pair in zip(truth.T, columns, strict=True)])
    said = Diagnosis.from_probability(probability, thresholds, index=run.index[sample])
    return said, sample
