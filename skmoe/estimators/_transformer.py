"""The gate's probabilities as features for other learners."""

import numpy as np
from sklearn import get_config
from sklearn.base import BaseEstimator, MetaEstimatorMixin, TransformerMixin, clone
from sklearn.utils import get_tags
from sklearn.utils.metadata_routing import (
    MetadataRouter,
    MethodMapping,
    process_routing,
)
from sklearn.utils.validation import check_is_fitted

from ._all_or_nothing import all_or_nothing


class MoETransformer(TransformerMixin, MetaEstimatorMixin, BaseEstimator):
    """Gate probabilities of a mixture of experts, as features.

    The gate learns from y too, so its probabilities say in few columns which regime a
    row belongs to. They suit a simple learner, a plot or a search for similar rows.

    Parameters
    ----------
    estimator : MoERegressor, MoEClassifier or FrozenEstimator
        The mixture. It is cloned and fitted. Wrap a fitted mixture in
        :class:`sklearn.frozen.FrozenEstimator` to use it as it is.

    Attributes
    ----------
    estimator_ : estimator
        The fitted mixture.
    n_features_in_ : int
        Number of features.
    feature_names_in_ : ndarray of shape (`n_features_in_`,)
        Names of the features, where X has them.

    See Also
    --------
    sklearn.ensemble.RandomTreesEmbedding : Leaves of a forest as features.

    Notes
    -----
    Gates that memorise their rows (trees, forests, neighbours) are surer of the rows
    that they were fitted on than of new rows. So fit the next learner on other rows, or
    take a softmax gate.

    Examples
    --------
    >>> import numpy as np
    >>> from skmoe import MoERegressor, MoETransformer
    >>> X = np.linspace(-3, 3, 200).reshape(-1, 1)
    >>> y = np.abs(X[:, 0])
    >>> regimes = MoETransformer(MoERegressor(n_experts=2, random_state=0))
    >>> Z = regimes.fit_transform(X, y)
    >>> Z.shape
    (200, 2)
    >>> regimes.get_feature_names_out()
    array(['expert0', 'expert1'], dtype=object)
    >>> sides = Z.argmax(axis=1)
    >>> bool(sides[0] == sides[90] != sides[110] == sides[-1])
    True
    """

    def __init__(self, estimator):
        self.estimator = estimator

    @all_or_nothing
    def fit(self, X, y=None, **fit_params):
        """Fit the mixture.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Training rows.
        y : array-like of shape (n_samples,) or (n_samples, n_outputs)
            Targets. A frozen mixture needs none.
        **fit_params : dict
            Passed to the mixture's ``fit``: ``sample_weight``, ``groups``.

        Returns
        -------
        self : object
            The fitted transformer.
        """
        if not hasattr(self.estimator, "gate_proba"):
            raise TypeError(
                "estimator must be a MoERegressor or MoEClassifier, or one that is "
                f"fitted in a FrozenEstimator; got {self.estimator!r}."
            )
        if get_config()["enable_metadata_routing"]:
            fit_params = process_routing(self, "fit", **fit_params).estimator.fit
        self.estimator_ = clone(self.estimator).fit(X, y, **fit_params)
        self.n_features_in_ = self.estimator_.n_features_in_
        if hasattr(self.estimator_, "feature_names_in_"):
            self.feature_names_in_ = self.estimator_.feature_names_in_
        return self

    def transform(self, X):
        """Return the gate's probability of each expert.

        Parameters
        ----------
        X : {array-like, sparse matrix, data frame} of shape (n_samples, n_features)
            Rows.

        Returns
        -------
        ndarray of shape (n_samples, n_experts)
            p(k | x); rows sum to one. With ``gate_per_output=True``, shape (n_samples,
            n_outputs * n_experts), output by output.
        """
        check_is_fitted(self)
        proba = self.estimator_.gate_proba(X)
        return np.hstack(proba) if isinstance(proba, list) else proba

    def get_feature_names_out(self, input_features=None):
        """Return the names of the columns.

        Parameters
        ----------
        input_features : array-like of str or None, default=None
            Not used.

        Returns
        -------
        ndarray of str
            "expert0" and so on; with ``gate_per_output=True``, "output0_expert0" and
            so on.
        """
        check_is_fitted(self)
        experts = [f"expert{k}" for k in range(self.estimator_.n_experts_)]
        n_outputs = len(getattr(self.estimator_, "gates_", []))
        names = [f"output{j}_{name}" for j in range(n_outputs) for name in experts]
        return np.asarray(names or experts, dtype=object)

    def get_metadata_routing(self):
        """Return what metadata goes where.

        Returns
        -------
        MetadataRouter
            All metadata of `fit` goes to the mixture's ``fit``.
        """
        mapping = MethodMapping().add(caller="fit", callee="fit")
        return MetadataRouter(owner=self).add(
            estimator=self.estimator, method_mapping=mapping
        )

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        inner = get_tags(self.estimator)
        tags.input_tags = inner.input_tags
        tags.target_tags = inner.target_tags
        return tags
