"""Is this card payment fraud? Labels come days later, and the fraudsters change their ways."""

from river import compose, linear_model, optim, preprocessing

from stream import Labels, Pipeline, entity, number


def build(params):
    numbers = compose.Select(
        "amount", "hour", "count_1h", "amount_sum_1h", "amount_mean_7d", "merchant_distinct_1d", "seconds_since_last"
    )
    kinds = compose.Select("merchant_type", "channel", "country")
    return (
        (numbers | preprocessing.StandardScaler()) + (kinds | preprocessing.OneHotEncoder())
    ) | linear_model.LogisticRegression(optim.SGD(params["learning_rate"]))


pipeline = Pipeline(
    name="payments",
    task="binary",
    features={
        "amount": number(low=0, high=5_000),
        "merchant": str,
        "merchant_type": str,
        "country": str,
        "channel": str,
        "hour": int,
    },
    entity_features=[
        entity.count("1h"),
        entity.sum("amount", "1h"),
        entity.mean("amount", "7d"),
        entity.distinct("merchant", "1d"),
        entity.seconds_since_last(default=2_592_000),
    ],
    model=build,
    params={"learning_rate": 0.05},
    labels=Labels(wait="7d"),
    threshold=0.3,
    segments=("channel",),
)
