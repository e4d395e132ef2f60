"""The second of three pipelines on one stream: naive Bayes, without the courier's history."""

from river import naive_bayes

from stream import Labels, Pipeline, number


def build(params):
    return naive_bayes.GaussianNB()


pipeline = Pipeline(
    name="parcels-bayes",
    reads="parcels",
    task="binary",
    features={"distance_km": number(low=0, high=100), "weight_kg": number(low=0, high=100), "bike": bool},
    model=build,
    labels=Labels(wait="3d"),
)
