"""The third of three pipelines on one stream: a tree, which finds that weight matters by bike and distance by van."""

from river import tree

from stream import Labels, Pipeline, number


def build(params):
    return tree.HoeffdingAdaptiveTreeClassifier(
        grace_period=params["grace_period"], max_share_to_split=1.0, seed=params["seed"]
    )


pipeline = Pipeline(
    name="parcels-trees",
    reads="parcels",
    task="binary",
    features={"distance_km": number(low=0, high=100), "weight_kg": number(low=0, high=100), "bike": bool},
    model=build,
    params={"grace_period": 100},
    labels=Labels(wait="3d"),
)
