"""How much water will flow this hour? River's WaterFlow; yesterday's flow comes as a label a day late."""

from river import compose, linear_model, optim, preprocessing

from stream import Labels, Pipeline


def build(params):
    return (compose.Select("hour", "weekday") | preprocessing.OneHotEncoder()) | linear_model.LinearRegression(
        optim.SGD(params["learning_rate"]), intercept_lr=0.03, clip_gradient=50
    )


pipeline = Pipeline(
    name="water_flow",
    task="regression",
    features={"hour": int, "weekday": int, "month": int},
    model=build,
    params={"learning_rate": 0.03},
    labels=Labels(wait="7d"),
)
