"""Will this parcel come late? The first of three pipelines on one stream: a line. The others read its events and labels."""

from river import linear_model, optim, preprocessing

from stream import Labels, Pipeline, entity, number


def build(params):
    return preprocessing.StandardScaler() | linear_model.LogisticRegression(optim.SGD(params["learning_rate"]))


pipeline = Pipeline(
    name="parcels",
    task="binary",
    features={"distance_km": number(low=0, high=100), "weight_kg": number(low=0, high=100), "bike": bool},
    entity_features=[entity.count("1h")],
    model=build,
    params={"learning_rate": 0.05},
    labels=Labels(wait="3d"),
)
