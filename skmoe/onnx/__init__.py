"""Export of fitted mixtures to ONNX, through skl2onnx.

Importing this module registers the estimators with skl2onnx, so that mixtures convert
inside a Pipeline as well, by `to_onnx` or by ``skl2onnx.to_onnx``.
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
    row, each expert is asked about its own rows only, and answers are added up where
    the rows belong. Linear and logistic experts are computed for all rows in one
    product, which costs less than finding their rows.

    The graph is loaded by onnxruntime and compared with the model on the rows given,
    so that nothing is returned that does not load, or that answers otherwise.

    Parameters
    ----------
    model : MoEClassifier, MoERegressor, MoETransformer or Pipeline
        Fitted; they may be steps of the Pipeline. The gate must be a `SoftmaxGate`,
        `GaussianGate`, `HierarchicalGate`, `ProductGate`, `TreeGate`, `EstimatorGate`
        or `ConstantGate`, the experts learners that skl2onnx converts, or histogram
        gradient boosting.
    X : {array-like, data frame} of shape (n_samples, n_features)
        Some rows of the kind that will be predicted: their dtypes are those of the
        graph's inputs, and on them its answers are compared with the model's. One row
        is enough, a hundred make the comparison worth more. float64 gives a graph that
        computes in float64, float32 one in float32. Of a data frame every column is an
        input of its own.
    target_opset : int or None, default=None
        The version of ONNX to write, at least 18; None is the newest that skl2onnx
        knows.

    Returns
    -------
    onnx.ModelProto
        A regressor has the output "variable" (n_samples, n_outputs), a transformer
        "variable" (n_samples, n_columns), a classifier "label" (n_samples,) and
        "probabilities" (n_samples, n_classes).

    Raises
    ------
    TypeError
        The gate, an expert or the class labels cannot be written; or the graph does
        not load, or answers otherwise than the model on more than a tenth of the rows.
    ValueError
        ``capacity_factor`` is set, which makes answers depend on the batch; or an
        expert of histogram gradient boosting has categorical features.

    Warns
    -----
    UserWarning
        The graph answers otherwise on some of the rows, at most a tenth.

    Notes
    -----
    A `HierarchicalGate` finds the best of all experts here, where ``predict`` searches
    with a beam. Trees and probabilities of forests are float32 in any graph, and so are
    parts that onnxruntime has in float32 only, such as support vector machines.

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
