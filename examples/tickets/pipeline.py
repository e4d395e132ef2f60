"""To which team does a support ticket go? In the middle of the stream a team appears that nobody has declared."""

from river import tree

from stream import Labels, Pipeline


def build(params):
    return tree.HoeffdingAdaptiveTreeClassifier(
        grace_period=params["grace_period"],
        leaf_prediction="nb",
        nominal_attributes=["product", "topic", "tone", "language"],
        max_share_to_split=1.0,
        seed=params["seed"],
    )


pipeline = Pipeline(
    name="tickets",
    task="multiclass",
    features={"product": str, "topic": str, "tone": str, "language": str},
    model=build,
    params={"grace_period": 100},
    labels=Labels(wait="2d"),  # no `classes`: any label is taken
)
