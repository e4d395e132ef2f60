"""Is this pump about to fail? Learned without labels; a technician's word comes days later and is only for the figures."""

from river import anomaly, compose, preprocessing

from stream import Labels, Pipeline, entity, number


def build(params):
    watched = compose.Select("vibration", "temperature", "current", "vibration_mean_6h")
    detector = watched | preprocessing.MinMaxScaler() | anomaly.HalfSpaceTrees(
        n_trees=25, height=6, window_size=500, seed=params["seed"]
    )  # fmt: skip
    # What lies above the quantile is flagged, and not learned as if it were normal.
    return anomaly.QuantileFilter(detector, q=params["quantile"])


pipeline = Pipeline(
    name="pumps",
    task="anomaly",
    features={
        "vibration": number(low=0, high=100),  # mm/s
        "temperature": number(low=-20, high=200),  # of the bearing, degrees Celsius
        "current": number(low=0, high=100),  # A
    },
    entity_features=[entity.mean("vibration", "6h")],
    model=build,
    params={"quantile": 0.97},
    labels=Labels(wait="3d", missing="default", default=False),  # nobody writes down that a pump is well
)
