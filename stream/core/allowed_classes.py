"""The classes of River that a model snapshot may name, by module.

Made by `python -m stream.core.allowed_classes_gen` from River 0.26.1; a test compares.
"""

from __future__ import annotations

__all__ = ["RIVER_CLASSES"]

# fmt: off
RIVER_CLASSES: dict[str, frozenset[str]] = {
    "river._river_rust.drift": frozenset((
        "AdaptiveWindowing",
    )),
    "river._river_rust.stats": frozenset((
        "RsEWMean",
        "RsEWVar",
        "RsIQR",
        "RsKurtosis",
        "RsPeakToPeak",
        "RsQuantile",
        "RsRollingIQR",
        "RsRollingPRAUC",
        "RsRollingQuantile",
        "RsRollingROCAUC",
        "RsSkew",
    )),
    "river._river_rust.vectordict": frozenset((
        "VectorDict",
    )),
    "river.anomaly.filter": frozenset((
        "QuantileFilter",
        "ThresholdFilter",
    )),
    "river.anomaly.gaussian": frozenset((
        "GaussianScorer",
    )),
    "river.anomaly.hst": frozenset((
        "HalfSpaceTrees",
    )),
    "river.anomaly.loda": frozenset((
        "LODA",
    )),
    "river.anomaly.lof": frozenset((
        "LocalOutlierFactor",
    )),
    "river.anomaly.pad": frozenset((
        "PredictiveAnomalyDetection",
    )),
    "river.anomaly.sad": frozenset((
        "StandardAbsoluteDeviation",
    )),
    "river.anomaly.svm": frozenset((
        "OneClassSVM",
    )),
    "river.bandit.base": frozenset((
        "ContextualPolicy",
        "Policy",
    )),
    "river.bandit.bayes_ucb": frozenset((
        "BayesUCB",
    )),
    "river.bandit.datasets.base": frozenset((
        "BanditDataset",
    )),
    "river.bandit.datasets.news": frozenset((
        "NewsArticles",
    )),
    "river.bandit.epsilon_greedy": frozenset((
        "EpsilonGreedy",
    )),
    "river.bandit.exp3": frozenset((
        "Exp3",
    )),
    "river.bandit.lin_ucb": frozenset((
        "LinUCBDisjoint",
    )),
    "river.bandit.random": frozenset((
        "RandomPolicy",
    )),
    "river.bandit.thompson": frozenset((
        "ThompsonSampling",
    )),
    "river.bandit.ucb": frozenset((
        "UCB",
    )),
    "river.base.anomaly_detector": frozenset((
        "AnomalyDetector",
        "AnomalyFilter",
        "SupervisedAnomalyDetector",
    )),
    "river.base.base": frozenset((
        "Base",
    )),
    "river.base.classifier": frozenset((
        "Classifier",
        "MiniBatchClassifier",
    )),
    "river.base.clusterer": frozenset((
        "Clusterer",
    )),
    "river.base.drift_detector": frozenset((
        "BinaryDriftAndWarningDetector",
        "BinaryDriftDetector",
        "DriftAndWarningDetector",
        "DriftDetector",
        "_BaseDriftAndWarningDetector",
        "_BaseDriftDetector",
    )),
    "river.base.ensemble": frozenset((
        "Ensemble",
        "WrapperEnsemble",
    )),
    "river.base.estimator": frozenset((
        "Estimator",
        "EstimatorMeta",
    )),
    "river.base.multi_output": frozenset((
        "MultiLabelClassifier",
        "MultiTargetRegressor",
    )),
    "river.base.regressor": frozenset((
        "MiniBatchRegressor",
        "Regressor",
    )),
    "river.base.transformer": frozenset((
        "BaseTransformer",
        "MiniBatchSupervisedTransformer",
        "MiniBatchTransformer",
        "SupervisedTransformer",
        "Transformer",
    )),
    "river.base.typing": frozenset((
        "Learner",
        "Predictor",
        "SupportsComparisonGreater",
        "SupportsComparisonLesser",
    )),
    "river.base.wrapper": frozenset((
        "Wrapper",
    )),
    "river.cluster.clustream": frozenset((
        "CluStream",
        "CluStreamMicroCluster",
    )),
    "river.cluster.dbstream": frozenset((
        "DBSTREAM",
        "DBSTREAMMicroCluster",
    )),
    "river.cluster.denstream": frozenset((
        "DenStream",
        "DenStream.BufferItem",
        "DenStreamMicroCluster",
    )),
    "river.cluster.k_means": frozenset((
        "KMeans",
    )),
    "river.cluster.odac": frozenset((
        "ODAC",
        "ODACChildren",
        "ODACCluster",
    )),
    "river.cluster.streamkmeans": frozenset((
        "STREAMKMeans",
    )),
    "river.cluster.textclust": frozenset((
        "TextClust",
        "TextClust.Distances",
        "TextClust.MicroCluster",
        "TextClust.TfContainer",
    )),
    "river.compose.func": frozenset((
        "FuncTransformer",
    )),
    "river.compose.grouper": frozenset((
        "Grouper",
    )),
    "river.compose.pipeline": frozenset((
        "Pipeline",
    )),
    "river.compose.product": frozenset((
        "TransformerProduct",
    )),
    "river.compose.renamer": frozenset((
        "Prefixer",
        "Renamer",
        "Suffixer",
    )),
    "river.compose.select": frozenset((
        "Discard",
        "Select",
        "SelectType",
    )),
    "river.compose.target_transform": frozenset((
        "TargetTransformRegressor",
    )),
    "river.compose.union": frozenset((
        "TransformerUnion",
    )),
    "river.covariance.emp": frozenset((
        "EmpiricalCovariance",
        "EmpiricalPrecision",
        "SymmetricMatrix",
    )),
    "river.covariance.ewa": frozenset((
        "EwaCovariance",
        "EwaPrecision",
        "LedoitWolfCovariance",
        "OASCovariance",
        "ShrunkCovariance",
        "_EWCovariance",
        "_EWMatrix",
    )),
    "river.drift.adwin": frozenset((
        "ADWIN",
    )),
    "river.drift.binary.ddm": frozenset((
        "DDM",
    )),
    "river.drift.binary.eddm": frozenset((
        "EDDM",
    )),
    "river.drift.binary.fhddm": frozenset((
        "FHDDM",
    )),
    "river.drift.binary.hddm_a": frozenset((
        "HDDMA",
    )),
    "river.drift.binary.hddm_w": frozenset((
        "HDDMW",
        "SampleInfo",
    )),
    "river.drift.datasets.airline_passengers": frozenset((
        "AirlinePassengers",
    )),
    "river.drift.datasets.apple": frozenset((
        "Apple",
    )),
    "river.drift.datasets.base": frozenset((
        "ChangePointFileDataset",
    )),
    "river.drift.datasets.bitcoin": frozenset((
        "Bitcoin",
    )),
    "river.drift.datasets.brent_crude_oil": frozenset((
        "BrentSpotPrice",
    )),
    "river.drift.datasets.occupancy": frozenset((
        "Occupancy",
    )),
    "river.drift.datasets.run_log": frozenset((
        "RunLog",
    )),
    "river.drift.datasets.uk_coal_employment": frozenset((
        "UKCoalEmploy",
    )),
    "river.drift.dummy": frozenset((
        "DummyDriftDetector",
    )),
    "river.drift.kswin": frozenset((
        "KSWIN",
    )),
    "river.drift.no_drift": frozenset((
        "NoDrift",
    )),
    "river.drift.page_hinkley": frozenset((
        "PageHinkley",
    )),
    "river.drift.retrain": frozenset((
        "DriftRetrainingClassifier",
    )),
    "river.dummy": frozenset((
        "NoChangeClassifier",
        "PriorClassifier",
        "StatisticRegressor",
    )),
    "river.ensemble.bagging": frozenset((
        "ADWINBaggingClassifier",
        "BaggingClassifier",
        "BaggingRegressor",
        "BaseBagging",
        "LeveragingBaggingClassifier",
    )),
    "river.ensemble.boosting": frozenset((
        "ADWINBoostingClassifier",
        "AdaBoostClassifier",
        "BOLEClassifier",
    )),
    "river.ensemble.ewa": frozenset((
        "EWARegressor",
    )),
    "river.ensemble.stacking": frozenset((
        "StackingClassifier",
    )),
    "river.ensemble.streaming_random_patches": frozenset((
        "BaseSRPClassifier",
        "BaseSRPEnsemble",
        "BaseSRPEstimator",
        "BaseSRPRegressor",
        "SRPClassifier",
        "SRPRegressor",
    )),
    "river.ensemble.voting": frozenset((
        "VotingClassifier",
    )),
    "river.facto.base": frozenset((
        "BaseFM",
    )),
    "river.facto.ffm": frozenset((
        "FFM",
        "FFMClassifier",
        "FFMRegressor",
    )),
    "river.facto.fm": frozenset((
        "FM",
        "FMClassifier",
        "FMRegressor",
    )),
    "river.facto.fwfm": frozenset((
        "FwFM",
        "FwFMClassifier",
        "FwFMRegressor",
    )),
    "river.facto.hofm": frozenset((
        "HOFM",
        "HOFMClassifier",
        "HOFMRegressor",
    )),
    "river.feature_extraction.agg": frozenset((
        "Agg",
        "TargetAgg",
    )),
    "river.feature_extraction.kernel_approx": frozenset((
        "RBFSampler",
        "RandomTreesEmbedding",
    )),
    "river.feature_extraction.poly": frozenset((
        "PolynomialExtender",
    )),
    "river.feature_extraction.vectorize": frozenset((
        "BagOfWords",
        "TFIDF",
        "VectorizerMixin",
    )),
    "river.feature_selection.k_best": frozenset((
        "SelectKBest",
    )),
    "river.feature_selection.random": frozenset((
        "PoissonInclusion",
    )),
    "river.feature_selection.variance": frozenset((
        "VarianceThreshold",
    )),
    "river.forest.adaptive_random_forest": frozenset((
        "ARFClassifier",
        "ARFRegressor",
        "BaseForest",
        "BaseTreeClassifier",
        "BaseTreeRegressor",
    )),
    "river.forest.aggregated_mondrian_forest": frozenset((
        "AMFClassifier",
        "AMFLearner",
        "AMFRegressor",
    )),
    "river.forest.online_extra_trees": frozenset((
        "BaggingSampler",
        "ConstantSampler",
        "ETRegressor",
        "ExtraTrees",
        "OXTRegressor",
        "Sampler",
        "SubBaggingSampler",
    )),
    "river.imblearn.chebyshev": frozenset((
        "ChebyshevOverSampler",
        "ChebyshevUnderSampler",
    )),
    "river.imblearn.hard_sampling": frozenset((
        "HardSampling",
        "HardSamplingClassifier",
        "HardSamplingRegressor",
        "Triplet",
    )),
    "river.imblearn.random": frozenset((
        "ClassificationSampler",
        "RandomOverSampler",
        "RandomSampler",
        "RandomUnderSampler",
    )),
    "river.linear_model.ad_predictor": frozenset((
        "AdPredictor",
    )),
    "river.linear_model.alma": frozenset((
        "ALMAClassifier",
    )),
    "river.linear_model.base": frozenset((
        "GLM",
    )),
    "river.linear_model.bayesian_lin_reg": frozenset((
        "BayesianLinearRegression",
    )),
    "river.linear_model.lin_reg": frozenset((
        "LinearRegression",
    )),
    "river.linear_model.log_reg": frozenset((
        "LogisticRegression",
    )),
    "river.linear_model.pa": frozenset((
        "BasePA",
        "PAClassifier",
        "PARegressor",
    )),
    "river.linear_model.perceptron": frozenset((
        "Perceptron",
    )),
    "river.linear_model.softmax": frozenset((
        "SoftmaxRegression",
    )),
    "river.metrics.accuracy": frozenset((
        "Accuracy",
    )),
    "river.metrics.balanced_accuracy": frozenset((
        "BalancedAccuracy",
    )),
    "river.metrics.base": frozenset((
        "BinaryMetric",
        "ClassificationMetric",
        "ClusteringMetric",
        "MeanMetric",
        "Metric",
        "Metrics",
        "MultiClassMetric",
        "RegressionMetric",
        "WrapperMetric",
    )),
    "river.metrics.confusion": frozenset((
        "ConfusionMatrix",
    )),
    "river.metrics.cross_entropy": frozenset((
        "CrossEntropy",
    )),
    "river.metrics.fbeta": frozenset((
        "F1",
        "FBeta",
        "MacroF1",
        "MacroFBeta",
        "MicroF1",
        "MicroFBeta",
        "MultiFBeta",
        "WeightedF1",
        "WeightedFBeta",
    )),
    "river.metrics.fowlkes_mallows": frozenset((
        "FowlkesMallows",
    )),
    "river.metrics.geometric_mean": frozenset((
        "GeometricMean",
    )),
    "river.metrics.jaccard": frozenset((
        "Jaccard",
        "MacroJaccard",
        "MicroJaccard",
        "WeightedJaccard",
    )),
    "river.metrics.kappa": frozenset((
        "CohenKappa",
    )),
    "river.metrics.log_loss": frozenset((
        "LogLoss",
    )),
    "river.metrics.mae": frozenset((
        "MAE",
    )),
    "river.metrics.mape": frozenset((
        "MAPE",
    )),
    "river.metrics.mcc": frozenset((
        "MCC",
    )),
    "river.metrics.mse": frozenset((
        "MSE",
        "RMSE",
        "RMSLE",
    )),
    "river.metrics.multioutput.base": frozenset((
        "MultiOutputClassificationMetric",
        "MultiOutputMetric",
        "MultiOutputRegressionMetric",
    )),
    "river.metrics.multioutput.confusion": frozenset((
        "MultiLabelConfusionMatrix",
    )),
    "river.metrics.multioutput.exact_match": frozenset((
        "ExactMatch",
    )),
    "river.metrics.multioutput.macro": frozenset((
        "MacroAverage",
    )),
    "river.metrics.multioutput.micro": frozenset((
        "MicroAverage",
    )),
    "river.metrics.multioutput.per_output": frozenset((
        "PerOutput",
    )),
    "river.metrics.multioutput.sample_average": frozenset((
        "SampleAverage",
    )),
    "river.metrics.mutual_info": frozenset((
        "AdjustedMutualInfo",
        "MutualInfo",
        "NormalizedMutualInfo",
    )),
    "river.metrics.precision": frozenset((
        "MacroPrecision",
        "MicroPrecision",
        "Precision",
        "WeightedPrecision",
    )),
    "river.metrics.r2": frozenset((
        "R2",
    )),
    "river.metrics.rand": frozenset((
        "AdjustedRand",
        "Rand",
    )),
    "river.metrics.recall": frozenset((
        "MacroRecall",
        "MicroRecall",
        "Recall",
        "WeightedRecall",
    )),
    "river.metrics.report": frozenset((
        "ClassificationReport",
    )),
    "river.metrics.roc_auc": frozenset((
        "ROCAUC",
    )),
    "river.metrics.rolling_pr_auc": frozenset((
        "RollingPRAUC",
    )),
    "river.metrics.rolling_roc_auc": frozenset((
        "RollingROCAUC",
    )),
    "river.metrics.silhouette": frozenset((
        "Silhouette",
    )),
    "river.metrics.smape": frozenset((
        "SMAPE",
    )),
    "river.metrics.vbeta": frozenset((
        "Completeness",
        "Homogeneity",
        "VBeta",
    )),
    "river.model_selection.bandit": frozenset((
        "BanditClassifier",
        "BanditModelSection",
        "BanditRegressor",
    )),
    "river.model_selection.base": frozenset((
        "ModelSelectionClassifier",
        "ModelSelectionRegressor",
        "ModelSelector",
    )),
    "river.model_selection.greedy": frozenset((
        "GreedyRegressor",
    )),
    "river.model_selection.sh": frozenset((
        "SuccessiveHalving",
        "SuccessiveHalvingClassifier",
        "SuccessiveHalvingRegressor",
    )),
    "river.multiclass.occ": frozenset((
        "OutputCodeClassifier",
    )),
    "river.multiclass.ovo": frozenset((
        "OneVsOneClassifier",
    )),
    "river.multiclass.ovr": frozenset((
        "OneVsRestClassifier",
    )),
    "river.naive_bayes.base": frozenset((
        "BaseNB",
    )),
    "river.naive_bayes.bernoulli": frozenset((
        "BernoulliNB",
    )),
    "river.naive_bayes.complement": frozenset((
        "ComplementNB",
    )),
    "river.naive_bayes.gaussian": frozenset((
        "GaussianNB",
    )),
    "river.naive_bayes.multinomial": frozenset((
        "MultinomialNB",
    )),
    "river.neighbors.ann.nn_vertex": frozenset((
        "Vertex",
    )),
    "river.neighbors.ann.swinn": frozenset((
        "SWINN",
    )),
    "river.neighbors.base": frozenset((
        "BaseNN",
        "DistanceFunc",
        "FunctionWrapper",
    )),
    "river.neighbors.knn_classifier": frozenset((
        "KNNClassifier",
    )),
    "river.neighbors.knn_regressor": frozenset((
        "KNNRegressor",
    )),
    "river.neighbors.lazy": frozenset((
        "LazySearch",
    )),
    "river.optim.ada_bound": frozenset((
        "AdaBound",
    )),
    "river.optim.ada_delta": frozenset((
        "AdaDelta",
    )),
    "river.optim.ada_grad": frozenset((
        "AdaGrad",
    )),
    "river.optim.ada_max": frozenset((
        "AdaMax",
    )),
    "river.optim.adam": frozenset((
        "Adam",
    )),
    "river.optim.ams_grad": frozenset((
        "AMSGrad",
    )),
    "river.optim.average": frozenset((
        "Averager",
    )),
    "river.optim.base": frozenset((
        "Initializer",
        "Loss",
        "Optimizer",
        "Scheduler",
    )),
    "river.optim.ftrl": frozenset((
        "FTRLProximal",
    )),
    "river.optim.initializers": frozenset((
        "Constant",
        "Normal",
        "Zeros",
    )),
    "river.optim.losses": frozenset((
        "Absolute",
        "BinaryFocalLoss",
        "BinaryLoss",
        "Cauchy",
        "CrossEntropy",
        "EpsilonInsensitiveHinge",
        "Hinge",
        "Huber",
        "Log",
        "MultiClassLoss",
        "Poisson",
        "Quantile",
        "RegressionLoss",
        "Squared",
    )),
    "river.optim.momentum": frozenset((
        "Momentum",
    )),
    "river.optim.nadam": frozenset((
        "Nadam",
    )),
    "river.optim.nesterov": frozenset((
        "NesterovMomentum",
    )),
    "river.optim.newton": frozenset((
        "Newton",
    )),
    "river.optim.rms_prop": frozenset((
        "RMSProp",
    )),
    "river.optim.schedulers": frozenset((
        "Constant",
        "InverseScaling",
        "Optimal",
    )),
    "river.optim.sgd": frozenset((
        "SGD",
    )),
    "river.preprocessing.feature_hasher": frozenset((
        "FeatureHasher",
    )),
    "river.preprocessing.gap_encoder": frozenset((
        "GapEncoder",
    )),
    "river.preprocessing.impute": frozenset((
        "Constant",
        "PreviousImputer",
        "StatImputer",
    )),
    "river.preprocessing.lda": frozenset((
        "LDA",
    )),
    "river.preprocessing.one_hot": frozenset((
        "OneHotEncoder",
    )),
    "river.preprocessing.ordinal": frozenset((
        "OrdinalEncoder",
    )),
    "river.preprocessing.pred_clipper": frozenset((
        "PredClipper",
    )),
    "river.preprocessing.random_projection": frozenset((
        "GaussianRandomProjector",
        "SparseRandomProjector",
    )),
    "river.preprocessing.scale": frozenset((
        "AdaptiveStandardScaler",
        "Binarizer",
        "MaxAbsScaler",
        "MinMaxScaler",
        "Normalizer",
        "RobustScaler",
        "StandardScaler",
    )),
    "river.preprocessing.scale_target": frozenset((
        "TargetMinMaxScaler",
        "TargetStandardScaler",
    )),
    "river.proba.base": frozenset((
        "BinaryDistribution",
        "ContinuousDistribution",
        "DiscreteDistribution",
        "Distribution",
        "MultivariateContinuousDistribution",
    )),
    "river.proba.beta": frozenset((
        "Beta",
    )),
    "river.proba.gaussian": frozenset((
        "Gaussian",
        "MultivariateGaussian",
    )),
    "river.proba.multinomial": frozenset((
        "Multinomial",
    )),
    "river.rules.amrules": frozenset((
        "AMRules",
        "AdaptiveRegressor",
        "MeanRegressor",
        "RegRule",
    )),
    "river.rules.base": frozenset((
        "HoeffdingRule",
        "Literal",
        "NominalLiteral",
        "NumericLiteral",
    )),
    "river.sketch.counter": frozenset((
        "Counter",
    )),
    "river.sketch.heavy_hitters": frozenset((
        "HeavyHitters",
    )),
    "river.sketch.histogram": frozenset((
        "Bin",
        "Histogram",
    )),
    "river.sketch.n_unique": frozenset((
        "NUnique",
    )),
    "river.sketch.set": frozenset((
        "Set",
    )),
    "river.stats.auto_corr": frozenset((
        "AutoCorr",
    )),
    "river.stats.base": frozenset((
        "Bivariate",
        "Link",
        "RollingUnivariate",
        "Statistic",
        "Univariate",
    )),
    "river.stats.chi_squared": frozenset((
        "ChiSquared",
    )),
    "river.stats.count": frozenset((
        "Count",
    )),
    "river.stats.cov": frozenset((
        "Cov",
    )),
    "river.stats.entropy": frozenset((
        "Entropy",
    )),
    "river.stats.ewcov": frozenset((
        "EWCov",
    )),
    "river.stats.ewmean": frozenset((
        "EWMean",
    )),
    "river.stats.ewvar": frozenset((
        "EWVar",
    )),
    "river.stats.iqr": frozenset((
        "IQR",
        "RollingIQR",
    )),
    "river.stats.kolmogorov_smirnov": frozenset((
        "KolmogorovSmirnov",
        "_Node",
    )),
    "river.stats.kurtosis": frozenset((
        "Kurtosis",
    )),
    "river.stats.mad": frozenset((
        "MAD",
    )),
    "river.stats.maximum": frozenset((
        "AbsMax",
        "Max",
        "RollingAbsMax",
        "RollingMax",
    )),
    "river.stats.mean": frozenset((
        "BayesianMean",
        "Mean",
    )),
    "river.stats.minimum": frozenset((
        "Min",
        "RollingMin",
    )),
    "river.stats.mode": frozenset((
        "Mode",
        "RollingMode",
    )),
    "river.stats.pearson": frozenset((
        "PearsonCorr",
    )),
    "river.stats.ptp": frozenset((
        "PeakToPeak",
        "RollingPeakToPeak",
    )),
    "river.stats.quantile": frozenset((
        "Quantile",
        "RollingQuantile",
    )),
    "river.stats.sem": frozenset((
        "SEM",
    )),
    "river.stats.shift": frozenset((
        "Shift",
    )),
    "river.stats.skew": frozenset((
        "Skew",
    )),
    "river.stats.summing": frozenset((
        "Sum",
    )),
    "river.stats.var": frozenset((
        "Var",
    )),
    "river.tree.base": frozenset((
        "Branch",
        "Leaf",
    )),
    "river.tree.extremely_fast_decision_tree": frozenset((
        "ExtremelyFastDecisionTreeClassifier",
    )),
    "river.tree.hoeffding_adaptive_tree_classifier": frozenset((
        "HoeffdingAdaptiveTreeClassifier",
    )),
    "river.tree.hoeffding_adaptive_tree_regressor": frozenset((
        "HoeffdingAdaptiveTreeRegressor",
    )),
    "river.tree.hoeffding_tree": frozenset((
        "HoeffdingTree",
    )),
    "river.tree.hoeffding_tree_classifier": frozenset((
        "HoeffdingTreeClassifier",
    )),
    "river.tree.hoeffding_tree_regressor": frozenset((
        "HoeffdingTreeRegressor",
    )),
    "river.tree.isoup_tree_regressor": frozenset((
        "ISOUPTreeRegressor",
    )),
    "river.tree.last_classifier": frozenset((
        "LASTClassifier",
    )),
    "river.tree.losses": frozenset((
        "BinaryCrossEntropyLoss",
        "Loss",
        "SquaredErrorLoss",
    )),
    "river.tree.mondrian.mondrian_tree": frozenset((
        "MondrianTree",
    )),
    "river.tree.mondrian.mondrian_tree_classifier": frozenset((
        "MondrianTreeClassifier",
    )),
    "river.tree.mondrian.mondrian_tree_nodes": frozenset((
        "MondrianBranch",
        "MondrianBranchClassifier",
        "MondrianBranchRegressor",
        "MondrianLeaf",
        "MondrianLeafClassifier",
        "MondrianLeafRegressor",
        "MondrianNode",
        "MondrianNodeClassifier",
        "MondrianNodeRegressor",
    )),
    "river.tree.mondrian.mondrian_tree_regressor": frozenset((
        "MondrianTreeRegressor",
    )),
    "river.tree.nodes.arf_htc_nodes": frozenset((
        "BaseRandomLeaf",
        "RandomLeafMajorityClass",
        "RandomLeafNaiveBayes",
        "RandomLeafNaiveBayesAdaptive",
    )),
    "river.tree.nodes.arf_htr_nodes": frozenset((
        "RandomLeafAdaptive",
        "RandomLeafMean",
        "RandomLeafModel",
    )),
    "river.tree.nodes.branch": frozenset((
        "DTBranch",
        "NominalBinaryBranch",
        "NominalMultiwayBranch",
        "NumericBinaryBranch",
        "NumericMultiwayBranch",
    )),
    "river.tree.nodes.efdtc_nodes": frozenset((
        "BaseEFDTBranch",
        "BaseEFDTLeaf",
        "EFDTLeafMajorityClass",
        "EFDTLeafNaiveBayes",
        "EFDTLeafNaiveBayesAdaptive",
        "EFDTNominalBinaryBranch",
        "EFDTNominalMultiwayBranch",
        "EFDTNumericBinaryBranch",
        "EFDTNumericMultiwayBranch",
    )),
    "river.tree.nodes.et_nodes": frozenset((
        "ETLeaf",
        "ETLeafAdaptive",
        "ETLeafMean",
        "ETLeafModel",
    )),
    "river.tree.nodes.hatc_nodes": frozenset((
        "AdaBranchClassifier",
        "AdaLeafClassifier",
        "AdaNomBinaryBranchClass",
        "AdaNomMultiwayBranchClass",
        "AdaNumBinaryBranchClass",
        "AdaNumMultiwayBranchClass",
    )),
    "river.tree.nodes.hatr_nodes": frozenset((
        "AdaBranchRegressor",
        "AdaLeafRegAdaptive",
        "AdaLeafRegMean",
        "AdaLeafRegModel",
        "AdaLeafRegressor",
        "AdaNomBinaryBranchReg",
        "AdaNomMultiwayBranchReg",
        "AdaNumBinaryBranchReg",
        "AdaNumMultiwayBranchReg",
    )),
    "river.tree.nodes.htc_nodes": frozenset((
        "LeafMajorityClass",
        "LeafNaiveBayes",
        "LeafNaiveBayesAdaptive",
    )),
    "river.tree.nodes.htr_nodes": frozenset((
        "LeafAdaptive",
        "LeafMean",
        "LeafModel",
    )),
    "river.tree.nodes.isouptr_nodes": frozenset((
        "LeafAdaptiveMultiTarget",
        "LeafMeanMultiTarget",
        "LeafModelMultiTarget",
    )),
    "river.tree.nodes.last_nodes": frozenset((
        "LeafMajorityClassWithDetector",
        "LeafNaiveBayesAdaptiveWithDetector",
        "LeafNaiveBayesWithDetector",
    )),
    "river.tree.nodes.leaf": frozenset((
        "HTLeaf",
    )),
    "river.tree.nodes.sgt_nodes": frozenset((
        "SGTLeaf",
    )),
    "river.tree.padded": frozenset((
        "PaddedBranch",
        "PaddedLeaf",
    )),
    "river.tree.split_criterion.base": frozenset((
        "SplitCriterion",
    )),
    "river.tree.split_criterion.gini_split_criterion": frozenset((
        "GiniSplitCriterion",
    )),
    "river.tree.split_criterion.hellinger_distance_criterion": frozenset((
        "HellingerDistanceCriterion",
    )),
    "river.tree.split_criterion.info_gain_split_criterion": frozenset((
        "InfoGainSplitCriterion",
    )),
    "river.tree.split_criterion.intra_cluster_variance_reduction_split_criterion": frozenset((
        "IntraClusterVarianceReductionSplitCriterion",
    )),
    "river.tree.split_criterion.variance_ratio_split_criterion": frozenset((
        "VarianceRatioSplitCriterion",
    )),
    "river.tree.split_criterion.variance_reduction_split_criterion": frozenset((
        "VarianceReductionSplitCriterion",
    )),
    "river.tree.splitter.base": frozenset((
        "Quantizer",
        "Splitter",
    )),
    "river.tree.splitter.ebst_splitter": frozenset((
        "EBSTNode",
        "EBSTSplitter",
    )),
    "river.tree.splitter.exhaustive_splitter": frozenset((
        "ExhaustiveNode",
        "ExhaustiveSplitter",
    )),
    "river.tree.splitter.gaussian_splitter": frozenset((
        "GaussianSplitter",
    )),
    "river.tree.splitter.histogram_splitter": frozenset((
        "HistogramSplitter",
    )),
    "river.tree.splitter.nominal_splitter_classif": frozenset((
        "NominalSplitterClassif",
    )),
    "river.tree.splitter.nominal_splitter_reg": frozenset((
        "NominalSplitterReg",
    )),
    "river.tree.splitter.qo_splitter": frozenset((
        "FeatureQuantizer",
        "QOSplitter",
        "Slot",
    )),
    "river.tree.splitter.random_splitter": frozenset((
        "RandomSplitter",
        "RegRandomSplitter",
    )),
    "river.tree.splitter.sgt_quantizer": frozenset((
        "DynamicQuantizer",
        "StaticQuantizer",
    )),
    "river.tree.splitter.tebst_splitter": frozenset((
        "TEBSTSplitter",
    )),
    "river.tree.stochastic_gradient_tree": frozenset((
        "SGTClassifier",
        "SGTRegressor",
        "StochasticGradientTree",
    )),
    "river.tree.utils": frozenset((
        "BranchFactory",
        "GradHess",
        "GradHessMerit",
        "GradHessStats",
    )),
    "river.utils.rolling": frozenset((
        "BaseRolling",
        "Rollable",
        "Rolling",
        "TimeRolling",
    )),
    "river.utils.sorted_window": frozenset((
        "SortedWindow",
    )),
}
# fmt: on
