"""How much power will a district draw in this hour? Meters are read a day late, and heat pumps change what cold means."""

from river import compose, linear_model, optim, preprocessing

from stream import Labels, Pipeline, number


def build(params):
    weather = compose.Select("cold", "heat", "last_known") | preprocessing.StandardScaler()
    clock = compose.Select("hour", "weekend") | preprocessing.OneHotEncoder()
    model = (weather + clock) | linear_model.LinearRegression(
        optim.SGD(params["learning_rate"]), intercept_lr=params["learning_rate"], clip_gradient=100
    )
    return preprocessing.TargetStandardScaler(regressor=model)


pipeline = Pipeline(
    name="energy",
    task="regression",
    features={
        "cold": number(low=0, high=40),  # degrees below 15
        "heat": number(low=0, high=30),  # degrees above 22
        "hour": str,
        "weekend": bool,
        "last_known": number(low=0, high=2_000),  # MW two days before, the newest that was read
        "district": str,
    },
    model=build,
    params={"learning_rate": 0.01},
    labels=Labels(wait="3d"),
    segments=("district",),
)
