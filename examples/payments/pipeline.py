"""Is this card payment fraud? Labels come days later, and the fraudsters change their ways."""

from river import compose, linear_model, optim, preprocessing

from stream import Labels, Pipeline, Retrain, Rollout, entity, number, search_space
from stream.boosting import BoostedClassifier


def build(params):
    if params["family"] == "boosted":  # trained in batch; the layer on top keeps learning
        return BoostedClassifier(trees=params["trees"], leaves=15, online_layer=True, seed=params["seed"])
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
    params={"family": "online", "learning_rate": 0.05, "trees": 60},
    search_space={
        "family": search_space.choice("online", "boosted"),
        "learning_rate": search_space.number(0.005, 0.5, log=True),
        "trees": search_space.whole(20, 100),
    },
    retrain=Retrain(follow_ups=(4_000, 12_000, 40_000), trials=16, window_max=40_000),
    rollout=Rollout(shadow_labels=1_000, shares=(0.1, 0.5), share_labels=1_000, probation_labels=3_000),
    labels=Labels(wait="7d"),
    threshold=0.3,
    segments=("channel",),
)
