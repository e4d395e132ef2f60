"""Is this sensor reading of a space shuttle strange? River's Shuttle: 7 % anomalies, learned without their labels."""

from river import anomaly, preprocessing

from stream import Labels, Pipeline


def build(params):
    detector = preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(n_trees=15, height=8, seed=params["seed"])
    # What lies above the quantile is flagged, and not learned as if it were normal.
    return anomaly.QuantileFilter(detector, q=0.93)


pipeline = Pipeline(
    name="shuttle",
    task="anomaly",
    features={f"f{number}": int for number in range(1, 10)},
    model=build,
    labels=Labels(wait="1h"),
)
