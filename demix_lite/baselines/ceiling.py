"""The ceiling: a forest trained on the true errors of the very run it judges. Cheating by design.

It says how much of the errors can be seen at all in the features and the label of a row, and so how
far a method that never sees a true error could still go.
"""

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_predict

from demix_lite.detector.runs import Run
from demix_lite.diagnosis import Diagnosis, best_threshold
from demix_lite.seeds import derive_seed

ROWS = 2000


def ceiling(run: Run, errors: np.ndarray, *, rows: int = ROWS) -> tuple[Diagnosis, np.ndarray]:
    """Judge a sample of rows with a cross-fitted forest that knows their true errors.

    Parameters
    ----------
    run : Run
        The run.
    errors : array
        Its true errors, shape ``(N, 3)``.
    rows : int
        Size of the sample.

    Returns
    -------
    Diagnosis, array
        The verdicts and the positions of the judged rows.
    """
    seed = derive_seed("ceiling", len(run)) % 2**32
    sample = np.random.default_rng(seed).permutation(len(run))[:rows]
    features, truth = run.features[sample], errors[sample]
    columns = []
    for kind in range(truth.shape[1]):
        forest = RandomForestClassifier(200, min_samples_leaf=3, n_jobs=-1, random_state=seed)
        known = cross_val_predict(forest, features, truth[:, kind], cv=5, method="predict_proba")
        columns.append(known[:, -1])
    probability = np.column_stack(columns)
    thresholds = np.array(
        [best_threshold(truth[:, k], probability[:, k]) for k in range(truth.shape[1])]
    )
    said = Diagnosis.from_probability(probability, thresholds, index=run.index[sample])
    return said, sample
