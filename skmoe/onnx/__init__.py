"""Export of fitted mixtures to ONNX, through skl2onnx.

Importing this module registers the estimators with skl2onnx, so that `to_onnx` and
``skl2onnx.to_onnx`` also convert a Pipeline with a mixture.
"""

try:
    import onnx  # noqa: F401 - absolute: the package of that name
    import onnxruntime  # noqa: F401
    import skl2onnx
except ImportError as error:
    raise ImportError(
        "skmoe.onnx needs the packages onnx, onnxruntime and skl2onnx: "
        "pip install 'skmoe[onnx]'."
    ) from error

import numpy as np
from sklearn.base import is_classifier
from sklearn.utils.validation import check_is_fitted

from ._check import check_answers
from ._converter import register

__all__ = ["to_onnx"]

register()


def to_onnx(model, X, *, target_opset=None):
    """Return a fitted mixture, or a Pipeline with one, as an ONNX model.

    The graph routes as ``predict`` does: the gate chooses the ``top_k`` experts of each
    row, each expert is asked about its own rows only, and the weighted predictions of a
    row are added up. Linear and logistic experts are computed for all rows in one
    product, which costs less than finding their rows.

    onnxruntime loads the graph and compares it with the model on X, so that no graph is
    returned that does not load or that predicts something else.

    Parameters
    ----------
    model : MoEClassifier, MoERegressor, MoETransformer or Pipeline
        A fitted mixture, or a Pipeline with one. The gate must be a `SoftmaxGate`,
        `GaussianGate`, `HierarchicalGate`, `ProductGate`, `TreeGate`, `EstimatorGate`
        or `ConstantGate`. The experts must be learners that skl2onnx converts, or
        histogram gradient boosting.
    X : {array-like, data frame} of shape (n_samples, n_features)
        Some rows of the kind that will be predicted. The inputs of the graph have their
        dtypes, and the comparison is on them. One row is enough; a hundred make the
        comparison worth more. float64 gives a graph that computes in float64, float32
        one in float32. Each column of a data frame becomes an input.
    target_opset : int or None, default=None
        Version of ONNX to write, at least 18. None is the newest that skl2onnx knows.

    Returns
    -------
    onnx.ModelProto
        The graph. Its output is "variable" (n_samples, n_outputs) for a regressor,
        "variable" (n_samples, n_columns) for a transformer, and "label" (n_samples,)
        and "probabilities" (n_samples, n_classes) for a classifier.

    Raises
    ------
    TypeError
        The gate, an expert or the class labels cannot be written; or the graph does
        not load, or it differs from the model on more than a tenth of the rows.
    ValueError
        ``capacity_factor`` is set, which makes predictions depend on the batch; or an
        expert of histogram gradient boosting has categorical features.

    Warns
    -----
    UserWarning
        The graph differs from the model on some rows, at most a tenth.

    Notes
    -----
    For a `HierarchicalGate` the graph compares all experts, whereas ``predict``
    searches with a beam. Trees and probabilities of forests are float32 in any graph,
    and so are parts that onnxruntime has in float32 only, such as support vector
    machines.

    Examples
    --------
    >>> import numpy as np
    >>> import onnxruntime
    >>> from skmoe import MoERegressor
    >>> from skmoe.onnx import to_onnx
    >>> X = np.linspace(-3, 3, 200, dtype=np.float32).reshape(-1, 1)
    >>> model = MoERegressor(n_experts=2, random_state=0).fit(X, np.abs(X[:, 0]))
    >>> session = onnxruntime.InferenceSession(to_onnx(model, X).SerializeToString())
    >>> (found,) = session.run(None, {"X": np.array([[-2.0], [2.0]], np.float32)})
    >>> found.round(1)
    array([[2.],
           [2.]], dtype=float32)
    """
    check_is_fitted(model)
    X = X if hasattr(X, "shape") else np.asarray(X)
    options = {id(model): {"zipmap": False}} if is_classifier(model) else None
    graph = skl2onnx.to_onnx(model, X[:1], target_opset=target_opset, options=options)
    check_answers(graph, model, X)
    return graph
